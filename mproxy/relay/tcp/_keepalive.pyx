"""Peers that have vanished. The rules: _keepalive.pxd."""

from libc.string cimport memset

from mproxy.ground._sockaddr cimport socklen_t
from mproxy.io._socket cimport IPPROTO_TCP, SOL_SOCKET, SO_KEEPALIVE, TCP_INFO, getsockopt, set_option, tcp_info


cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT

cdef enum:
    UNANSWERED = 3  # times that something was repeated in vain


cdef void keep_alive(int fd, const Keepalive *how) noexcept nogil:
    """Have the system probe the peer of a socket, NULL: as usual; connections inherit it from their listener."""
    cdef bint is_wanted = how == NULL or how.idle_s > 0
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, is_wanted)
    if is_wanted:
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, how.idle_s if how != NULL else <int>IDLE_S)
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, how.interval_s if how != NULL else <int>INTERVAL_S)
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, how.probes if how != NULL else <int>PROBES)


cdef bint has_vanished(int fd) noexcept nogil:
    """Whether the peer has acknowledged nothing for so long that it counts as gone (tcp(7), TCP_INFO)."""
    cdef tcp_info info
    cdef socklen_t length = sizeof(info)
    memset(&info, 0, sizeof(info))
    return (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 and info.tcpi_last_ack_recv >= SILENCE_MS
            and info.tcpi_retransmits + info.tcpi_probes >= UNANSWERED)
