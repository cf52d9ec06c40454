"""UDP sockets and their connections. A turn, and who is told what: _datagram_endpoint.pxd."""

import os
from collections import deque
from functools import partial

from libc.errno cimport EAGAIN, EMSGSIZE, ENOBUFS, ENOMEM, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mproxy._ring cimport iovec
from mproxy.ground._clock cimport NEVER
from mproxy.ground._deadlines cimport deadline_remove, deadline_set, deadlines_first, deadlines_reserve
from mproxy.transport._arrivals cimport address_of, end_of_run, own_source, pair_of, sender_of, source_of
from mproxy.transport._channel cimport Transmit
from mproxy.transport._connection cimport ConnectionEvent, ConnectionEventKind
from mproxy.transport._listener cimport ListenResult
from mproxy.transport._packet cimport EndCode, PacketType, Seal, packet_id, packet_type
from mproxy.transport._states cimport ConnectionState
from mproxy.transport.strangers import Strangers
from mproxy.io._loop cimport EPOLLET, EPOLLIN, EPOLLOUT
from mproxy.io._packets cimport MOST_SEGMENTS, Message
from mproxy.io._socket cimport Target
from mproxy.io._udp_socket cimport Peer, peer_name, udp_buffers, udp_fragment, udp_has_no_way, udp_is_v4


cdef class Link:
    """A connection and the program's buffers. Made by DatagramEndpoint."""

    def __init__(self, DatagramEndpoint endpoint):
        self.endpoint = endpoint
        self.connection = Connection(endpoint.config, entropy=os.urandom(32))
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
                self.endpoint.names.rename(self, self.connection.path.ids.window())
        self.keep_source()
        self.wake()

    def abort(self, int code, bytes reason):
        """Give up at once and tell the peer."""
        if not self.ended:
            self.connection.abort(code, reason, self.endpoint.loop.now_us)
            self.wake()

    def probe(self):
        """The network has changed: let the peer see where we are."""
        self.keep_source()
        self.connection.probe(self.endpoint.loop.now_us)
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
            own_source(self.endpoint.sources[0].fd, &self.connection.path.peer, &self.local)

    cdef void wake(self) noexcept:
        """Have the endpoint give it a turn."""
        if not self.active and not self.closed:
            self.active = True
            self.endpoint.waiting.append(self)
            self.endpoint.loop.schedule(&self.endpoint.work)

    cdef void tell(self, event) noexcept:
        """Call a method of the handler; `event` has its arguments."""
        self.endpoint.loop.guard(event, None)

    cdef void events(self, int64_t now) noexcept:
        cdef ConnectionEvent event
        while True:
            self.connection.poll_event(&event)
            if event.kind == ConnectionEventKind.NOTHING:
                return
            if event.kind == ConnectionEventKind.HANDSHAKE_DATA:
                self.tell(partial(self.handler.on_handshake, self, (<char *>event.data)[:event.length]))
            elif event.kind == ConnectionEventKind.ESTABLISHED:
                self.endpoint.admit(self)
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
                self.endpoint.vacate(self)
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


cdef class DatagramEndpoint:
    """`fd` is a bound UDP socket (a duplicate of the caller's is used), `observer` is told of peers that dial;
    None: nobody may. `answers_fd`: a second socket, on which packets arrive for the same connections. `detours`: this
    is one of several workers."""

    def __init__(self, Loop loop, int fd, config, observer=None, *, int answers_fd=-1, uint32_t most=1000,
                 Detours detours=None):
        self.loop = loop
        self.config = config
        self.observer = observer
        self.most = most
        self.links = {}
        self.names = LinkNames()
        self.waiting = []
        self.work.run = run_endpoint
        self.work.owner = <void *>self
        self.out = <uint8_t *>malloc(OUT_BYTES)
        if self.out == NULL:
            raise MemoryError
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.alarm = Alarm()
        if self.alarm.open(loop, &self.work) < 0:
            raise OSError(errno, os.strerror(errno))
        self.due_at = NEVER
        if observer is not None:
            self.listener = Listener(config, os.urandom(16), detours.routing if detours is not None else None)
            self.strangers = Strangers()
        if config.answer_to:
            self.has_answer_to = True
            self.answer_to.length = 28
            memcpy(self.answer_to.bytes, <const char *>config.answer_to, 28)
        self.add_socket(fd)
        self.v4 = udp_is_v4(self.sources[0].fd)
        if answers_fd >= 0:
            self.add_socket(answers_fd)
        if detours is not None:
            self.detours = detours
            detours.open(loop, &self.work)
        _endpoints.add(self)

    def __dealloc__(self):
        free(self.out)
        free(self.deadlines.heap)

    cdef int add_socket(self, int fd) except -1:
        cdef Source *source = &self.sources[self.sockets]
        source.fd = os.dup(fd)
        source.ready = socket_ready
        source.owner = <void *>self
        udp_buffers(source.fd, SOCKET_BYTES)
        udp_fragment(source.fd, False)
        if self.loop.add(source, EPOLLIN | EPOLLOUT | EPOLLET) < 0:
            raise OSError(errno, os.strerror(errno))
        self.sockets += 1
        return 0

    # ---- commands

    def connect(self, Target target, handler, uint64_t tag=0):
        """Dial the first address of `target`; the Link. `tag` leads to the right one of several workers of a server."""
        cdef Link link = Link(self)
        cdef PeerAddress address
        address_of(target, &address)
        link.handler = handler
        link.connection.setup.tag = tag
        self.insert(link)
        link.connection.connect(&address, self.loop.now_us)
        link.wake()
        return link

    def probe(self):
        """The network has changed: every peer is to see where we are."""
        for link in self.links.values():
            (<Link>link).probe()

    @property
    def count(self):
        """Links now."""
        return len(self.links)

    def close(self):
        """Forget every link without a word, and close the sockets."""
        cdef int i
        for link in list(self.links.values()):
            self.remove(link)
        self.loop.unschedule(&self.work)
        self.alarm.close()
        for i in range(self.sockets):
            self.loop.close(&self.sources[i])
        if self.detours is not None:
            self.detours.close()
        self.sockets = 0
        self.loop.soon.append(partial(_endpoints.discard, self))

    # ---- a turn

    cdef void run(self) noexcept:
        cdef int64_t now = self.loop.now_us
        cdef Link link
        cdef bint again = False
        cdef int i
        if self.sockets == 0:
            return
        due = self.take_due(now)
        for i in range(self.sockets):
            if self.readable[i] and self.read(i, now):
                again = True
        again = self.detours is not None and self.read_detours(now) or again
        for link in due:
            link.connection.handle_timeout(now)
            link.wake()
        waiting, self.waiting = self.waiting, []
        for link in waiting:
            link.active = False
            if link.closed:
                continue
            link.events(now)
            link.move_in(now)
            link.move_out()
            link.events(now)
            if (self.sending is not None or self.transmit(link, now)) and not link.active:
                link.active = True
                self.waiting.append(link)
            if link.connection.channel.parcels is not None:
                link.connection.channel.parcels.left()
            if link.connection.state == ConnectionState.CLOSED:
                link.events(now)
                self.remove(link)
            if not link.closed:
                deadline_set(&self.deadlines, &link.deadline, link.connection.deadline())
        self.due_at = deadlines_first(&self.deadlines).at if self.deadlines.count else NEVER
        self.alarm.set(self.due_at)
        if again or (self.waiting and self.sending is None):
            self.loop.schedule(&self.work)

    cdef list take_due(self, int64_t now):
        """The links whose time has come; peers must not suffer for it when our turn came too late."""
        cdef Link link
        due, late = [], now - self.due_at
        while self.deadlines.count and deadlines_first(&self.deadlines).at <= now:
            link = <Link>deadlines_first(&self.deadlines).owner
            deadline_remove(&self.deadlines, &link.deadline)
            if late > LATE_US:
                link.connection.excuse(late, now)
            due.append(link)
        return due

    cdef bint read(self, int index, int64_t now) noexcept:
        """Read what the socket has; true when there may be more."""
        cdef Slot *slot
        cdef int i, n, _batches
        for _batches in range(BATCHES_A_TURN):
            n = self.inbox.receive(self.sources[index].fd, 0, BATCH, True)
            for i in range(n):
                slot = &self.inbox.slots[i]
                if not slot.cut and slot.length > 0:
                    self.take(slot, now)
            if n < 0 and errno == EAGAIN:
                self.readable[index] = False
                return False
        return True

    cdef bint read_detours(self, int64_t now) noexcept:
        """Take what other workers have sent us; true when there may be more."""
        cdef PeerAddress source
        cdef int left = BATCHES_A_TURN * BATCH
        while left > 0 and self.detours.receive(&self.inbox.slots[0], &source):
            self.take_run(&self.inbox.slots[0], 0, self.inbox.slots[0].length, &source, True, now)
            left -= 1
        return left == 0

    cdef void take(self, Slot *slot, int64_t now) noexcept:
        """Take a train: of one connection, or of several that the peer runs from one socket."""
        cdef PeerAddress source
        cdef uint32_t begin = 0, end
        sender_of(slot, &source)
        while begin < slot.length:
            end = end_of_run(slot, begin)
            self.take_run(slot, begin, end, &source, False, now)
            begin = end

    cdef void take_run(self, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source, bint sent_on,
                       int64_t now) noexcept:
        """The packets of one connection in a train. `sent_on`: another worker had it."""
        cdef Link link
        if packet_type(slot.data + begin, min(slot.segment, end - begin)) == 0:
            return
        link = self.names.find(packet_id(slot.data + begin))
        if link is None:
            if self.detours is None or sent_on or not self.detours.take(slot, begin, end, source):
                self.take_new(slot, begin, end, source, now)
            return
        link.connection.receive_run(slot.data + begin, end - begin, slot.segment, source, now)
        if link.connection.path.ids.heard_more:
            self.names.rename(link, link.connection.path.ids.window())
        if self.listener is not None:
            link.local = slot.local
        if link.connection.setup.handshake_event:
            link.events(now)  # it may bring the keys for the very next packet
        link.wake()

    cdef void take_new(self, Slot *slot, uint32_t offset, uint32_t end, const PeerAddress *source,
                       int64_t now) noexcept:
        """Take packets of no connection: from a peer that dials, or from one long gone."""
        cdef Reply reply
        cdef uint32_t length
        cdef int result
        while offset < end:
            length = min(slot.segment, end - offset)
            result = ListenResult.DROP
            if self.listener is not None and not self.is_full(slot.data + offset, length, now):
                result = self.listener.receive(slot.data + offset, length, source, now, &reply)
            if result == ListenResult.ANSWER:
                self.answer(&reply, slot, source)
            elif result == ListenResult.ACCEPT:
                self.accept(&reply, slot, now)
            offset += length

    cdef bint is_full(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        """Whether there is no room for it, or no time: then an ACK, whose cookie is good for once, is left unheard."""
        cdef bint asks = packet_type(data, length) == PacketType.ACK
        if self.places < self.most or not asks:
            return asks and self.observer.is_busy()
        if now >= self.full_at:
            self.full_at = now + FULL_US
            self.loop.guard(self.observer.on_full, None)
        return True

    cdef void answer(self, Reply *reply, Slot *slot, const PeerAddress *source) noexcept:
        """Send a SYN_ACK; whoever misses it asks again."""
        cdef bint other = self.has_answer_to
        if self.sending is not None:
            return
        self.put(<const PeerAddress *>&self.answer_to if other else source, NULL if other else &slot.local,
                 reply.answer, reply.answer_bytes)
        self.outbox.finish(0, False)
        self.outbox.flush(self.sources[0].fd, False)
        self.outbox.clear()

    cdef void accept(self, const Reply *reply, Slot *slot, int64_t now) noexcept:
        cdef Link link, other
        try:
            link = Link(self)
            link.local = slot.local
            link.connection.accept(&reply.accepted, now)
            self.insert(link)
        except MemoryError:
            return
        victim = self.strangers.add(link.connection.channel.local_id, source_of(&reply.accepted.address))
        if victim is not None:
            other = self.names.find(victim)
            other.connection.abort(EndCode.ABORTED, b"too many strangers", now)
            other.events(now)
            self.remove(other)
        self.loop.guard(partial(self.observer.on_link, link), None)
        link.wake()
        if link.handler is None:
            self.remove(link)

    cdef void admit(self, Link link) noexcept:
        """The peer has shown that it is no longer a stranger."""
        if self.strangers is None or link.ended or link.connection.state != ConnectionState.OPEN:
            return
        self.strangers.remove(link.connection.channel.local_id)
        link.admitted = True
        self.places += 1

    cdef void vacate(self, Link link) noexcept:
        """The link is over, and only answers repetitions for a while."""
        if link.admitted:
            link.admitted = False
            self.places -= 1
        elif self.strangers is not None:
            self.strangers.end(link.connection.channel.local_id)

    # ---- packets out

    cdef void put(self, const PeerAddress *to, const LocalAddress *local, uint8_t *data, uint32_t length) noexcept:
        """Begin a message in the outbox, which has room for it."""
        cdef Peer peer
        cdef SocketAddress *receiver = &self.receivers[self.outbox.count]
        memcpy(&peer.name, to.bytes, 28)
        self.outbox.add(receiver, peer_name(&peer, self.v4, receiver), local)
        self.outbox.add_part(data, length)

    cdef bint transmit(self, Link link, int64_t now) noexcept:
        """Send what the connection has to send now; true when it must wait for its turn or for the socket."""
        cdef Transmit run
        cdef uint32_t used = 0, sent = 0
        memset(&run, 0, sizeof(run))
        while sent < SENT_A_TURN:
            if OUT_BYTES - used < RUN_BYTES or not self.outbox.has_room(1):
                if not self.flush(link, now):
                    return True
                used = 0
            run.data = self.out + used
            run.room = RUN_BYTES
            run.most = MOST_SEGMENTS
            if link.connection.poll_transmit(&run, now) == 0:
                return not self.flush(link, now)
            self.put(run.to, &link.local, run.data, run.length)
            self.outbox.finish(run.segment_bytes, now < link.singly_until)
            used += run.length
            sent += run.length
        self.flush(link, now)
        return True

    cdef bint flush(self, Link link, int64_t now) noexcept:
        """Hand the outbox to the kernel; false when the socket is full: the rest waits there."""
        if not self.outbox.flush(self.sources[0].fd, True):
            self.sending = link
            return False
        self.sending = None
        self.settle(link, now)
        self.outbox.clear()
        return True

    cdef void settle(self, Link link, int64_t now) noexcept:
        """Learn from what the kernel did not take. A packet lost here counts as lost on the path."""
        cdef Message *message
        cdef uint32_t refused = 0, size
        cdef int i
        for i in range(self.outbox.count):
            message = &self.outbox.messages[i]
            if message.error == EMSGSIZE:
                size = message.segment if message.segment else message.length
                refused = min(refused, size) if refused else size
            elif message.error != 0 and message.error not in (EAGAIN, ENOBUFS, ENOMEM):
                self.not_taken(link, message.error, now)
            elif message.fell_back and message.error == 0 and now >= link.singly_until:
                link.singly_until = now + SINGLY_US
            if message.sent > 0:
                link.connection.sent_off(True, now)
        if refused:
            link.connection.packet_too_big(refused, now)

    cdef void not_taken(self, Link link, int error, int64_t now) noexcept:
        """The kernel has no route for a packet: from this path's address, which may no longer be ours, or from any.
        Which error means which differs between kernels, families and routes."""
        if link.local.bytes[0] | link.local.bytes[10] | link.local.bytes[15]:
            memset(&link.local, 0, sizeof(LocalAddress))
            link.connection.probe(now)
            link.wake()
        elif udp_has_no_way(error):
            link.connection.sent_off(False, now)

    # ---- links

    cdef int insert(self, Link link) except -1:
        deadlines_reserve(&self.deadlines, <uint32_t>len(self.links) + 1)
        link.deadline.owner = <void *>link
        self.links[link.connection.channel.local_id] = link
        self.names.rename(link, [link.connection.channel.local_id])
        return 0

    cdef void remove(self, Link link) noexcept:
        link.closed = True
        deadline_remove(&self.deadlines, &link.deadline)
        self.names.forget(link)
        if self.strangers is not None:
            self.strangers.remove(link.connection.channel.local_id)
        self.links.pop(link.connection.channel.local_id, None)


_endpoints = set()  # open endpoints: the kernel holds pointers to their sources


cdef void run_endpoint(Work *work) noexcept:
    (<DatagramEndpoint>work.owner).run()


cdef void socket_ready(Source *source, uint32_t events) noexcept:
    cdef DatagramEndpoint endpoint = <DatagramEndpoint>source.owner
    if events & ~<uint32_t>EPOLLOUT:
        endpoint.readable[source != &endpoint.sources[0]] = True
    if events & EPOLLOUT and endpoint.sending is not None:
        endpoint.flush(endpoint.sending, endpoint.loop.now_us)
    endpoint.loop.schedule(&endpoint.work)
