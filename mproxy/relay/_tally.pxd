"""How many connections each rule, and all rules, have in all workers together, in memory that these share: `max=` and
`--max-connections` hold for the whole, not for a worker. Each worker counts in a row of its own, so that one that was
killed can be taken out of the sum; and the next one in another, so that connections that outlive a worker count while
they are taken over, too. `turns` has which of a worker's two rows has what was there before: 0 or 1."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from mproxy.io._accept cimport Room
from mproxy.relay._newcomers cimport Newcomers


cdef enum:
    SLOTS = 1048576  # in a row: many more than there can be rules. Pages that no rule uses take no memory
    ALL_RULES = 0    # the slot that counts for all of them together
    ROW_BYTES = 4194304  # of SLOTS numbers


cdef class Tally:
    cdef uint32_t *turns            # of each worker
    cdef uint32_t *counts           # two rows of SLOTS for each worker
    cdef readonly uint32_t workers  # how many
    cdef uint32_t me                # the worker that this process is
    cdef uint32_t *mine             # the row of this process
    cdef readonly Newcomers newcomers  # how often each source has come, likewise

    cdef int clear(self, size_t row) except -1
    cdef uint32_t slot(self, key)
    cdef uint32_t sum(self, uint32_t slot) noexcept
    cdef uint32_t share(self, uint32_t slot, uint32_t most) noexcept
    cdef bint enter(self, uint32_t slot, uint32_t most) noexcept
    cdef void leave(self, uint32_t slot) noexcept


cdef class SharedRoom(Room):
    cdef Tally tally     # where all workers count
    cdef uint32_t most   # connections of all rules together
