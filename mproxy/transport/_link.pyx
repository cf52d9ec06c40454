"""Links, and what those of one endpoint share: _link.pxd."""

import os
from collections import deque
from functools import partial

from libc.stdlib cimport free
from libc.string cimport memcpy

from mproxy._ring cimport iovec
from mproxy.ground._clock cimport NEVER
from mproxy.ground._deadlines cimport deadline_remove, deadline_set, deadlines_first, deadlines_reserve
from mproxy.transport._arrivals cimport own_source, pair_of
from mproxy.transport._connection cimport ConnectionEvent, ConnectionEventKind
from mproxy.transport._packet cimport Seal
from mproxy.transport._states cimport ConnectionState
from mproxy.transport.strangers import Strangers


cdef class Link:
    """A connection and the program's buffers. Made by DatagramEndpoint; `config` is its DatagramConfig."""

    def __init__(self, LinkSet siblings, config):
        self.siblings = siblings
        self.connection = Connection(config, entropy=os.urandom(32))
        self.send_queue = deque()

    def fill(self, buffer, least=None):
        """Put the peer's next bytes into `buffer` until it has `least` (not 0), or with None is full. One at a time."""
        cdef uint8_t[::1] view = buffer
        assert self.fill_least == 0
        self.fill_buffer = buffer
        self.fill_at = &view[0]
        self.fill_left = view.shape[0]
        self.fill_least = view.shape[0] if least is None else least
        self.filled = 0
        self.wake()

    def send(self, buffer):
        """Send these bytes, which must not change before `on_sent`."""
        self.send_queue.append(buffer)
        self.wake()

    def finish(self):
        """Nothing will be sent after what was given to `send`."""
        self.finish_due = True
        self.wake()

    def send_handshake(self, bytes data):
        """Answer `on_handshake`."""
        self.connection.send_handshake(data, <uint32_t>len(data))
        self.wake()

    def secure(self, bytes send_key, bytes receive_key, int cipher):
        """Use the keys of the handshake."""
        cdef Seal sending, receiving
        cdef bint veiled = self.connection.setup.veiled
        self.sending = PacketKey(send_key, cipher, self.connection.setup.first_out, True, veiled)
        self.receiving = PacketKey(receive_key, cipher, self.connection.setup.first_in, False, veiled)
        self.sending.fill(&sending)
        self.receiving.fill(&receiving)
        self.connection.secure(&sending, &receiving)
        if veiled:
            self.connection.path.change_ids(self.receiving.ids_key, self.sending.ids_key,
                                            self.connection.setup.routing_bits, not self.connection.setup.active)
            if not self.closed:
                self.siblings.names.rename(self, self.connection.path.ids.window())
        self.keep_source()
        self.wake()

    def abort(self, int code, bytes reason):
        """Give up at once and tell the peer."""
        if not self.ended:
            self.connection.abort(code, reason, self.siblings.loop.now_us)
            self.wake()

    def probe(self):
        """The network has changed: let the peer see where we are."""
        self.keep_source()
        self.connection.probe(self.siblings.loop.now_us)
        self.wake()

    @property
    def prologue(self):
        """What both sides have agreed on."""
        return self.connection.prologue

    @property
    def peer(self):
        """(host, port) of the peer now."""
        return pair_of(&self.connection.path.peer)

    @property
    def heard_us(self):
        """When the peer was heard last, on the loop's clock."""
        return self.connection.received_at

    @property
    def unsent(self):
        """Buffers given to `send` that are not in the ring yet."""
        return len(self.send_queue) + (self.send_left > 0)

    @property
    def statistics(self):
        """Counters of the connection: {name: number}."""
        return self.connection.channel.statistics()

    cdef void keep_source(self) noexcept:
        """Send from where the kernel would now, so that no packet with this path's id goes out by the next path."""
        if self.connection.setup.veiled and self.connection.setup.active:
            own_source(self.siblings.fd, &self.connection.path.peer, &self.local)

    cdef void wake(self) noexcept:
        """Have the endpoint give it a turn."""
        if not self.active and not self.closed:
            self.siblings.wait(self)
            self.siblings.loop.schedule(self.siblings.work)

    cdef void tell(self, event) noexcept:
        """Call a method of the handler; `event` has its arguments."""
        self.siblings.loop.guard(event, None)

    cdef void events(self, int64_t now) noexcept:
        cdef ConnectionEvent event
        while True:
            self.connection.poll_event(&event)
            if event.kind == ConnectionEventKind.NOTHING:
                return
            if event.kind == ConnectionEventKind.HANDSHAKE_DATA:
                self.tell(partial(self.handler.on_handshake, self, (<char *>event.data)[:event.length]))
            elif event.kind == ConnectionEventKind.ESTABLISHED:
                self.siblings.admit(self)
                self.tell(partial(self.handler.on_established, self))
            elif event.kind == ConnectionEventKind.ADDRESS_CHANGED:
                self.tell(partial(self.handler.on_address_changed, self))
            elif event.kind == ConnectionEventKind.ADDRESS_SEEN:
                self.tell(partial(self.handler.on_address_seen, self))
            elif event.kind == ConnectionEventKind.ADDRESS_ASKED:
                self.tell(partial(self.handler.on_address_asked, self))
            elif event.kind == ConnectionEventKind.ENDED:
                reason = (<char *>event.data)[:event.length].decode("utf-8", "replace")
                self.move_in(now)
                self.ended = True
                self.siblings.vacate(self)
                self.tell(partial(self.handler.on_ended, self, event.code, reason, bool(event.local)))

    cdef void move_in(self, int64_t now) noexcept:
        """Move bytes that arrived into the program's buffer."""
        cdef iovec parts[2]
        cdef uint32_t taken
        cdef size_t length
        cdef int i, n
        while self.fill_least > 0 and not self.ended:
            n = self.connection.read_view(<uint32_t>min(self.fill_left, <size_t>0x40000000), parts)
            taken = 0
            for i in range(n):
                length = parts[i].iov_len
                memcpy(self.fill_at, parts[i].iov_base, length)
                self.fill_at += length
                taken += <uint32_t>length
            if taken == 0:
                break
            self.connection.consume(taken, now)
            self.fill_left -= taken
            self.filled += taken
            if self.filled >= self.fill_least:
                self.fill_buffer, self.fill_least = None, 0
                self.tell(partial(self.handler.on_filled, self))
        if self.connection.channel.parcels is not None and not self.ended:
            self.connection.channel.parcels.arrived(now)
        if not self.read_end_told and self.connection.read_ended:
            self.read_end_told = True
            self.tell(partial(self.handler.on_read_ended, self))

    cdef bint next_buffer(self) noexcept:
        """Take the next buffer in hand; false when there is none."""
        cdef const uint8_t[::1] view
        self.send_buffer = None
        while self.send_left == 0:
            if not self.send_queue:
                return False
            self.send_buffer = self.send_queue.popleft()
            view = self.send_buffer
            self.send_left = view.shape[0]
            self.send_at = &view[0] if self.send_left else NULL
        return True

    cdef void move_out(self) noexcept:
        """Move the program's bytes into the ring."""
        cdef iovec parts[2]
        cdef size_t length
        cdef uint32_t copied
        cdef int i, n
        cdef bint had = self.send_left > 0 or self.send_queue
        while self.send_left > 0 or self.next_buffer():
            n = self.connection.write_space(<uint32_t>min(self.send_left, <size_t>0x40000000), parts)
            copied = 0
            for i in range(n):
                length = min(parts[i].iov_len, self.send_left)
                memcpy(parts[i].iov_base, self.send_at, length)
                self.send_at += length
                self.send_left -= length
                copied += <uint32_t>length
            if copied == 0:
                return
            self.connection.wrote(copied)
        if had:
            self.tell(partial(self.handler.on_sent, self))
        if self.finish_due and self.send_left == 0 and not self.send_queue:
            self.finish_due = False
            self.connection.finish()


cdef class LinkSet:
    """`work` is the turn of the endpoint whose links these are; it lives as long as one of them is not closed.
    `takes_strangers`: peers may dial."""

    def __cinit__(self):
        self.fd = -1

    def __init__(self, Loop loop, bint takes_strangers):
        self.loop = loop
        self.all = {}
        self.names = LinkNames()
        self.waiting = []
        self.strangers = Strangers() if takes_strangers else None

    def __dealloc__(self):
        free(self.deadlines.heap)

    cdef int insert(self, Link link) except -1:
        """A new one; MemoryError."""
        deadlines_reserve(&self.deadlines, <uint32_t>len(self.all) + 1)
        link.deadline.owner = <void *>link
        self.all[link.connection.channel.local_id] = link
        self.names.rename(link, [link.connection.channel.local_id])
        return 0

    cdef void remove(self, Link link) noexcept:
        """Forget one: nothing is done with it any more."""
        link.closed = True
        deadline_remove(&self.deadlines, &link.deadline)
        self.names.forget(link)
        if self.strangers is not None:
            self.strangers.remove(link.connection.channel.local_id)
        self.all.pop(link.connection.channel.local_id, None)

    cdef void wait(self, Link link) noexcept:
        """Something happened to it: it is to have a turn."""
        if not link.active:
            link.active = True
            self.waiting.append(link)

    cdef list take_due(self, int64_t due_at, int64_t now):
        """The links whose time has come; peers must not suffer for it when our turn, due at `due_at`, came too late."""
        cdef Link link
        due, late = [], now - due_at
        while self.deadlines.count and deadlines_first(&self.deadlines).at <= now:
            link = <Link>deadlines_first(&self.deadlines).owner
            deadline_remove(&self.deadlines, &link.deadline)
            if late > LATE_US:
                link.connection.excuse(late, now)
            due.append(link)
        return due

    cdef void note_deadline(self, Link link) noexcept:
        """It had its turn: when it is to be told the time may have changed."""
        deadline_set(&self.deadlines, &link.deadline, link.connection.deadline())

    cdef int64_t due(self) noexcept:
        """The earliest of their deadlines."""
        return deadlines_first(&self.deadlines).at if self.deadlines.count else NEVER

    cdef void admit(self, Link link) noexcept:
        """The peer has shown that it is no longer a stranger."""
        if self.strangers is None or link.ended or link.connection.state != ConnectionState.OPEN:
            return
        self.strangers.remove(link.connection.channel.local_id)
        link.admitted = True
        self.admitted += 1

    cdef void vacate(self, Link link) noexcept:
        """The link is over, and only answers repetitions for a while."""
        if link.admitted:
            link.admitted = False
            self.admitted -= 1
        elif self.strangers is not None:
            self.strangers.end(link.connection.channel.local_id)
