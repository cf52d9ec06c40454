"""The system calls on sockets, and the few combinations that more than one file needs."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from mproxy._ring cimport iovec
from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage, socklen_t


cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct linger:
        int l_onoff
        int l_linger
    int MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC
    int SOCK_DGRAM, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC
    int SOL_SOCKET, SO_ERROR, SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE, SO_RCVBUF
    int SHUT_WR
    ssize_t recv(int fd, void *data, size_t length, int flags)
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int socket(int domain, int type, int protocol)
    int bind(int fd, const sockaddr *address, socklen_t length)
    int connect(int fd, const sockaddr *address, socklen_t length)
    int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
    int getsockname(int fd, sockaddr *address, socklen_t *length)
    int getpeername(int fd, sockaddr *address, socklen_t *length)
    int shutdown(int fd, int how)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IP_BIND_ADDRESS_NO_PORT, IP_TTL

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_INFO, TCP_NODELAY, TCP_SYNCNT, TCP_NOTSENT_LOWAT, TCP_USER_TIMEOUT
    struct tcp_info:
        uint8_t tcpi_retransmits
        uint8_t tcpi_probes
        uint32_t tcpi_unacked
        uint32_t tcpi_last_ack_recv

cdef extern from "<sys/uio.h>" nogil:
    ssize_t readv(int fd, const iovec *parts, int count)
    ssize_t writev(int fd, const iovec *parts, int count)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int dup(int fd)

cdef extern from *:
    """
    #include <errno.h>
    #define set_errno(value) (errno = (value))
    """
    void set_errno(int) nogil


cdef ssize_t receive_parts(int fd, bint is_socket, iovec *parts, int count) noexcept nogil
cdef ssize_t send_bytes(int fd, const uint8_t *data, size_t length, bint more) noexcept nogil
cdef ssize_t send_parts(int fd, bint is_socket, iovec *parts, int count) noexcept nogil
cdef void set_option(int fd, int level, int name, int value) noexcept nogil
cdef int set_receive_queue(int fd, int size) noexcept nogil
cdef int pending_error(int fd) noexcept nogil
cdef void reset_on_close(int fd) noexcept nogil
cdef void finish_on_close(int fd) noexcept nogil
cdef int unsent_bytes(int fd) noexcept nogil
cdef bint discard_input(int fd) noexcept nogil
cdef void close_with_reset(int fd) noexcept nogil
cdef uint32_t accept_queue(int fd) noexcept nogil


cdef int spare_from() noexcept nogil
cdef bint is_spare(int fd) noexcept nogil
cdef bint is_reserved(int fd) noexcept nogil


cdef class Target:
    cdef sockaddr_storage addresses[8]  # where a daemon may be, in the order in which to try
    cdef socklen_t lengths[8]           # of each address
    cdef readonly int count             # addresses known
    cdef readonly str text              # HOST:PORT, for people
    cdef bint local                     # on this host, where an answer always comes
    cdef readonly bytes first           # what it is to be sent before all else, at most 128 bytes
    cdef uint8_t source[4]              # of 127.0.0.0/8: from where to connect to such addresses; 0: from anywhere

    cdef int dial(self, int index) noexcept
    cdef int comes_from(self, int fd, int index) noexcept
