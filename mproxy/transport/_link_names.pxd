"""Which connection a packet is for: by any of the ids that packets to it may have (_ids.pxd)."""

from libc.stdint cimport uint64_t


cdef class LinkNames:
    cdef dict links           # by each of their ids
    cdef dict ids             # of each link, a list

    cdef object find(self, uint64_t id)
    cdef void rename(self, object link, list ids) noexcept
    cdef void forget(self, object link) noexcept
