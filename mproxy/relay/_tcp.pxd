"""Plain TCP relay: pairs of connections, bytes moved between them, no protocol.

Observer: on_refused(target, error) when a target cannot be reached, on_accept_paused(why), on_accept_resumed(), and
on_wanted(fd) for a connection whose target has to be looked up first (answer with `relay`).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._ring cimport Ring
from mproxy.net._loop cimport Loop, Source, Work
from mproxy.net._socket cimport Target


cdef struct Side:
    Source source      # the socket
    Pair *pair         # whose half this is
    Side *other        # the other half
    Ring waiting       # bytes that this socket has not taken yet
    bint readable      # no EAGAIN since the last event
    bint writable      # no EAGAIN since the last event
    bint hung_up       # the next read tells how the connection ends, or urgent data cuts reads short
    bint connecting    # the target has not answered yet
    bint read_ended    # EOF read
    bint write_ended   # the other side's EOF passed on


cdef struct Pair:
    Side client        # who connected to us
    Side server        # whom we connected to
    Work work          # moves bytes
    void *relay        # borrowed Relay
    void *target       # owned reference to a Target while connecting, else NULL
    int address        # which of its addresses is tried
    bint closed        # to be freed at the end of the turn
    Pair *next         # all pairs
    Pair *prev         # all pairs


cdef class Relay:
    cdef Loop loop                  # runs everything here
    cdef object observer            # told of events
    cdef public Target target       # where connections go; None: ask the observer for each
    cdef dict listeners             # descriptor -> _Listener
    cdef Pair *first                # all pairs
    cdef readonly uint32_t count    # pairs now
    cdef readonly uint64_t total    # pairs ever
    cdef readonly uint64_t moved    # bytes written, both directions

    cdef void start(self, int fd, Target target) noexcept
    cdef int dial(self, Pair *pair) noexcept
    cdef void tell(self, str event, tuple arguments) noexcept
