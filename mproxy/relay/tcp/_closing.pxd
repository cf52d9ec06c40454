"""The end of a pair: both sockets are closed, and everything is given back."""

from mproxy.relay.tcp._pair cimport Pair


cdef void pair_close(Pair *pair, bint abruptly) noexcept
cdef void pair_unreachable(Pair *pair, int error) noexcept
cdef void race_over(Pair *pair) noexcept
