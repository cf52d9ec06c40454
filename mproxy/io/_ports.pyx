"""Ports that rest: _ports.pxd."""

from libc.stdint cimport uint32_t

from mproxy.io._shared cimport shared_zeros


cdef enum:
    PORTS = 65536
    REST_MOST_MS = REST_MOST_US // 1000

# Milliseconds modulo 2**32, except that the lowest bit says that an answer is owed. Several processes write, each whole
# numbers.
cdef uint32_t *_until = <uint32_t *>shared_zeros(PORTS * sizeof(uint32_t))


cdef void port_rest(uint16_t port, int64_t now, int64_t rest_us, bint owed) noexcept nogil:
    """Let the port rest that long, but not longer than the most. `owed`: an answer may still come."""
    _until[port] = <uint32_t>((now + min(rest_us, <int64_t>REST_MOST_US)) // 1000) & ~<uint32_t>1 | owed


cdef Rest port_rests(uint16_t port, int64_t now) noexcept nogil:
    """Whether the port rests. A time farther ahead than anybody can have set dates from 49 days ago."""
    cdef uint32_t left = (_until[port] & ~<uint32_t>1) - <uint32_t>(now // 1000)
    if not 0 < left <= REST_MOST_MS:
        return RESTED
    return MUST_NOT_END if _until[port] & 1 else MAY_END
