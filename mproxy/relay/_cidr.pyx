"""Sets of networks. How they are kept: _cidr.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mproxy.ground._sockaddr cimport AF_INET, AF_INET6, ntohl, sockaddr_in, sockaddr_in6


cdef extern from "<endian.h>" nogil:
    uint64_t be64toh(uint64_t)

cdef enum:
    MAPPED_HIGH_WORD = 0xFFFF  # bytes 8 to 11 of ::ffff:0:0/96


cdef class CidrSet:
    """The addresses of `networks` (ipaddress.IPv4Network or IPv6Network, any order, they may overlap)."""

    def __init__(self, networks):
        cdef int i
        four, six = [], []
        for network in networks:
            first, last = int(network.network_address), int(network.broadcast_address)
            if network.version == 4:
                four.append((first, last))
            elif first >> 32 == MAPPED_HIGH_WORD and network.prefixlen >= 96:
                four.append((first & 0xFFFFFFFF, last & 0xFFFFFFFF))
            else:
                six.append((first, last))
        four, six = merged(four), merged(six)
        self.four = <Range4 *>malloc(max(1, len(four)) * sizeof(Range4))
        self.six = <Range6 *>malloc(max(1, len(six)) * sizeof(Range6))
        if self.four == NULL or self.six == NULL:
            raise MemoryError
        for i, (first, last) in enumerate(four):
            self.four[i].first, self.four[i].last = first, last
        for i, (first, last) in enumerate(six):
            self.six[i].first.high, self.six[i].first.low = first >> 64, first & 0xFFFFFFFFFFFFFFFF
            self.six[i].last.high, self.six[i].last.low = last >> 64, last & 0xFFFFFFFFFFFFFFFF
        self.four_count, self.six_count = len(four), len(six)

    def __dealloc__(self):
        free(self.four)
        free(self.six)

    def __len__(self):
        """Ranges after merging."""
        return self.four_count + self.six_count

    cdef bint has(self, const sockaddr *address) noexcept nogil:
        """Whether the address of a socket is in the set; addresses of other families never are."""
        cdef Address6 six
        if address.sa_family == AF_INET:
            return self.has_four(ntohl((<const sockaddr_in *>address).sin_addr.s_addr))
        if address.sa_family != AF_INET6:
            return False
        memcpy(&six, &(<const sockaddr_in6 *>address).sin6_addr, sizeof(six))
        six.high, six.low = be64toh(six.high), be64toh(six.low)
        if six.high == 0 and six.low >> 32 == MAPPED_HIGH_WORD:
            return self.has_four(<uint32_t>six.low)
        return self.has_six(&six)

    cdef bint has_four(self, uint32_t address) noexcept nogil:
        cdef int low = 0, high = self.four_count, middle
        while low < high:
            middle = (low + high) // 2
            if self.four[middle].last < address:
                low = middle + 1
            else:
                high = middle
        return low < self.four_count and self.four[low].first <= address

    cdef bint has_six(self, const Address6 *address) noexcept nogil:
        cdef int low = 0, high = self.six_count, middle
        while low < high:
            middle = (low + high) // 2
            if is_below(&self.six[middle].last, address):
                low = middle + 1
            else:
                high = middle
        return low < self.six_count and not is_below(address, &self.six[low].first)


cdef inline bint is_below(const Address6 *a, const Address6 *b) noexcept nogil:
    return a.low < b.low if a.high == b.high else a.high < b.high


cdef bint is_allowed(CidrSet allow, CidrSet deny, const sockaddr *address) noexcept:
    """Whether the address is in `allow` and not in `deny`. None as `allow` allows all, None as `deny` denies nobody."""
    if deny is not None and deny.has(address):
        return False
    return allow is None or allow.has(address)


def merged(list ranges):
    """Sort [(first, last)] and join ranges that touch or overlap."""
    joined = {}  # first -> last
    begin = None
    for first, last in sorted(ranges):
        if begin is not None and first <= joined[begin] + 1:
            joined[begin] = max(joined[begin], last)
        else:
            begin = first
            joined[begin] = last
    return list(joined.items())
