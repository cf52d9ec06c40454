"""PROXY protocol (haproxy.org/download/1.8/doc/proxy-protocol.txt), versions 1 and 2: who the client really is.

Over UDP there is version 2 alone, and it begins every datagram: each may come alone, or first."""

from libc.stdint cimport uint8_t, uint16_t

from mproxy.ground._sockaddr cimport sockaddr, sockaddr_storage


cdef enum:
    LONGEST_HEADER_BYTES = 4096   # the longest accepted; ours have 107 bytes at most (section 2.1)
    OWN_HEADER_BYTES = 128        # room for `header_write`


cdef struct Origin:
    uint16_t family           # AF_INET or AF_INET6; 0: not known
    uint16_t source_port      # of the client, host order
    uint16_t destination_port  # of the address that the client wanted, host order
    uint8_t source[16]        # address, network order; 4 bytes of it for AF_INET
    uint8_t destination[16]   # the same


cdef void origin_set(Origin *origin, const sockaddr *source, const sockaddr *destination) noexcept nogil
cdef void origin_source(const Origin *origin, sockaddr_storage *out) noexcept nogil
cdef int header_write(uint8_t *out, int version, const Origin *origin) noexcept nogil
cdef int header_parse(const uint8_t *data, int length, Origin *origin) noexcept nogil
cdef int datagram_header_write(uint8_t *out, const Origin *origin) noexcept nogil
cdef int datagram_header_parse(const uint8_t *data, int length, Origin *origin) noexcept nogil
