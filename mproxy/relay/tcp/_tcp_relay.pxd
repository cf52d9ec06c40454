"""TCP relay: connections accepted by rules, each paired with one to a target.

Observer, called per event only:

    on_refused(key, target_text, error)  no target could be reached; errno of the last attempt, 0: no address is known
    on_target_down(key, text, error)     an address of several failed and is left out for a while; errno
    on_target_up(key, text)              it answered again
    on_circle(key)                       connections of a rule come back to the relay itself: it rests for a while
    on_accept_paused(why), on_accept_resumed()  see io/_accept.pxd
    on_wanted(key, fd)                   after `ask(key)`: answer with `relay`
"""

from libc.stdint cimport uint32_t

from mproxy.io._loop cimport Loop
from mproxy.relay._tally cimport Tally
from mproxy.relay.tcp._pair_set cimport PairSet


cdef class TcpRelay:
    cdef readonly PairSet pairs    # connections, and what they share
    cdef dict rules                # key -> TcpRule
