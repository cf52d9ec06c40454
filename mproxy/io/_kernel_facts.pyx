"""Asking the kernel what was done on a connection: _kernel_facts.pxd."""

from libc.errno cimport EINTR, errno
from libc.stddef cimport size_t
from libc.string cimport memset

from mproxy._ring cimport iovec
from mproxy.ground._sockaddr cimport AF_INET, AF_INET6, socklen_t


cdef extern from "<linux/tcp.h>" nogil:  # not <netinet/tcp.h>, which knows the older fields only
    int TCP_INFO, TCP_INQ, TCP_CM_INQ, TCPI_OPT_SYN_DATA
    struct tcp_info:
        uint8_t tcpi_state
        uint8_t tcpi_options
        uint64_t tcpi_bytes_acked
        uint64_t tcpi_bytes_received

cdef extern from "<linux/sockios.h>" nogil:
    int SIOCINQ, SIOCOUTQ

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, void *argument)

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
    struct cmsghdr:
        int cmsg_level
        int cmsg_type
    int IPPROTO_TCP, SOL_SOCKET, SOCK_STREAM, MSG_DONTWAIT, MSG_PEEK
    int SO_ACCEPTCONN, SO_DOMAIN, SO_OOBINLINE, SO_PROTOCOL, SO_TYPE
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
    long recvmsg(int fd, msghdr *message, int flags)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    void *CMSG_DATA(cmsghdr *control)

cdef enum:
    MOST_LOOKS = 1000     # while nobody reads the connection its window fills, and then the numbers stand still


cdef void ask_kernel(int fd, KernelFacts *facts) noexcept nogil:
    """Fill `facts` for the descriptor. An error of the connection may be fetched by that (BROKEN says enough)."""
    memset(facts, 0, sizeof(facts[0]))
    facts.is_connection = option_of(fd, SO_TYPE) == SOCK_STREAM and option_of(fd, SO_ACCEPTCONN) == 0
    if not facts.is_connection or not is_plain_tcp(fd) or not look(fd, facts):
        return
    if facts.tcp_state == TcpState.CLOSE:
        facts.is_counted = ask_whether_ended(fd, facts)
    else:
        facts.is_counted = True
        facts.peer_ended = facts.tcp_state in (
            TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING, TcpState.TIME_WAIT)


cdef int option_of(int fd, int name) noexcept nogil:
    """A socket option of SOL_SOCKET; -1 when it cannot be had."""
    cdef int value = -1
    cdef socklen_t length = sizeof(value)
    return value if getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 else -1


cdef bint is_plain_tcp(int fd) noexcept nogil:
    """Whether it is a TCP connection (not MPTCP, not SMC) whose urgent bytes are in the stream: else each is one byte
    less than is counted."""
    cdef int family = option_of(fd, SO_DOMAIN)
    return (family == AF_INET or family == AF_INET6) and option_of(fd, SO_PROTOCOL) == IPPROTO_TCP and (
        option_of(fd, SO_OOBINLINE) == 1)


cdef bint look(int fd, KernelFacts *facts) noexcept nogil:
    """Get all numbers of one moment: between two looks at the first that give the same, nothing has arrived."""
    cdef tcp_info before, after
    cdef int unread = 0, unacked = 0, _turn
    if not get_info(fd, &before):
        return False
    for _turn in range(MOST_LOOKS):
        if ioctl(fd, SIOCINQ, &unread) < 0 or ioctl(fd, SIOCOUTQ, &unacked) < 0 or not get_info(fd, &after):
            return False
        if after.tcpi_state == before.tcpi_state and after.tcpi_bytes_received == before.tcpi_bytes_received and (
                after.tcpi_bytes_acked == before.tcpi_bytes_acked):
            break
        before = after
    else:
        return False
    facts.tcp_state = after.tcpi_state
    facts.received = after.tcpi_bytes_received
    facts.acked = after.tcpi_bytes_acked
    facts.unread = <uint32_t>unread
    facts.unacked = <uint32_t>unacked
    # Bytes that came with the SYN (TCP Fast Open, RFC 7413) are counted in another way.
    return not after.tcpi_options & TCPI_OPT_SYN_DATA


cdef bint get_info(int fd, tcp_info *info) noexcept nogil:
    """False when the kernel does not tell, or is too old to count bytes."""
    cdef socklen_t length = sizeof(info[0])
    cdef socklen_t needed = <socklen_t>(
        <uint8_t *>(&info.tcpi_bytes_received + 1) - <uint8_t *>info)
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &length) == 0 and length >= needed


cdef bint ask_whether_ended(int fd, KernelFacts *facts) noexcept nogil:
    """Whether a connection that is over had ended in order on the other side, which its state does not say any more.

    The kernel's hint of how much there is to read (tcp(7), TCP_INQ) counts the FIN, and SIOCINQ does not. A read that
    fails tells the same: after a FIN none does. False when that cannot be asked.
    """
    cdef int on = 1, off = 0
    cdef uint8_t byte
    cdef uint64_t control[8]  # more than the hint needs, aligned
    cdef iovec part
    cdef msghdr message
    cdef cmsghdr *found
    cdef long n
    if setsockopt(fd, IPPROTO_TCP, TCP_INQ, &on, sizeof(on)) < 0:
        return False
    part.iov_base = &byte
    part.iov_len = 1
    while True:
        memset(&message, 0, sizeof(message))
        message.msg_iov = &part
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        n = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT)
        if n >= 0 or errno != EINTR:
            break
    setsockopt(fd, IPPROTO_TCP, TCP_INQ, &off, sizeof(off))
    if n < 0:
        facts.peer_ended = False
        return True
    found = CMSG_FIRSTHDR(&message)
    if found == NULL or found.cmsg_level != IPPROTO_TCP or found.cmsg_type != TCP_CM_INQ:
        return False
    facts.peer_ended = (<int *>CMSG_DATA(found))[0] > <int>facts.unread
    return True


def is_untouched(int fd):
    """Whether it is a connection that was accepted, and from which nothing was read, and nothing written to it."""
    cdef KernelFacts facts
    ask_kernel(fd, &facts)
    return (facts.is_counted and facts.received - facts.unread - facts.peer_ended == 0
            and facts.acked + facts.unacked == 0)
