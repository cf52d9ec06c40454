"""Connections of each rule and of all, over all workers: _tally.pxd."""

import os

from libc.errno cimport errno
from libc.stddef cimport size_t

from mproxy.io._shared cimport MADV_REMOVE, madvise, munmap, shared_zeros


cdef extern from *:
    """
    static unsigned atomic_add(unsigned *at, unsigned n) { return __atomic_add_fetch(at, n, __ATOMIC_SEQ_CST); }
    static unsigned atomic_load(const unsigned *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
    """
    uint32_t atomic_add(uint32_t *at, uint32_t n) nogil
    uint32_t atomic_load(const uint32_t *at) nogil


cdef class Tally:
    """Two rows for each of `workers` processes, made before they are forked; OSError without memory."""

    def __init__(self, uint32_t workers=1):
        self.turns = <uint32_t *>shared_zeros(workers * sizeof(uint32_t))
        self.counts = <uint32_t *>shared_zeros(2 * workers * ROW_BYTES)
        self.workers = workers
        self.newcomers = Newcomers()
        self.mine = self.counts

    def __dealloc__(self):
        if self.turns != NULL:
            munmap(self.turns, self.workers * sizeof(uint32_t))
        if self.counts != NULL:
            munmap(self.counts, 2 * self.workers * ROW_BYTES)

    def be(self, uint32_t worker):
        """Count as that worker from now on; what the one before it had counts as well, until `settled`. OSError,
        IndexError."""
        if worker >= self.workers:
            raise IndexError(worker)
        self.me = worker
        self.clear(2 * worker + 1 - self.turns[worker])
        self.mine = self.counts + (2 * worker + 1 - self.turns[worker]) * SLOTS

    def settled(self):
        """What the worker before had is counted again; OSError."""
        self.clear(2 * self.me + self.turns[self.me])
        self.turns[self.me] = 1 - self.turns[self.me]

    def forget(self, uint32_t worker):
        """That worker has died, and with it its connections; OSError, IndexError."""
        if worker >= self.workers:
            raise IndexError(worker)
        self.clear(2 * worker)
        self.clear(2 * worker + 1)

    cdef int clear(self, size_t row) except -1:
        if madvise(self.counts + row * SLOTS, ROW_BYTES, MADV_REMOVE) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def count(self, key):
        """Connections of a rule now, in all workers."""
        return self.sum(self.slot(key))

    cdef uint32_t slot(self, key):
        """Where a rule is counted. Keys are numbers given one after the other: two rules would have to be SLOTS reloads
        apart to meet."""
        return <uint32_t>(1 + <size_t>hash(key) % (SLOTS - 1))  # a hash may be negative

    cdef uint32_t sum(self, uint32_t slot) noexcept:
        cdef uint32_t row, total = 0
        for row in range(2 * self.workers):
            total += atomic_load(self.counts + <size_t>row * SLOTS + slot)
        return total

    cdef uint32_t share(self, uint32_t slot, uint32_t most) noexcept:
        """How many of `most` (> 0) this worker may have: what the others leave, and its part in any case. What is being
        taken over counts once, though it is in two rows."""
        cdef uint32_t worker, former, present, others = 0
        for worker in range(self.workers):
            if worker != self.me:
                former = atomic_load(self.counts + <size_t>(2 * worker) * SLOTS + slot)
                present = atomic_load(self.counts + <size_t>(2 * worker + 1) * SLOTS + slot)
                others += max(former, present)
        return max(most - min(others, most), max(most // self.workers, <uint32_t>1))

    cdef bint enter(self, uint32_t slot, uint32_t most) noexcept:
        """One connection more, if that makes at most `most` (0: any number).

        Counting comes before looking: if workers do so at the same time none admits one too many; at worst each sees
        the other's and both refuse.
        """
        atomic_add(self.mine + slot, 1)
        if most and self.sum(slot) > most:
            self.leave(slot)
            return False
        return True

    cdef void leave(self, uint32_t slot) noexcept:
        """One connection less."""
        atomic_add(self.mine + slot, <uint32_t>-1)


cdef class SharedRoom(Room):
    """Bounds the connections of all rules and workers: at most `most` (> 0) in `tally`."""

    def __init__(self, Tally tally, uint32_t most):
        self.tally = tally
        self.most = most

    cdef bint enter(self) noexcept:
        return self.tally.enter(ALL_RULES, self.most)

    cdef void take(self) noexcept:
        self.tally.enter(ALL_RULES, 0)

    cdef void leave(self) noexcept:
        self.tally.leave(ALL_RULES)

    cdef bint is_full(self) noexcept:
        return self.tally.sum(ALL_RULES) >= self.most

    cdef str why(self):
        return f"all {self.most} connections are in use"
