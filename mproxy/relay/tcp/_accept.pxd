"""Accepting: listening sockets, and the gate that closes all of them while there is no room.

Listening sockets are shared with other workers (EPOLLEXCLUSIVE): while the gate is closed they do the accepting, or the
callers wait in the kernel's queue. Nobody is dropped and nothing spins.

Observer: on_accept_paused(why) once when the gate closes, on_accept_resumed() when it has stayed open for CALM_US.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.io._loop cimport Loop, Source
from mproxy.io._socket cimport sockaddr_storage
from mproxy.relay._tally cimport Tally


cdef enum:
    ACCEPTS_A_TURN = 8     # then other workers may come first; with one worker it makes no difference
    CALM_US = 1000000      # a gate that opens and closes all the time is told of once
    RETRY_US = 250000      # descriptors come back when other processes or connections end, room in other workers


cdef class Gate:
    cdef readonly Loop loop        # runs everything here
    cdef object observer           # told of events
    cdef readonly uint32_t room    # connections at once, of all workers; 0: no bound
    cdef readonly uint32_t count   # connections now, here
    cdef Tally tally               # counts them over all workers, if there is a bound
    cdef public int kept           # descriptors of this process that are not for connections: UDP sessions need some
    cdef set waiting               # listeners taken out of the loop
    cdef bint starved              # closed for want of descriptors or memory
    cdef bint told                 # the observer believes that we have paused
    cdef int64_t opened_at         # when the gate last opened
    cdef bint timing               # `on_timer` will be called

    cdef bint is_full(self) noexcept
    cdef bint is_last(self, int fd) noexcept
    cdef bint has_descriptor(self) noexcept
    cdef bint enter(self) noexcept
    cdef void leave(self) noexcept
    cdef void shut(self, Listener listener, str why, bint starved) noexcept
    cdef void open(self) noexcept
    cdef void arm(self) noexcept
    cdef void tell(self, str event, tuple arguments) noexcept


cdef class Listener:
    cdef Gate gate       # shared by all listeners
    cdef Source source   # the listening socket, ours alone
    cdef uint32_t unprepared  # connections to come that were there before the listener was prepared
    cdef bint with_address  # `accepted` wants to know the client's address

    cdef void start(self) noexcept
    cdef void suspend(self) noexcept
    cdef void accept_some(self) noexcept
    cdef void accepted(self, int fd, sockaddr_storage *address) noexcept
