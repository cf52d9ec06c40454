"""Reading TCP_INFO, in its own file: <linux/tcp.h>, which has these fields, and <netinet/tcp.h> exclude each other."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset


cdef extern from "<linux/tcp.h>" nogil:
    int TCP_INFO
    struct tcp_info:
        unsigned char tcpi_retransmits
        uint32_t tcpi_unacked
        uint32_t tcpi_last_ack_recv
        uint32_t tcpi_rtt
        uint32_t tcpi_rttvar
        uint64_t tcpi_bytes_acked
        uint32_t tcpi_segs_in
        uint32_t tcpi_data_segs_in

cdef extern from "<sys/socket.h>" nogil:
    int IPPROTO_TCP
    int getsockopt(int fd, int level, int name, void *value, unsigned int *length)

cdef extern from "<netinet/in.h>" nogil:
    pass


cdef bint tcp_report(int fd, PathReport *path) noexcept nogil:
    """Ask the kernel; false when it does not answer."""
    cdef tcp_info info
    cdef unsigned int length = sizeof(info)
    memset(&info, 0, sizeof(info))
    if getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0:
        return False
    path.answer_us = <int64_t>info.tcpi_rtt + 4 * <int64_t>info.tcpi_rttvar
    path.silent_us = <int64_t>info.tcpi_last_ack_recv * 1000
    path.repeats = info.tcpi_retransmits if info.tcpi_unacked > 0 else 0
    path.in_flight = info.tcpi_unacked
    path.acked_bytes = info.tcpi_bytes_acked
    path.packets = info.tcpi_segs_in
    path.data_packets = info.tcpi_data_segs_in
    return True
