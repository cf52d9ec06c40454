"""How many connections each rule, and all rules, have in all workers together, in memory that these share: `max=` and
`--max-connections` hold for the whole, not for a worker. Each worker counts in a row of its own, so that one that was
killed can be taken out of the sum."""

from libc.stdint cimport uint32_t

from mproxy.io._accept cimport Room
from mproxy.relay._newcomers cimport Newcomers


cdef enum:
    SLOTS = 1048576  # in a row: many more than there can be rules. Pages that no rule uses take no memory
    ALL_RULES = 0    # the slot that counts for all of them together


cdef class Tally:
    cdef uint32_t *counts           # a row of SLOTS for each worker
    cdef readonly uint32_t workers  # rows
    cdef uint32_t *mine             # the row of this process
    cdef readonly Newcomers newcomers  # how often each source has come, likewise

    cdef uint32_t slot(self, key)
    cdef uint32_t sum(self, uint32_t slot) noexcept
    cdef bint enter(self, uint32_t slot, uint32_t most) noexcept
    cdef void leave(self, uint32_t slot) noexcept


cdef class SharedRoom(Room):
    cdef Tally tally     # where all workers count
    cdef uint32_t most   # connections of all rules together
