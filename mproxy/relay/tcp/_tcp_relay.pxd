"""TCP relay: connections accepted by rules, each paired with one to a target. The observer (relay/relay_observer.py,
io/accept_observer.py) is called per event only."""

from libc.stdint cimport uint32_t

from mproxy.io._loop cimport Loop
from mproxy.relay._tally cimport Tally
from mproxy.relay.tcp._pair_set cimport PairSet


cdef class TcpRelay:
    cdef readonly PairSet pairs    # connections, and what they share
    cdef dict rules                # key -> TcpRule
