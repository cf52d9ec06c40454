"""Listening sockets and their gate. What they promise: _accept.pxd."""

import os
from functools import partial

from libc.errno cimport ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno

from mproxy.ground._sockaddr cimport sockaddr, socklen_t
from mproxy.io._loop cimport EPOLLEXCLUSIVE, EPOLLIN
from mproxy.io._socket cimport SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, accept_queue, close, dup, spare_from


cdef class Room:
    """Bounds the connections of a gate: the base class does not; a real bound is a class derived from it."""

    cdef bint enter(self) noexcept:
        """One connection more, if there is room."""
        return True

    cdef void take(self) noexcept:
        """One that is there already, whether there is room or not."""

    cdef void leave(self) noexcept:
        """One connection less."""

    cdef bint is_full(self) noexcept:
        """Whether `enter` would fail."""
        return False

    cdef str why(self):
        """What the observer is told when it is full."""
        return ""


cdef class AcceptGate:
    """Counts connections and closes the acceptors while there is no `room` for another, or no descriptor.

    `takes_spare`: connections may have the descriptors that are kept for carriers, names and logs (_socket.pyx), too.
    """

    def __init__(self, Loop loop, observer, Room room=None, *, bint takes_spare=False):
        self.loop = loop
        self.observer = observer
        self.room = Room() if room is None else room
        self.takes_spare = takes_spare
        self.waiting = set()

    def is_short(self, acceptor, int error):
        """Close for `acceptor` when its accept(2) has failed for want of descriptors or memory; false: it has not."""
        if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
            self.shut(acceptor, os.strerror(error), True)
            return True
        return False

    def forget(self, acceptor):
        """The acceptor is closed."""
        self.waiting.discard(acceptor)

    cdef bint is_last(self, int fd) noexcept:
        """Whether that descriptor is one of those kept for others: then connections must take no more."""
        return not self.takes_spare and fd >= spare_from() - self.kept

    cdef bint enter(self) noexcept:
        """One connection more, if there is room."""
        if not self.room.enter():
            return False
        self.count += 1
        return True

    cdef void take(self) noexcept:
        """One connection more, which is there already."""
        self.room.take()
        self.count += 1

    cdef void leave(self) noexcept:
        """One connection less."""
        self.count -= 1
        self.room.leave()
        if self.waiting and not self.starved and not self.room.is_full():
            self.open()

    cdef void shut(self, acceptor, str why, bint starved) noexcept:
        """Take the acceptor out of the loop until there is room."""
        acceptor.suspend()
        self.waiting.add(acceptor)
        self.starved |= starved
        if not self.told:
            self.told = True
            self.loop.guard(partial(self.observer.on_accept_paused, why), None)
        self.arm()

    cdef void open(self) noexcept:
        """Let all acceptors accept again."""
        self.starved = False
        self.opened_at = self.loop.now_us
        acceptors, self.waiting = self.waiting, set()
        for acceptor in acceptors:
            acceptor.start()

    cdef void arm(self) noexcept:
        if not self.timing:
            self.timing = True
            self.loop.call_later(RETRY_US, self.on_timer)

    def on_timer(self):
        """See whether the gate can open; called by the loop while it is closed, and a little longer."""
        self.timing = False
        if self.waiting and not self.room.is_full() and (not self.starved or self.has_descriptor()):
            self.open()
        if not self.waiting and self.told and self.loop.now_us - self.opened_at >= CALM_US:
            self.told = False
            self.loop.guard(self.observer.on_accept_resumed, None)
        if self.waiting or self.told:
            self.arm()

    cdef bint has_descriptor(self) noexcept:
        """Whether there is a descriptor now that is not one of the last."""
        cdef int fd = dup(self.loop.epoll_fd)
        if fd >= 0:
            close(fd)
        return fd >= 0 and not self.is_last(fd)


cdef void acceptor_ready(Source *source, uint32_t events) noexcept:
    cdef Acceptor acceptor = <Acceptor>source.owner
    acceptor.accept_some()
    if acceptor.how.turn_over != NULL and source.fd >= 0:
        acceptor.how.turn_over(acceptor.how.owner)


cdef Acceptor accept_on(AcceptGate gate, int fd, const Accepting *how):
    """Accept on the listening socket `fd` (a duplicate of the caller's), from now on; OSError."""
    cdef Acceptor acceptor = Acceptor.__new__(Acceptor)
    acceptor.gate = gate
    acceptor.how = how[0]
    acceptor.source.fd = os.dup(fd)
    acceptor.source.ready = acceptor_ready
    acceptor.source.owner = <void *>acceptor
    os.set_blocking(acceptor.source.fd, False)
    how.prepare(acceptor.source.fd)  # connections inherit this, so that it takes no call for each
    acceptor.unprepared = accept_queue(acceptor.source.fd)
    _acceptors.add(acceptor)
    acceptor.start()
    return acceptor


cdef class Acceptor:
    """One listening socket; made by `accept_on`."""

    def close(self):
        """Stop accepting."""
        if self.source.fd < 0:
            return
        fd = self.source.fd
        self.gate.forget(self)
        self.gate.loop.remove(&self.source)  # an event already fetched may still point here: live on for this turn
        os.close(fd)
        self.gate.loop.soon.append(partial(_acceptors.discard, self))

    cpdef void start(self) noexcept:
        if self.source.fd >= 0:
            self.gate.loop.add(&self.source, EPOLLIN | EPOLLEXCLUSIVE)

    cpdef void suspend(self) noexcept:
        """Leave the loop; an exclusive member cannot be modified (epoll_ctl(2))."""
        self.gate.loop.suspend(&self.source)

    cdef void accept_some(self) noexcept:
        """Accept until nobody is waiting, there is no room, or it is the others' turn."""
        cdef sockaddr_storage address
        cdef bint with_address = self.how.with_address
        cdef socklen_t length
        cdef int fd, error, _turn
        if self.gate.starved:  # another acceptor found out in this turn
            self.gate.shut(self, os.strerror(EMFILE), True)
            return
        for _turn in range(self.how.most):
            if not self.gate.enter():
                self.gate.shut(self, self.gate.room.why(), False)
                return
            length = sizeof(address)
            fd = accept4(self.source.fd, <sockaddr *>&address if with_address else NULL,
                         &length if with_address else NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                if self.unprepared > 0:
                    self.unprepared -= 1
                    self.how.prepare(fd)
                self.how.accepted(self.how.owner, fd, &address)
                if self.source.fd < 0:  # the observer, being told, has closed it
                    return
                if self.gate.is_last(fd):
                    self.gate.shut(self, os.strerror(EMFILE), True)
                    return
                continue
            error = errno
            self.gate.leave()
            if self.gate.is_short(self, error):
                return
            if error not in (EINTR, ECONNABORTED):
                return  # EAGAIN, or a network error of the connection itself (accept(2)); the next event will tell more


_acceptors = set()  # open ones: the kernel holds a pointer to each
