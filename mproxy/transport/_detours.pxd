"""How packets that the kernel has given to the wrong worker of a server reach the right one.

All workers have a socket at the same port (SO_REUSEPORT). Where the kernel can be told to choose by the routing bits of
an id (`mproxy.io.bind.share_udp`) it does, and nothing comes this way. Where it cannot, it chooses by the addresses: so
the packets of a connection come to the wrong worker when it was begun elsewhere, or when its client has moved.

A worker that does not know the id of a packet sends it to the worker that the id names, through a socket of that one,
with what else the kernel has said of it: a train in one piece. Nobody sends it on from there. A socket that is full
loses it, as any queue on a path does.

    head       DetourHead
    packets    as they came
"""

from libc.stdint cimport uint8_t, uint32_t

from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport LocalAddress, Slot
from mproxy.transport._listener cimport Routing
from mproxy.transport._packet cimport PeerAddress


cdef struct DetourHead:
    PeerAddress source        # who sent it
    LocalAddress local        # to which of our addresses
    uint32_t segment          # bytes of each packet but the last


cdef class Detours:
    cdef readonly Routing routing     # to whom an id leads
    cdef list pairs                   # of each worker: where it reads, where others write
    cdef list outs                    # the descriptors of the latter
    cdef readonly uint32_t sent       # trains that this worker has sent on
    cdef readonly uint32_t lost       # that a socket did not take
    cdef Loop loop                    # of this worker
    cdef Work *work                   # what is to be done when something has come
    cdef Source source                # where it comes
    cdef bint readable                # something has

    cdef open(self, Loop loop, Work *work)
    cdef void close(self) noexcept
    cdef bint take(self, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source) noexcept
    cdef bint receive(self, Slot *slot, PeerAddress *source) noexcept
    cdef void send(self, int worker, const Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source) noexcept
