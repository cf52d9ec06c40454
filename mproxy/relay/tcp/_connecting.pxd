"""A pair on its way to OPEN: its client's greeting, and the connection to a target."""

from mproxy.relay.tcp._pair cimport Pair


cdef void connect_next(Pair *pair, int error) noexcept
cdef bint advance(Pair *pair) noexcept
