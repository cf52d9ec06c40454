"""Reading TCP_INFO."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from mproxy.carrier._linux_tcp cimport IPPROTO_TCP, TCP_INFO, getsockopt, tcp_info
from mproxy.ground._sockaddr cimport socklen_t


cdef bint tcp_report(int fd, PathReport *path) noexcept nogil:
    """Ask the kernel; false when it does not answer."""
    cdef tcp_info info
    cdef socklen_t length = sizeof(info)
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
