"""Whose sockets these are. What for: _sockets.pxd."""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, strtoull
from libc.string cimport memcmp, memcpy, memset, strncmp


cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, AF_INET6, AF_NETLINK, SOCK_RAW, SOCK_CLOEXEC
    int socket(int domain, int kind, int protocol)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t recv(int fd, void *data, size_t length, int flags)
    struct timeval:
        long tv_sec
        long tv_usec
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)
    int SOL_SOCKET, SO_RCVTIMEO

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<linux/netlink.h>" nogil:
    int NLM_F_REQUEST, NETLINK_SOCK_DIAG

cdef extern from "<linux/sock_diag.h>" nogil:
    int SOCK_DIAG_BY_FAMILY

cdef extern from "<fcntl.h>" nogil:
    int O_RDONLY, O_DIRECTORY, O_CLOEXEC
    int open(const char *path, int flags)

cdef extern from "<dirent.h>" nogil:
    struct dirent64:
        int64_t d_off
        unsigned short d_reclen
        char d_name[256]
    ssize_t getdents64(int fd, void *entries, size_t room)

cdef extern from "<unistd.h>" nogil:
    int SEEK_SET
    int close(int fd)
    int64_t lseek64(int fd, int64_t offset, int whence)
    ssize_t readlinkat(int directory, const char *path, char *text, size_t room)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t room, const char *pattern, ...)

cdef enum:
    KEY_BYTES = 36       # of _stream_text.SocketKey
    AT_ONCE = 64         # questions, whose answers fit into the socket's buffer
    ANSWER_BYTES = 8192
    PATIENCE_S = 2
    MOST_GOES = 1 << 24
    NAMES_BYTES = 8192   # some 300 descriptors of a process, read in one go: to list one costs more than its link


def find_inodes(bytes keys not None):
    """The inode of each socket whose ends are a `SocketKey`, in our network namespace; 0: there is none. OSError: the
    kernel does not say.
    """
    cdef Py_ssize_t count = len(keys) // KEY_BYTES, first
    cdef const uint8_t *data = <const uint8_t *><const char *>keys
    cdef list found = [0] * count
    cdef timeval patience
    cdef int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    if fd < 0:
        raise OSError(errno, "no answers about sockets")
    try:
        patience.tv_sec, patience.tv_usec = PATIENCE_S, 0
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience))
        for first in range(0, count, AT_ONCE):
            ask_some(fd, data, first, min(count, first + AT_ONCE), found)
    finally:
        close(fd)
    return found


cdef ask_some(int fd, const uint8_t *keys, Py_ssize_t first, Py_ssize_t end, list found):
    """Each question has one answer, by its number."""
    cdef SocketQuestion questions[AT_ONCE]
    cdef uint8_t answer[ANSWER_BYTES]
    cdef Py_ssize_t number, waiting = end - first
    cdef nlmsghdr head
    cdef inet_diag_msg *told
    cdef uint8_t *at
    cdef ssize_t got
    for number in range(first, end):
        make_question(&questions[number - first], &keys[number * KEY_BYTES], <uint32_t>number)
    if send(fd, questions, waiting * sizeof(SocketQuestion), 0) < 0:
        raise OSError(errno, "no answers about sockets")
    while waiting > 0:
        got = recv(fd, answer, ANSWER_BYTES, 0)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            raise OSError(errno, "no answers about sockets")
        at = answer
        while got >= <ssize_t>sizeof(nlmsghdr):
            memcpy(&head, at, sizeof(head))
            if not sizeof(nlmsghdr) <= head.nlmsg_len <= <size_t>got:
                break
            number = head.nlmsg_seq
            waiting -= 1
            if (head.nlmsg_type == SOCK_DIAG_BY_FAMILY and first <= number < end
                    and head.nlmsg_len >= sizeof(nlmsghdr) + sizeof(inet_diag_msg)):
                told = <inet_diag_msg *>(at + sizeof(nlmsghdr))
                if is_that(told, &keys[number * KEY_BYTES]):
                    found[number] = told.idiag_inode
            at += (head.nlmsg_len + 3) & ~3
            got -= (head.nlmsg_len + 3) & ~3


cdef bint is_mapped(const uint8_t *address) noexcept nogil:
    return memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef void make_question(SocketQuestion *question, const uint8_t *key, uint32_t number) noexcept nogil:
    cdef inet_diag_sockid *ends = &question.about.id
    memset(question, 0, sizeof(SocketQuestion))
    question.head.nlmsg_len = sizeof(SocketQuestion)
    question.head.nlmsg_type = SOCK_DIAG_BY_FAMILY
    question.head.nlmsg_flags = NLM_F_REQUEST
    question.head.nlmsg_seq = number
    question.about.sdiag_protocol = IPPROTO_TCP
    question.about.idiag_states = 0xffffffff
    ends.idiag_cookie[0] = ends.idiag_cookie[1] = 0xffffffff
    memcpy(&ends.idiag_sport, key + 32, 2)
    memcpy(&ends.idiag_dport, key + 34, 2)
    if is_mapped(key):
        question.about.sdiag_family = AF_INET
        memcpy(ends.idiag_src, key + 12, 4)
        memcpy(ends.idiag_dst, key + 28, 4)
    else:
        question.about.sdiag_family = AF_INET6
        memcpy(ends.idiag_src, key, 16)
        memcpy(ends.idiag_dst, key + 16, 16)


cdef bint is_that(const inet_diag_msg *told, const uint8_t *key) noexcept nogil:
    """Whether the kernel means that socket: where there is none it may tell of who listens there."""
    cdef bint short = told.idiag_family == AF_INET and is_mapped(key)
    cdef int skipped = 12 if short else 0
    return (memcmp(&told.id.idiag_sport, key + 32, 2) == 0 and memcmp(&told.id.idiag_dport, key + 34, 2) == 0
            and memcmp(told.id.idiag_src, key + skipped, 16 - skipped) == 0
            and memcmp(told.id.idiag_dst, key + 16 + skipped, 16 - skipped) == 0)


def find_processes(inodes not None, processes not None):
    """The process that has each socket, of those that are named, looked at in that order; 0: none that can be seen.
    What a process has beyond its first few hundred descriptors is looked at when all have been looked into."""
    cdef Py_ssize_t count = len(inodes), left = 0, i
    cdef int64_t at
    cdef int goes
    cdef size_t room = 16
    cdef SoughtSocket *slots
    cdef SoughtSocket *slot
    cdef uint32_t process
    cdef list found = [0] * count
    while room < <size_t>(2 * count):
        room *= 2
    slots = <SoughtSocket *>calloc(room, sizeof(SoughtSocket))
    if slots == NULL:
        raise MemoryError
    try:
        for i in range(count):
            slot = slot_of(slots, room, inodes[i])
            if inodes[i] and slot.inode == 0:
                slot.inode = inodes[i]
                left += 1
        waiting = [(process, 0) for process in processes]
        for goes in (1, MOST_GOES):
            larger = []
            for process, at in waiting:
                if left == 0:
                    break
                with nogil:
                    left -= look_into(process, &at, goes, slots, room, left)
                if at > 0:
                    larger.append((process, at))
            waiting = larger
        for i in range(count):
            if inodes[i]:
                found[i] = slot_of(slots, room, inodes[i]).process
        return found
    finally:
        free(slots)


cdef SoughtSocket *slot_of(SoughtSocket *slots, size_t room, uint64_t inode) noexcept nogil:
    """Where it is, or would be."""
    cdef size_t at = (inode * <uint64_t>0x9E3779B97F4A7C15) >> 20 & (room - 1)
    while slots[at].inode != 0 and slots[at].inode != inode:
        at = (at + 1) & (room - 1)
    return &slots[at]


cdef Py_ssize_t look_into(uint32_t process, int64_t *at, int goes, SoughtSocket *slots, size_t room,
                          Py_ssize_t left) noexcept nogil:
    """How many of the `left` sockets it has among the descriptors that so many goes at their list name, from `at` on,
    which is then where the list goes on; 0: it is at its end. A process may have gone, or be not ours to look into."""
    cdef char text[64]
    cdef char names[NAMES_BYTES]
    cdef dirent64 *entry
    cdef SoughtSocket *slot
    cdef ssize_t listed, length
    cdef Py_ssize_t found = 0, begin
    cdef int64_t first = at[0]
    cdef int fd
    at[0] = 0
    snprintf(text, sizeof(text), "/proc/%u/fd", process)
    fd = open(text, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if fd < 0:
        return 0
    if first > 0:
        lseek64(fd, first, SEEK_SET)
    while goes > 0 and found < left:
        goes -= 1
        listed = getdents64(fd, names, sizeof(names))
        at[0] = 0
        begin = 0
        while begin < listed and found < left:
            entry = <dirent64 *>&names[begin]
            at[0] = entry.d_off
            begin += entry.d_reclen
            length = readlinkat(fd, entry.d_name, text, sizeof(text) - 1)
            if length > 8 and strncmp(text, "socket:[", 8) == 0:
                text[length] = 0
                slot = slot_of(slots, room, strtoull(text + 8, NULL, 10))
                if slot.inode != 0 and slot.process == 0:
                    slot.process = process
                    found += 1
        if listed <= 0:
            break
    close(fd)
    return found
