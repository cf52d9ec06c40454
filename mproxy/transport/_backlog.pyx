"""Packets that wait: _backlog.pxd."""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mproxy.ground._list cimport list_append, list_remove


cdef class Backlog:
    """Of one endpoint."""

    def __dealloc__(self):
        self.drop_all()

    cdef void add(self, const Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source) noexcept:
        """Keep a part of what has come until it is taken, or others have come for whose sake it goes."""
        cdef size_t size = sizeof(Postponed) + end - begin
        cdef Postponed *run = <Postponed *>malloc(size)
        if run == NULL:
            self.dropped += 1
            return
        run.source = source[0]
        run.local = slot.local
        run.segment = slot.segment
        run.length = end - begin
        memcpy(run.data, slot.data + begin, end - begin)
        while self.held + size > BACKLOG_BYTES and self.all.count > 0:
            self.dropped += 1
            free(self.take())
        list_append(&self.all, run, &run.in_backlog)
        self.held += size

    cdef Postponed *take(self) noexcept:
        """The oldest, to be freed by the caller; NULL: there is none."""
        cdef Postponed *run = <Postponed *>self.all.first
        if run != NULL:
            list_remove(&self.all, run, &run.in_backlog)
            self.held -= sizeof(Postponed) + run.length
        return run

    cdef void drop_all(self) noexcept:
        """Nobody will take them."""
        while self.all.count > 0:
            free(self.take())
