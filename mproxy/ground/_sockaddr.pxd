"""Addresses of sockets, as the system has them (ip(7), ipv6(7)): numbers in them are in the network's byte order.

One form for both families is an IPv6 address, IPv4 mapped into it: ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset


cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family

cdef extern from "<sys/un.h>" nogil:
    int AF_UNIX
    struct sockaddr_un:
        uint16_t sun_family
        char sun_path[108]

cdef extern from "<netinet/in.h>" nogil:
    int AF_INET, AF_INET6
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    uint32_t htonl(uint32_t value)
    uint32_t ntohl(uint32_t value)
    int inet_pton(int family, const char *text, void *out)
    const char *inet_ntop(int family, const void *address, char *out, socklen_t size)


cdef inline void map_v4(uint8_t *out, const void *address) noexcept nogil:
    """The IPv4 address (4 bytes) as an IPv6 address."""
    memset(out, 0, 10)
    out[10] = out[11] = 0xFF
    memcpy(out + 12, address, 4)


cdef inline bint is_mapped(const uint8_t *address) noexcept nogil:
    """Whether the IPv6 address stands for an IPv4 address."""
    cdef uint64_t high
    cdef uint32_t middle
    memcpy(&high, address, 8)
    memcpy(&middle, address + 8, 4)
    return high == 0 and middle == htonl(0xFFFF)


cdef inline bint is_link_local(const uint8_t *address) noexcept nogil:
    """Whether the IPv6 address means something on one interface only (fe80::/10)."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


cdef inline bint take_address(const sockaddr *name, uint8_t *out, uint16_t *port) noexcept nogil:
    """Copy an address as 16 bytes, and its port as a number; false for other families."""
    if name.sa_family == AF_INET:
        map_v4(out, &(<const sockaddr_in *>name).sin_addr)
        port[0] = ntohs((<const sockaddr_in *>name).sin_port)
        return True
    if name.sa_family == AF_INET6:
        memcpy(out, &(<const sockaddr_in6 *>name).sin6_addr, 16)
        port[0] = ntohs((<const sockaddr_in6 *>name).sin6_port)
        return True
    return False
