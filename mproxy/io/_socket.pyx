"""The system calls on sockets. Every descriptor here is non-blocking; errors are left in errno."""

import os
import socket as _python_socket

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, EMFILE, errno
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from mproxy.ground._sockaddr cimport (
    AF_INET, AF_INET6, AF_UNIX, htons, inet_pton, sockaddr_in, sockaddr_in6, sockaddr_un,
)


cdef extern from "<sys/socket.h>" nogil:
    int SO_RCVBUFFORCE

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, void *argument)

cdef extern from "<linux/sockios.h>" nogil:
    int SIOCOUTQ

cdef enum:
    SPARE_DESCRIPTORS = 32  # a few carriers being dialled or accepted, a name being looked up
    LOOPBACK = 127          # first byte of IPv4 addresses that mean this host (RFC 1122, section 3.2.1.3)
    DISCARDS = 16
    DISCARD_BYTES = 1048576
    DAEMON_SYN_RETRIES = 4  # about 30 s (tcp(7), TCP_SYNCNT); the system's own limit is over two minutes


cdef ssize_t receive_parts(int fd, bint is_socket, iovec *parts, int count) noexcept nogil:
    """recv or readv into the parts."""
    cdef msghdr message
    if not is_socket:
        return readv(fd, parts, count)
    if count == 1:
        return recv(fd, parts.iov_base, parts.iov_len, MSG_DONTWAIT)
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = count
    return recvmsg(fd, &message, MSG_DONTWAIT)


cdef ssize_t send_parts(int fd, bint is_socket, iovec *parts, int count) noexcept nogil:
    """send or writev of the parts; never raises SIGPIPE on a socket."""
    cdef msghdr message
    if not is_socket:
        return writev(fd, parts, count)
    if count == 1:
        return send(fd, parts.iov_base, parts.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    message.msg_iovlen = count
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)


cdef ssize_t send_bytes(int fd, const uint8_t *data, size_t length, bint more) noexcept nogil:
    """Send to a socket; with `more` the system may wait for what the caller sends next (send(2), MSG_MORE)."""
    cdef ssize_t n = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if more else 0))
    while n < 0 and errno == EINTR:
        n = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if more else 0))
    return n


cdef void set_option(int fd, int level, int name, int value) noexcept nogil:
    """Set an integer option, if the system has it."""
    setsockopt(fd, level, name, &value, sizeof(value))


cdef int set_receive_queue(int fd, int size) noexcept nogil:
    """Ask for room for `size` bytes (SO_RCVBUF); without privileges the system may grant less. Returns what it granted,
    including the kernel's own needs (socket(7)). Room that somebody privileged has asked for stays."""
    cdef int granted = 0
    cdef socklen_t length = sizeof(granted)
    if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0:
        getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &granted, &length)
        if granted < size:
            set_option(fd, SOL_SOCKET, SO_RCVBUF, size)
    getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &granted, &length)
    return granted


cdef int pending_error(int fd) noexcept nogil:
    """Fetch and clear the socket's error (SO_ERROR)."""
    cdef int error = 0
    cdef socklen_t length = sizeof(error)
    if getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0:
        return errno
    return error


cdef void reset_on_close(int fd) noexcept nogil:
    """Make close(2) send a reset (SO_LINGER of 0, socket(7)); does nothing if it is not a socket."""
    cdef linger now
    now.l_onoff = 1
    now.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))


cdef void finish_on_close(int fd) noexcept nogil:
    """Undo `reset_on_close`, which accepted connections inherit from their listener: what waits is delivered."""
    cdef linger later
    memset(&later, 0, sizeof(later))
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &later, sizeof(later))


cdef int unsent_bytes(int fd) noexcept nogil:
    """Bytes that the other host has not acknowledged (tcp(7), SIOCOUTQ); 0 if it is not a TCP socket."""
    cdef int size = 0
    return size if ioctl(fd, SIOCOUTQ, &size) == 0 else 0


cdef bint discard_input(int fd) noexcept nogil:
    """Drop what was received, a bounded amount at once (tcp(7), MSG_TRUNC); false if the connection is broken."""
    cdef int _turn
    cdef ssize_t n = 0
    for _turn in range(DISCARDS):
        n = recv(fd, NULL, DISCARD_BYTES, MSG_DONTWAIT | MSG_TRUNC)
        if n <= 0:
            break
    return n >= 0 or errno == EAGAIN or errno == EINTR


cdef void close_with_reset(int fd) noexcept nogil:
    """Close so that the other end sees a reset."""
    reset_on_close(fd)
    close(fd)


cdef uint32_t accept_queue(int fd) noexcept nogil:
    """How many connections wait for accept(2), which TCP_INFO tells of a listening socket. They have inherited the
    options that their listener had when they were made, and will get no others from it."""
    cdef tcp_info info
    cdef socklen_t length = sizeof(info)
    memset(&info, 0, sizeof(info))
    return info.tcpi_unacked if getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 else 0


def addresses_of(int fd):
    """(local, peer) sockaddr tuples of a connected socket; None when it is no longer connected."""
    connection = _python_socket.socket(fileno=fd)
    try:
        return connection.getsockname(), connection.getpeername()
    except OSError:
        return None
    finally:
        connection.detach()


cdef int first_spare = 0x7FFFFFFF
cdef int first_reserved = 0x7FFFFFFF


def keep_spare(int limit):
    """Keep some of `limit` descriptors for carriers, names and logs: streams do not get the highest numbers."""
    global first_spare, first_reserved
    spare = min(SPARE_DESCRIPTORS, limit // 4)
    first_spare = limit - spare
    first_reserved = limit - spare // 2


cdef int spare_from() noexcept nogil:
    """Most descriptors that streams may have together."""
    return first_spare


cdef bint is_spare(int fd) noexcept nogil:
    """Whether it is one of the last descriptors, which streams must not take."""
    return fd >= first_spare


cdef bint is_reserved(int fd) noexcept nogil:
    """Whether it is in the second half of those: not even for the other end of a stream that is already here."""
    return fd >= first_reserved


cdef class Target:
    """A daemon's addresses, ready for connect(2). `addresses`: [(family, sockaddr)] as `resolver` gives them; of a unix
    socket (AF_UNIX, (path, 0)).

    `source`: 4 bytes of an address in 127.0.0.0/8 from which to connect, if the daemon's is in 127.0.0.0/8, too.
    `first`: what a daemon is told before the stream's first byte.
    """

    def __init__(self, str text, list addresses, bytes source=bytes(4), bytes first=b""):
        cdef sockaddr_in *v4
        cdef sockaddr_in6 *v6
        cdef sockaddr_un *local
        cdef int i
        self.text = text
        self.first = first
        for i in range(4):
            self.source[i] = source[i]
        self.local = all(address[0] in ("127.0.0.1", "::1") for _family, address in addresses)
        for family, address in addresses[:8]:
            memset(&self.addresses[self.count], 0, sizeof(sockaddr_storage))
            host = address[0].partition("%")[0].encode()
            if family == _python_socket.AF_UNIX:
                path = os.fsencode(address[0])
                local = <sockaddr_un *>&self.addresses[self.count]
                local.sun_family = <uint16_t>AF_UNIX
                memcpy(local.sun_path, <const char *>path, min(<size_t>len(path), sizeof(local.sun_path) - 1))
                self.lengths[self.count] = sizeof(sockaddr_un)
            elif family == _python_socket.AF_INET:
                v4 = <sockaddr_in *>&self.addresses[self.count]
                v4.sin_family = AF_INET
                v4.sin_port = htons(address[1])
                inet_pton(AF_INET, host, &v4.sin_addr)
                self.lengths[self.count] = sizeof(sockaddr_in)
            else:
                v6 = <sockaddr_in6 *>&self.addresses[self.count]
                v6.sin6_family = AF_INET6
                v6.sin6_port = htons(address[1])
                v6.sin6_scope_id = address[3]
                inet_pton(AF_INET6, host, &v6.sin6_addr)
                self.lengths[self.count] = sizeof(sockaddr_in6)
            self.count += 1

    def address_text(self, int index):
        """Address `index`, without its port."""
        cdef sockaddr_storage *address = &self.addresses[index]
        if address.ss_family == AF_UNIX:
            return os.fsdecode((<sockaddr_un *>address).sun_path)
        if address.ss_family == AF_INET:
            return _python_socket.inet_ntop(AF_INET, (<uint8_t *>&(<sockaddr_in *>address).sin_addr)[:4])
        return _python_socket.inet_ntop(AF_INET6, (<uint8_t *>&(<sockaddr_in6 *>address).sin6_addr)[:16])

    cdef int dial(self, int index) noexcept:
        """Start to connect to address `index`; returns the descriptor, or -1 with errno."""
        cdef int fd, error
        fd = socket(self.addresses[index].ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            return -1
        if is_spare(fd):
            close(fd)
            set_errno(EMFILE)
            return -1
        reset_on_close(fd)
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
        set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1)  # else urgent bytes (telnet sends some) would not be read
        if not self.local:
            set_option(fd, IPPROTO_TCP, TCP_SYNCNT, DAEMON_SYN_RETRIES)
        if self.comes_from(fd, index) < 0 or (
                connect(fd, <sockaddr *>&self.addresses[index], self.lengths[index]) < 0 and errno != EINPROGRESS):
            error = errno
            close(fd)
            set_errno(error)
            return -1
        return fd

    cdef int comes_from(self, int fd, int index) noexcept:
        """Bind to `source`, if there is one and it can reach address `index`; -1 with errno if that fails.

        IP_BIND_ADDRESS_NO_PORT leaves the choice of the port to connect(2), as without a source.
        """
        cdef sockaddr_in source
        cdef const sockaddr_in *daemon = <const sockaddr_in *>&self.addresses[index]
        if not self.source[0] or daemon.sin_family != AF_INET or (<const uint8_t *>&daemon.sin_addr)[0] != LOOPBACK:
            return 0
        memset(&source, 0, sizeof(source))
        source.sin_family = <uint16_t>AF_INET
        memcpy(&source.sin_addr, self.source, 4)
        set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        return bind(fd, <const sockaddr *>&source, sizeof(source))
