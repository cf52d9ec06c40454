"""One TCP rule as the engine keeps it: who may come, where connections go, what was counted."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.ground._sockaddr cimport sockaddr
from mproxy.relay._balance cimport Balance
from mproxy.relay._cidr cimport CidrSet
from mproxy.relay.tcp._circle_guard cimport CircleGuard
from mproxy.relay.tcp._dial cimport SourceAddresses
from mproxy.relay.tcp._keepalive cimport Keepalive
from mproxy.relay.tcp._pair_set cimport PairSet


cdef class TcpRule:
    cdef PairSet pairs            # all pairs, this rule's among them
    cdef readonly object key      # the caller's name for this rule
    cdef int64_t number           # the same, if it is one; else 0
    cdef str targets_text         # of its targets, for people
    cdef list acceptors           # its listening sockets
    cdef Balance balance          # targets
    cdef CidrSet allow            # None: everybody
    cdef CidrSet deny             # None: nobody
    cdef SourceAddresses sources  # where connections to targets come from
    cdef bint ask                 # the observer names the target of each connection
    cdef uint8_t proxy            # version of the header that targets get, 0: none
    cdef bint accept_proxy        # clients send one
    cdef uint32_t most            # connections at once, of all workers; 0: no bound
    cdef uint32_t slot            # of the tally, where they are counted
    cdef int64_t connect_us       # from accepting to OPEN; 0: no limit
    cdef int64_t idle_us          # longest silence, 0: any
    cdef bint has_keepalive       # of its own
    cdef Keepalive keepalive      # with which its peers are probed
    cdef int64_t new_interval_ns  # from one new connection of a source to the next; 0: no limit
    cdef int new_burst            # of these at once
    cdef CircleGuard guard        # looks for circles
    cdef uint32_t connections     # now, here
    cdef uint64_t total           # admitted so far
    cdef uint64_t refused         # not admitted, by networks, limit, header, or for want of an address
    cdef uint64_t limited         # of these, because their source came too often
    cdef uint64_t limited_told    # of these, reported
    cdef int64_t limited_told_at  # when
    cdef uint64_t failed          # no target could be reached, or the connection broke
    cdef uint64_t timed_out       # waiting for the header, connecting, or silent
    cdef uint64_t bytes_in        # client to target
    cdef uint64_t bytes_out       # target to client

    cdef bint admits(self, const sockaddr *client) noexcept
    cdef bint comes_too_often(self, const sockaddr *client) noexcept
    cdef void configure(self, rule)
    cdef dict stats(self)
