"""All pairs of a TCP relay, and what they share: the loop, the gate, the mover, the wheel of time-outs."""

from libc.stdint cimport int64_t

from mproxy.ground._list cimport LinkedList
from mproxy.io._accept cimport AcceptGate
from mproxy.io._loop cimport Loop
from mproxy.relay._tally cimport Tally
from mproxy.relay.tcp._mover cimport Mover
from mproxy.relay.tcp._pair cimport Pair
from mproxy.relay.tcp._wheel cimport Wheel


cdef class PairSet:
    cdef readonly Loop loop        # runs everything here
    cdef object observer           # a RelayObserver (relay/relay_observer)
    cdef AcceptGate gate           # room for connections
    cdef readonly Mover mover      # moves bytes
    cdef Tally tally               # counts connections of the rules, and of all together, over all workers
    cdef LinkedList all            # pairs, youngest first
    cdef Wheel wheel               # their time-outs
    cdef void (*due)(Pair *pair, int64_t now) noexcept  # called when a pair's time-out has fallen out of the wheel
    cdef public bint keeps_accounts  # the observer is told of what has ended
    cdef bint timing               # `on_tick` will be called
    cdef int64_t trim_at           # when to look for unused pipes
    cdef public int64_t look_us    # between two looks at the peers of a connection
    cdef public int64_t last_words_us  # ENDING: longest time without progress

    cdef void add(self, Pair *pair) noexcept
    cdef void remove(self, Pair *pair) noexcept
    cdef void refuse(self, int fd) noexcept
    cdef void wait_until(self, Pair *pair, int64_t at) noexcept
    cdef void arm(self) noexcept
    cdef void tell(self, event) noexcept
