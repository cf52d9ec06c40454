"""Parcels: what travels in single packets of a connection beside its stream, in any order; RFC 9221 with two
additions, that the sender learns what became of each, and that the receiver may refuse one.

A connection that carries parcels has one of these. The engine asks for a parcel when a packet may leave, and looks
into none.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec


cdef enum:
    PARCEL_HEADER_BYTES = 3  # of the control message before a parcel: type, length
    MOST_PARCEL_PARTS = 64   # iovecs of one parcel


cdef struct Parcel:
    uint32_t length                    # bytes; 0: there is none
    int count                          # parts
    iovec parts[64]                    # where the bytes are, until the packet is sealed
    uint64_t tag                       # what `acked` or `lost` will say


cdef class Parcels:
    cdef bint prepare(self) noexcept
    cdef void fill(self, uint32_t room, Parcel *parcel) noexcept
    cdef void acked(self, uint64_t tag) noexcept
    cdef bint lost(self, uint64_t tag) noexcept
    cdef bint take(self, const uint8_t *data, uint32_t length, int64_t now) noexcept
    cdef void arrived(self, int64_t now) noexcept
    cdef void left(self) noexcept
    cdef void rest(self) noexcept
