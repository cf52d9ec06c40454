"""sproxy's side of datagrams: each flow is a socket connected to a target, so that the kernel takes answers from there
alone. _flow_side.pxd has the rest.

A target has a number of the client's (association). Of several addresses of one the first is used; while nothing has
come back for a flow and its host says that nobody is there, the flow goes on to the next.

What a flow's port was used for may still bring answers, so the port rests (mproxy/io/_ports.pxd). And no session
opens more than FLOWS_A_SECOND for long, so that it does not make all ports rest.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.endpoint._flow_side cimport FlowSide, SessionFlow
from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._socket cimport Target


cdef enum:
    FLOWS_A_SECOND = 500      # opened, once MOST_FLOWS were at once
    REST_OWED_US = 10000000   # of a port at which an answer may still come
    REST_US = 250000          # of one that was answered: an answer may come twice
    EARLY = 16                # datagrams that wait until their target is known,
    EARLY_BYTES = 4096        # none longer than this


cdef class ServedFlow(SessionFlow):
    cdef ServedFlows flows       # to which it belongs
    cdef Source source           # the socket
    cdef Target target           # where to
    cdef int address             # which of its addresses
    cdef int association         # its number
    cdef uint16_t port           # the socket's
    cdef bint is_queued          # in `ready`
    cdef bint is_heard           # the target has answered
    cdef bint owes               # ... but not since the last datagram
    cdef bytes last              # datagram, while another address may have to be tried


cdef class ServedFlows(FlowSide):
    cdef Endpoint endpoint       # whose session carries them
    cdef public object may_open  # called before a flow is opened: whether its key may have one more; None: it may
    cdef dict targets            # Target by number
    cdef dict expected           # by number: datagrams, (flow, bytes), that wait until the target is known
    cdef list ready              # flows to be read
    cdef double credit           # flows that may be opened now
    cdef int64_t credit_at       # when that was so
    cdef uint64_t refused        # datagrams of no flow that could be had
    cdef bint closed             # nothing is taken any more
    cdef Work work               # reads the sockets

    cdef void read(self) noexcept
    cdef bint read_flow(self, ServedFlow flow) noexcept
    cdef ServedFlow begin(self, uint32_t number, int association)
    cdef bint has_credit(self) noexcept
    cdef bint dial(self, ServedFlow flow) noexcept
    cdef void hang_up(self, ServedFlow flow) noexcept
    cdef void send(self, ServedFlow flow, const uint8_t *data, uint32_t length) noexcept
    cdef bint try_next(self, ServedFlow flow) noexcept
