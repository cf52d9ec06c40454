"""TCP relay: connections accepted by rules, each paired with one to a target.

Observer, called per event only:

    on_refused(key, target_text, error)  no target could be reached; errno of the last attempt, 0: no address is known
    on_target_down(key, text, error)     an address of several failed and is left out for a while; errno
    on_target_up(key, text)              it answered again
    on_circle(key)                       connections of a rule come back to the relay itself: it rests for a while
    on_accept_paused(why), on_accept_resumed()  see _accept.pxd
    on_wanted(key, fd)                   after `ask(key)`: answer with `relay`
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.io._loop cimport Loop
from mproxy.io._socket cimport sockaddr_storage
from mproxy.relay.tcp._accept cimport Gate, Listener
from mproxy.relay._balance cimport Backend, Balance
from mproxy.relay._cidr cimport CidrSet
from mproxy.relay.tcp._dial cimport Sources
from mproxy.relay.tcp._flow cimport Mover
from mproxy.relay.tcp._guard cimport Guard
from mproxy.relay.tcp._pair cimport Pair
from mproxy.relay._tally cimport Tally
from mproxy.relay.tcp._wheel cimport Wheel


cdef class Route:
    cdef TcpRelay relay            # whose rule this is
    cdef readonly object key       # the caller's name for it
    cdef object rule               # what `add` or `update` said
    cdef list listeners            # of RouteListener
    cdef Balance balance           # targets
    cdef CidrSet allow             # None: everybody
    cdef CidrSet deny              # None: nobody
    cdef Sources sources           # where connections to targets come from
    cdef bint ask                  # the observer names the target of each connection
    cdef uint8_t proxy             # version of the header that targets get, 0: none
    cdef bint accept_proxy         # clients send one
    cdef uint32_t most             # connections at once, of all workers; 0: no bound
    cdef uint32_t slot             # where they are counted
    cdef int64_t connect_us        # from accepting to OPEN, 0: no limit
    cdef int64_t idle_us           # longest silence, 0: any
    cdef Guard guard               # looks for circles
    cdef uint32_t connections      # now, here
    cdef uint64_t total            # admitted so far
    cdef uint64_t refused          # not admitted: networks, limit, header, no address
    cdef uint64_t failed           # no target could be reached, or the connection broke
    cdef uint64_t timed_out        # header, connecting, silence
    cdef uint64_t bytes_in         # client to target
    cdef uint64_t bytes_out        # target to client

    cdef void configure(self, rule)
    cdef void admit(self, int fd, sockaddr_storage *address) noexcept
    cdef void begin(self, int fd) noexcept


cdef class RouteListener(Listener):
    cdef Route route  # whose connections these are


cdef class TcpRelay:
    cdef readonly Loop loop        # runs everything here
    cdef object observer           # told of events
    cdef readonly Gate gate        # room for connections
    cdef readonly Mover mover      # moves bytes
    cdef readonly Tally tally      # of the rules, and of all together, over all workers
    cdef dict routes               # key -> Route
    cdef Pair *first               # all pairs
    cdef Wheel wheel               # their time-outs
    cdef bint timing               # `on_tick` will be called
    cdef int64_t trim_at           # when to look for unused pipes
    cdef public int64_t look_us    # between two looks at the peers of a connection
    cdef public int64_t last_words_us  # ENDING: without progress for so long is given up

    cdef void refuse(self, int fd) noexcept
    cdef void reset_all(self, Route route) noexcept
    cdef void wait_until(self, Pair *pair, int64_t at) noexcept
    cdef void arm(self) noexcept
    cdef void tell(self, str event, tuple arguments) noexcept
