"""Going on with what another worker has left: _takeover.pxd."""

from libc.stdint cimport uint32_t

from mproxy._inherit cimport inherited_stream
from mproxy._state cimport StreamState
from mproxy.endpoint._endpoint cimport Endpoint
from mproxy.ground._arena cimport arena_turn
from mproxy.ground._stores cimport store_whole


def take_over(Endpoint endpoint, uint32_t number):
    """Go on with the streams of a session that `recover` named, whose successor is the endpoint's; it has no carrier.

    Returns the ids of those that were lost: what was done for their applications cannot be told, and they are reset.
    """
    cdef StreamState *state = inherited_stream(number, 0)
    cdef uint32_t stream, nth = 0
    lost = []
    store_whole(arena_turn, number)
    while state != NULL:
        stream = state.id
        if not endpoint.adopt(state):
            lost.append(stream)
        nth += 1
        state = inherited_stream(number, nth)
    store_whole(arena_turn, 0)
    return lost


def take_in(Endpoint endpoint, int fd, bytes target):
    """cproxy: an application that was accepted, and no more was done. The descriptor is ours from now on."""
    endpoint.accepted(fd, target)
