"""Accepting: listening sockets, and the gate that closes all of them while there is no room.

A listening socket may be shared with other processes (EPOLLEXCLUSIVE): while the gate is closed these accept, or the
callers wait in the kernel's queue. Nobody is dropped and nothing spins.

The observer is told once when the gate closes, and when it has stayed open for CALM_US.

An Acceptor accepts here, for C; what accepts for Python (slow_accept.py) has its methods `start` and `suspend`, too.
"""

from libc.stdint cimport int64_t, uint32_t

from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.io._loop cimport Loop, Source


cdef enum:
    CALM_US = 1000000      # a gate that opens and closes all the time is reported once
    RETRY_US = 250000      # other processes or connections end and give back descriptors, other workers make room


cdef class Room:
    cdef bint enter(self) noexcept
    cdef void take(self) noexcept
    cdef void leave(self) noexcept
    cdef bint is_full(self) noexcept
    cdef str why(self)


cdef class AcceptGate:
    cdef readonly Loop loop        # runs everything here
    cdef object observer           # an AcceptObserver (io/accept_observer)
    cdef Room room                 # bounds the connections
    cdef readonly uint32_t count   # connections now, in this process
    cdef public int kept           # descriptors of this process that are not for connections
    cdef bint takes_spare          # connections may have the spare descriptors (_socket.pyx), too
    cdef set waiting               # acceptors taken out of the loop
    cdef bint starved              # closed for want of descriptors or memory
    cdef bint told                 # the observer was told that accepting is paused
    cdef int64_t opened_at         # when the gate last opened
    cdef bint timing               # `on_timer` will be called

    cdef bint is_last(self, int fd) noexcept
    cdef bint has_descriptor(self) noexcept
    cdef bint enter(self) noexcept
    cdef void take(self) noexcept
    cdef void leave(self) noexcept
    cdef void shut(self, acceptor, str why, bint starved) noexcept
    cdef void open(self) noexcept
    cdef void arm(self) noexcept


cdef struct Accepting:
    void (*prepare)(int fd) noexcept nogil  # sets options of the listening socket, which connections inherit
    # A connection, non-blocking; it and its place are now the callee's, who calls `AcceptGate.leave` when it has ended.
    void (*accepted)(void *owner, int fd, sockaddr_storage *address) noexcept  # see above
    void (*turn_over)(void *owner) noexcept  # `accepted` was called for all of a turn, or for none; NULL: never mind
    void *owner            # for these
    bint with_address      # `accepted` needs the peer's address; else `address` has no meaning
    int most               # most accepted in a turn; then it is the others' turn


cdef class Acceptor:
    cdef AcceptGate gate   # shared by all acceptors
    cdef Source source     # the listening socket, for us alone
    cdef Accepting how     # what becomes of connections
    cdef uint32_t unprepared  # connections already waiting when the socket was prepared

    cpdef void start(self) noexcept
    cpdef void suspend(self) noexcept
    cdef void accept_some(self) noexcept


cdef Acceptor accept_on(AcceptGate gate, int fd, const Accepting *how)
