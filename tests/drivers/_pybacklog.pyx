"""Packets that wait, as Python sees them."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from mproxy.io._packets cimport Slot
from mproxy.transport._backlog cimport BACKLOG_BYTES, Backlog, Postponed
from mproxy.transport._packet cimport PeerAddress


MOST_BYTES = BACKLOG_BYTES


cdef class PyBacklog:
    """A backlog of runs that are cut out of trains."""

    cdef Backlog backlog

    def __init__(self):
        self.backlog = Backlog()

    def add(self, bytes train, uint32_t begin, uint32_t end, uint32_t segment, bytes source):
        """Keep what lies from `begin` to `end`."""
        cdef Slot slot
        cdef PeerAddress address
        memset(&slot, 0, sizeof(slot))
        memset(&address, 0, sizeof(address))
        slot.data = <uint8_t *>train
        slot.length = <uint32_t>len(train)
        slot.segment = segment
        slot.local.interface = segment
        address.length = <uint8_t>len(source)
        memcpy(address.bytes, <const char *>source, len(source))
        self.backlog.add(&slot, begin, end, &address)

    def take(self):
        """(packets, segment, source, where it had come to) of the oldest; None: there is none."""
        cdef Postponed *run = self.backlog.take()
        if run == NULL:
            return None
        found = ((<char *>run.data)[:run.length], run.segment, (<char *>run.source.bytes)[:run.source.length],
                 run.local.interface)
        free(run)
        return found

    @property
    def held(self):
        """Bytes of storage."""
        return self.backlog.held

    @property
    def dropped(self):
        """For how many there was no room."""
        return self.backlog.dropped
