"""Plain TCP relay. Each direction ends for itself (half-close); a reset at one end becomes a reset at the other; while
one end does not take bytes the other is not read."""

import os
from functools import partial

from cpython.ref cimport Py_INCREF, PyObject, Py_XDECREF
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdlib cimport calloc

from mproxy._ring cimport iovec, ring_append, ring_drop, ring_release, ring_used, ring_view
from mproxy.net._loop cimport (
    BUFFER_BYTES, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP,
)
from mproxy.net._socket cimport (
    IPPROTO_TCP, SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK, TCP_NODELAY, accept4, close, close_with_reset, dup,
    pending_error, receive_parts, send_parts, set_option, shutdown, ssize_t,
)


cdef enum:
    ACCEPTS_A_TURN = 64
    PAUSE_US = 500000
    TURN_READS = 4  # reads of one direction before other pairs get their turn

cdef uint32_t PAIR_EVENTS = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET


cdef class Relay:
    """Relays what `listen` accepts to `target`."""

    def __init__(self, Loop loop, observer):
        self.loop = loop
        self.observer = observer
        self.listeners = {}
        _relays.add(self)

    def listen(self, int fd):
        """Accept on the listening socket `fd` (a duplicate of the caller's)."""
        self.listeners[fd] = _Listener(self, dup(fd))

    def relay(self, int fd, Target target):
        """Answer to `on_wanted`; target None drops the connection."""
        if target is None:
            close_with_reset(fd)
        else:
            self.start(fd, target)

    def stop_listening(self):
        """Accept nobody any more."""
        for listener in self.listeners.values():
            (<_Listener>listener).stop()
        self.listeners = {}

    def close(self):
        """Reset every connection."""
        self.stop_listening()
        while self.first != NULL:
            pair_close(self.first, True)

    cdef void start(self, int fd, Target target) noexcept:
        """Pair the accepted connection with a new one to the target."""
        cdef Pair *pair = <Pair *>calloc(1, sizeof(Pair))
        if pair == NULL:
            close_with_reset(fd)
            return
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1)
        side_init(&pair.client, pair, &pair.server, fd)
        side_init(&pair.server, pair, &pair.client, -1)
        pair.work.run = run_pair
        pair.work.owner = pair
        pair.relay = <void *>self
        pair.target = <void *>target
        Py_INCREF(target)
        pair.next = self.first
        if self.first != NULL:
            self.first.prev = pair
        self.first = pair
        self.count += 1
        self.total += 1
        self.loop.add(&pair.client.source, PAIR_EVENTS)
        if self.dial(pair) < 0:
            pair_unreachable(pair, errno)

    cdef int dial(self, Pair *pair) noexcept:
        """Connect to the next address that does not fail at once; -1 with errno when there is none."""
        cdef Target target = <Target>pair.target
        cdef int fd = -1
        while fd < 0 and pair.address < target.count:
            fd = target.dial(pair.address)
            pair.address += 1
        if fd < 0:
            return -1
        pair.server.source.fd = fd
        pair.server.connecting = True
        pair.server.writable = False
        return self.loop.add(&pair.server.source, PAIR_EVENTS)

    cdef void tell(self, str event, tuple arguments) noexcept:
        self.loop.guard(partial(getattr(self.observer, event), *arguments), None)


_relays = set()  # alive to the end of the process: the kernel holds pointers to their pairs


# ---- a pair

cdef void side_init(Side *side, Pair *pair, Side *other, int fd) noexcept:
    side.source.fd = fd
    side.source.ready = side_ready
    side.source.owner = side
    side.pair = pair
    side.other = other


cdef void side_ready(Source *source, uint32_t events) noexcept:
    cdef Side *side = <Side *>source.owner
    if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        side.writable = True
    if events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        side.readable = True
        side.hung_up |= (events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
    (<Relay>side.pair.relay).loop.schedule(&side.pair.work)


cdef void run_pair(Work *work) noexcept:
    cdef Pair *pair = <Pair *>work.owner
    if pair.server.connecting and pair.server.writable:
        finish_connect(pair)
    if pair.closed or pair.server.connecting:
        return
    if not (move(&pair.client) and move(&pair.server)):
        pair_close(pair, True)
    elif pair.client.write_ended and pair.server.write_ended:
        pair_close(pair, False)


cdef void finish_connect(Pair *pair) noexcept:
    cdef Relay relay = <Relay>pair.relay
    cdef int fd = pair.server.source.fd
    cdef int error = pending_error(fd)
    pair.server.connecting = False
    if error:
        relay.loop.remove(&pair.server.source)
        close(fd)
        if relay.dial(pair) < 0:
            pair_unreachable(pair, error)
        return
    Py_XDECREF(<PyObject *>pair.target)
    pair.target = NULL


cdef void pair_unreachable(Pair *pair, int error) noexcept:
    cdef Relay relay = <Relay>pair.relay
    text = (<Target>pair.target).text
    pair_close(pair, True)
    relay.tell("on_refused", (text, error))


cdef void pair_close(Pair *pair, bint abruptly) noexcept:
    cdef Relay relay = <Relay>pair.relay
    pair.closed = True
    side_close(&pair.client, relay, abruptly)
    side_close(&pair.server, relay, abruptly)
    Py_XDECREF(<PyObject *>pair.target)
    relay.loop.unschedule(&pair.work)
    if pair.prev != NULL:
        pair.prev.next = pair.next
    else:
        relay.first = pair.next
    if pair.next != NULL:
        pair.next.prev = pair.prev
    relay.count -= 1
    relay.loop.free_later(pair)


cdef void side_close(Side *side, Relay relay, bint abruptly) noexcept:
    cdef int fd = side.source.fd
    ring_drop(&side.waiting)
    if fd < 0:
        return
    relay.loop.remove(&side.source)
    if abruptly:
        close_with_reset(fd)
    else:
        close(fd)


cdef bint move(Side *source) noexcept:
    """Move what `source` has to its other side; false when a connection broke."""
    cdef Relay relay = <Relay>source.pair.relay
    cdef Side *sink = source.other
    cdef iovec part
    cdef ssize_t n
    cdef int reads = 0
    if not flush(sink, relay):
        return False
    while source.readable and not source.read_ended and ring_used(&sink.waiting) == 0:
        if reads == TURN_READS:
            relay.loop.schedule(&source.pair.work)
            return True
        reads += 1
        part.iov_base = relay.loop.buffer
        part.iov_len = BUFFER_BYTES
        n = receive_parts(source.source.fd, True, &part, 1)
        if n > 0:
            source.readable = n == BUFFER_BYTES or source.hung_up
            if not deliver(sink, relay, relay.loop.buffer, <uint32_t>n):
                return False
        elif n == 0:
            source.read_ended = True
        elif errno == EAGAIN:
            source.readable = False
        elif errno != EINTR:
            return False
    if source.read_ended and not sink.write_ended and ring_used(&sink.waiting) == 0:
        sink.write_ended = True
        shutdown(sink.source.fd, SHUT_WR)
    return True


cdef bint deliver(Side *sink, Relay relay, const uint8_t *data, uint32_t length) noexcept:
    """Write the bytes; what the socket does not take waits in the ring. False when the connection broke."""
    cdef iovec part
    cdef ssize_t n = 0
    if sink.writable:
        part.iov_base = <void *>data
        part.iov_len = length
        n = send_parts(sink.source.fd, True, &part, 1)
        if n < 0 and errno != EAGAIN and errno != EINTR:
            return False
        n = max(n, <ssize_t>0)
        relay.moved += n
        sink.writable = n == <ssize_t>length
    return <uint32_t>n == length or ring_append(&sink.waiting, data + n, length - <uint32_t>n) == 0


cdef bint flush(Side *sink, Relay relay) noexcept:
    """Write what waits. False when the connection broke."""
    cdef iovec parts[2]
    cdef uint32_t waiting
    cdef ssize_t n
    while sink.writable and ring_used(&sink.waiting) > 0:
        waiting = ring_used(&sink.waiting)
        n = send_parts(sink.source.fd, True, parts, ring_view(&sink.waiting, sink.waiting.head, waiting, parts))
        if n >= 0:
            ring_release(&sink.waiting, sink.waiting.head + n)
            relay.moved += n
            sink.writable = n == <ssize_t>waiting
        elif errno == EAGAIN:
            sink.writable = False
        elif errno != EINTR:
            return False
    return True


# ---- accepting

cdef void listener_ready(Source *source, uint32_t events) noexcept:
    (<_Listener>source.owner).accept_all()


cdef class _Listener:
    """One listening socket of a relay."""
    cdef Relay relay
    cdef Source source
    cdef bint paused

    def __cinit__(self, Relay relay, int fd):
        self.relay = relay
        self.source.fd = fd
        self.source.ready = listener_ready
        self.source.owner = <void *>self
        if relay.loop.add(&self.source, EPOLLIN) < 0:
            raise OSError(errno, os.strerror(errno))

    cdef void stop(self) noexcept:
        cdef int fd = self.source.fd
        self.relay.loop.remove(&self.source)
        close(fd)
        self.relay.loop.soon.append(self.release)  # an event of this turn may still point here

    def release(self):
        """Nothing: the bound method kept the object alive."""

    cdef void accept_all(self) noexcept:
        cdef int fd, _turn
        for _turn in range(ACCEPTS_A_TURN):
            fd = accept4(self.source.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno in (EMFILE, ENFILE, ENOBUFS, ENOMEM):
                    self.pause(errno)
                elif errno in (EINTR, ECONNABORTED):
                    continue
                return
            if self.relay.target is not None:
                self.relay.start(fd, self.relay.target)
            else:
                self.relay.tell("on_wanted", (fd,))

    cdef void pause(self, int error) noexcept:
        if not self.paused:
            self.paused = True
            self.relay.tell("on_accept_paused", (os.strerror(error),))
        self.relay.loop.modify(&self.source, 0)
        self.relay.loop.call_later(PAUSE_US, self.resume)

    def resume(self):
        """Try again; called by the loop."""
        cdef int copy
        if self.source.fd < 0:
            return
        copy = dup(self.source.fd)
        if copy < 0:
            self.relay.loop.call_later(PAUSE_US, self.resume)
            return
        close(copy)
        self.relay.loop.modify(&self.source, EPOLLIN)
        self.paused = False
        self.relay.tell("on_accept_resumed", ())
