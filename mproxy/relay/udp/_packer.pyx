"""Packets into an outbox: _packer.pxd."""

from libc.stdint cimport uint32_t

from mproxy.io._packets cimport Message
from mproxy.relay.udp._runs cimport Run, run_next


cdef class Packer:
    """Call order: `take` for each slot, then `pack`."""

    def __init__(self, Outbox outbox):
        self.outbox = outbox

    cdef void take(self, Inbox inbox, int slot) noexcept:
        """The contents of a slot are the next piece."""
        cdef Piece *piece = &self.pieces[self.count]
        piece.data = inbox.slots[slot].data
        piece.length = inbox.slots[slot].length
        piece.segment = inbox.slots[slot].segment
        self.count += 1

    cdef void pack(self, Flow *flow, bint inward) noexcept:
        """Put the pieces into the outbox; `inward`: for the flow's target."""
        cdef uint32_t limit = flow.in_limit if inward else flow.out_limit
        cdef Message *message
        cdef Run run
        cdef int done = 0, i
        while done < self.count:
            run_next(&self.pieces[done], self.count - done, limit, &run)
            if inward:
                message = self.outbox.add(NULL, 0, NULL)
            else:
                message = self.outbox.add(&flow.client, flow.client_bytes, &flow.local)
            message.owner = flow
            for i in range(done, done + run.pieces):
                self.outbox.add_part(self.pieces[i].data, self.pieces[i].length)
            self.outbox.finish(run.segment, run.one_by_one)
            done += run.pieces
        self.count = 0
