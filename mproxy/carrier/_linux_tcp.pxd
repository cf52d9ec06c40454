"""What the kernel tells of a TCP connection (tcp(7), TCP_INFO), all of it.

Apart from io/_socket, whose <netinet/tcp.h> knows the older fields only: <linux/tcp.h> and that one exclude each other.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy.ground._sockaddr cimport socklen_t


cdef extern from "<linux/tcp.h>" nogil:
    int TCP_NOTSENT_LOWAT, TCP_INFO, TCP_WINDOW_CLAMP
    struct tcp_info:
        uint8_t tcpi_retransmits
        uint32_t tcpi_snd_mss
        uint32_t tcpi_unacked
        uint32_t tcpi_last_ack_recv
        uint32_t tcpi_rtt
        uint32_t tcpi_rttvar
        uint32_t tcpi_snd_cwnd
        uint64_t tcpi_bytes_acked
        uint32_t tcpi_segs_in
        uint32_t tcpi_min_rtt
        uint32_t tcpi_data_segs_in

cdef extern from "<sys/socket.h>" nogil:
    int IPPROTO_TCP, SOL_SOCKET
    int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
