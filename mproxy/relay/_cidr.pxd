"""Sets of networks (CIDR, RFC 4632 and RFC 4291), looked up once for every connection or flow.

A set is two sorted lists of ranges that neither touch nor overlap, one for IPv4, one for IPv6; a look-up is a binary
search. An IPv4-mapped IPv6 address (::ffff:a.b.c.d, RFC 4291 2.5.5.2) counts as the IPv4 address, in sets and look-ups.
"""

from libc.stdint cimport uint32_t, uint64_t

from mproxy.ground._sockaddr cimport sockaddr


cdef struct Range4:
    uint32_t first  # lowest address, host order
    uint32_t last   # highest address, host order


cdef struct Address6:
    uint64_t high  # first 8 bytes, host order
    uint64_t low   # last 8 bytes, host order


cdef struct Range6:
    Address6 first  # lowest address
    Address6 last   # highest address


cdef class CidrSet:
    cdef Range4 *four         # ranges of IPv4, ascending
    cdef int four_count       # their number
    cdef Range6 *six          # ranges of IPv6, ascending
    cdef int six_count        # their number

    cdef bint has(self, const sockaddr *address) noexcept nogil
    cdef bint has_four(self, uint32_t address) noexcept nogil
    cdef bint has_six(self, const Address6 *address) noexcept nogil


cdef bint is_allowed(CidrSet allow, CidrSet deny, const sockaddr *address) noexcept
