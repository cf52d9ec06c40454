"""Listening sockets and their gate. What they promise: _accept.pxd."""

import os
from functools import partial

from libc.errno cimport ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno

from mproxy.io._loop cimport EPOLLEXCLUSIVE, EPOLLIN
from mproxy.io._socket cimport (
    IPPROTO_TCP, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, SO_OOBINLINE, TCP_NODELAY, accept4, close, dup,
    accept_queue, reset_on_close, set_option, sockaddr, socklen_t, spare_from,
)
from mproxy.relay.tcp._keepalive cimport keep_alive
from mproxy.relay._tally cimport ALL_RULES


cdef class Gate:
    """Counts connections and closes the listeners while there is no room for another. `room`: of all workers together,
    who count in `tally`."""

    def __init__(self, Loop loop, observer, uint32_t room, Tally tally):
        self.loop = loop
        self.observer = observer
        self.room = room
        self.tally = tally
        self.waiting = set()

    cdef bint is_full(self) noexcept:
        return self.room != 0 and self.tally.sum(ALL_RULES) >= self.room

    cdef bint is_last(self, int fd) noexcept:
        """Whether that descriptor is one of those that are kept for others: connections must take no more."""
        return fd >= spare_from() - self.kept

    cdef bint enter(self) noexcept:
        """One connection more, if there is room."""
        if self.room and not self.tally.enter(ALL_RULES, self.room):
            return False
        self.count += 1
        return True

    cdef void leave(self) noexcept:
        """One connection less."""
        self.count -= 1
        if self.room:
            self.tally.leave(ALL_RULES)
        if self.waiting and not self.starved and not self.is_full():
            self.open()

    cdef void shut(self, Listener listener, str why, bint starved) noexcept:
        """Take the listener out of the loop until there is room."""
        listener.suspend()
        self.waiting.add(listener)
        self.starved |= starved
        if not self.told:
            self.told = True
            self.tell("on_accept_paused", (why,))
        self.arm()

    cdef void open(self) noexcept:
        """Let all listeners accept again."""
        self.starved = False
        self.opened_at = self.loop.now_us
        listeners, self.waiting = self.waiting, set()
        for listener in listeners:
            (<Listener>listener).start()

    cdef void arm(self) noexcept:
        if not self.timing:
            self.timing = True
            self.loop.call_later(RETRY_US, self.on_timer)

    def on_timer(self):
        """Look whether the gate can open; called by the loop while it is closed, and a little longer."""
        self.timing = False
        if self.waiting and not self.is_full() and (not self.starved or self.has_descriptor()):
            self.open()
        if not self.waiting and self.told and self.loop.now_us - self.opened_at >= CALM_US:
            self.told = False
            self.tell("on_accept_resumed", ())
        if self.waiting or self.told:
            self.arm()

    cdef bint has_descriptor(self) noexcept:
        """Whether a descriptor is to be had now that is not one of the last."""
        cdef int fd = dup(self.loop.epoll_fd)
        if fd >= 0:
            close(fd)
        return fd >= 0 and not self.is_last(fd)

    cdef void tell(self, str event, tuple arguments) noexcept:
        self.loop.guard(partial(getattr(self.observer, event), *arguments), None)


cdef void listener_ready(Source *source, uint32_t events) noexcept:
    (<Listener>source.owner).accept_some()


cdef class Listener:
    """Accepts on the listening socket `fd` (a duplicate of the caller's), `accepted` is for who derives from this."""

    def __init__(self, Gate gate, int fd):
        self.gate = gate
        self.source.fd = os.dup(fd)
        self.source.ready = listener_ready
        self.source.owner = <void *>self
        os.set_blocking(self.source.fd, False)
        prepare(self.source.fd)  # connections inherit that, so that it costs no calls for each
        self.unprepared = accept_queue(self.source.fd)
        _listeners.add(self)
        self.start()

    def close(self):
        """Stop accepting."""
        if self.source.fd < 0:
            return
        fd = self.source.fd
        self.gate.waiting.discard(self)
        self.gate.loop.remove(&self.source)  # an event already fetched may still point here: live on for this turn
        os.close(fd)
        self.gate.loop.soon.append(partial(_listeners.discard, self))

    cdef void start(self) noexcept:
        if self.source.fd >= 0:
            self.gate.loop.add(&self.source, EPOLLIN | EPOLLEXCLUSIVE)

    cdef void suspend(self) noexcept:
        """Out of the loop; an exclusive member can't be modified (epoll_ctl(2))."""
        self.gate.loop.suspend(&self.source)

    cdef void accept_some(self) noexcept:
        """Accept until nobody waits, there is no room, or it is the others' turn."""
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef int fd, error, _turn
        if self.gate.starved:  # another listener found that out in this turn
            self.gate.shut(self, os.strerror(EMFILE), True)
            return
        for _turn in range(ACCEPTS_A_TURN):
            if not self.gate.enter():
                self.gate.shut(self, f"all {self.gate.room} connections are in use", False)
                return
            length = sizeof(address)
            fd = accept4(self.source.fd, <sockaddr *>&address if self.with_address else NULL,
                         &length if self.with_address else NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                if self.unprepared > 0:
                    self.unprepared -= 1
                    prepare(fd)
                self.accepted(fd, &address)
                if self.source.fd < 0:  # closed by what the observer was told
                    return
                if self.gate.is_last(fd):
                    self.gate.shut(self, os.strerror(EMFILE), True)
                    return
                continue
            error = errno
            self.gate.leave()
            if error in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                self.gate.shut(self, os.strerror(error), True)
                return
            if error not in (EINTR, ECONNABORTED):
                return  # EAGAIN, or a network error of the connection itself (accept(2)); the next event tells more

    cdef void accepted(self, int fd, sockaddr_storage *address) noexcept:
        """A connection, non-blocking, the callee's now, and its place: `Gate.leave` when it has ended. `address` is
        filled in only with `with_address`."""
        close(fd)
        self.gate.leave()


cdef void prepare(int fd) noexcept:
    """Set the options of a client's connection."""
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
    set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1)  # else an urgent byte would not be read
    keep_alive(fd)
    reset_on_close(fd)  # whoever kills this process: `finish_on_close` is for an end in order


_listeners = set()  # open ones: the kernel holds a pointer to each
