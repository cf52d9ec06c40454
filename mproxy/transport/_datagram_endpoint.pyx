"""UDP sockets and their connections. A turn, and who is told what: _datagram_endpoint.pxd."""

import os
from functools import partial

from libc.errno cimport EAGAIN, EMSGSIZE, ENOBUFS, ENOMEM, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mproxy.ground._clock cimport NEVER
from mproxy.transport._arrivals cimport address_of, end_of_run, sender_of, source_of
from mproxy.transport._backlog cimport Postponed
from mproxy.transport._channel cimport Transmit
from mproxy.transport._listener cimport ListenResult, put_unknown
from mproxy.transport._connection cimport Denial
from mproxy.transport._packet cimport MIN_PACKET_BYTES, EndCode, PacketType, packet_id, packet_type
from mproxy.transport._states cimport ConnectionState
from mproxy.io._loop cimport EPOLLET, EPOLLIN, EPOLLOUT
from mproxy.io._packets cimport MOST_SEGMENTS, Message
from mproxy.io._socket cimport Target
from mproxy.io._udp_socket cimport Peer, peer_name, udp_buffers, udp_fragment, udp_has_no_way, udp_is_v4


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
        self.work.run = run_endpoint
        self.work.owner = <void *>self
        self.links = LinkSet(loop, observer is not None)
        self.links.work = &self.work
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
            self.backlog = Backlog()
            self.late_work.run = run_late
            self.late_work.owner = <void *>self
            self.late_work.slow = True
            self.listener = Listener(config, os.urandom(16), detours.routing if detours is not None else None)
        if config.answer_to:
            self.has_answer_to = True
            self.answer_to.length = 28
            memcpy(self.answer_to.bytes, <const char *>config.answer_to, 28)
        self.add_socket(fd)
        self.links.fd = self.sources[0].fd
        self.v4 = udp_is_v4(self.sources[0].fd)
        if answers_fd >= 0:
            self.add_socket(answers_fd)
        if detours is not None:
            self.detours = detours
            detours.open(loop, &self.work)
        _endpoints.add(self)

    def __dealloc__(self):
        free(self.out)

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
        cdef Link link = Link(self.links, self.config)
        cdef PeerAddress address
        address_of(target, &address)
        link.handler = handler
        link.connection.setup.tag = tag
        self.links.insert(link)
        link.connection.connect(&address, self.loop.now_us)
        link.wake()
        return link

    def probe(self):
        """The network has changed: every peer is to see where we are."""
        for link in self.links.all.values():
            (<Link>link).probe()

    @property
    def places(self):
        """How many peers are admitted now."""
        return self.links.admitted

    def disown(self, Target peer):
        """Let a peer of the process before this one know that its connections are not here; nothing is repeated."""
        cdef Reply reply
        cdef PeerAddress address
        address_of(peer, &address)
        put_unknown(reply.answer, 0)
        reply.answer_bytes = MIN_PACKET_BYTES
        self.answer(&reply, NULL, &address)

    @property
    def count(self):
        """Links now."""
        return len(self.links.all)

    def close(self):
        """Forget every link without a word, and close the sockets."""
        cdef int i
        for link in list(self.links.all.values()):
            self.links.remove(link)
        self.loop.unschedule(&self.work)
        if self.backlog is not None:
            self.loop.unschedule(&self.late_work)
            self.backlog.drop_all()
        self.alarm.close()
        for i in range(self.sockets):
            self.loop.close(&self.sources[i])
        if self.detours is not None:
            self.detours.close()
        self.sockets = 0
        self.links.fd = -1
        self.loop.soon.append(partial(_endpoints.discard, self))

    # ---- a turn

    cdef void run(self) noexcept:
        """A turn."""
        cdef int64_t now = self.loop.now_us
        cdef Link link
        cdef bint again = False
        cdef int i
        if self.sockets == 0:
            return
        due = self.links.take_due(self.due_at, now)
        for i in range(self.sockets):
            if self.readable[i] and self.read(i, now):
                again = True
        again = self.detours is not None and self.read_detours(now) or again
        for link in due:
            link.connection.handle_timeout(now)
            link.wake()
        self.serve(now)
        if again or (self.links.waiting and self.sending is None):
            self.loop.schedule(&self.work)

    cdef void serve(self, int64_t now) noexcept:
        """Give each link its turn to which something has happened, and set the timer."""
        cdef Link link
        waiting, self.links.waiting = self.links.waiting, []
        for link in waiting:
            link.active = False
            if link.closed:
                continue
            link.events(now)
            link.move_in(now)
            link.move_out()
            link.events(now)
            if self.sending is not None or self.transmit(link, now):
                self.links.wait(link)
            if link.connection.channel.parcels is not None:
                link.connection.channel.parcels.left()
            link.connection.channel.tidy()
            if link.connection.state == ConnectionState.CLOSED:
                link.events(now)
                self.links.remove(link)
            if not link.closed:
                self.links.note_deadline(link)
        self.due_at = self.links.due()
        self.alarm.set(self.due_at)

    cdef void run_late(self) noexcept:
        """Act on some packets that have waited. Their links have their turns here, too: it is for the same peers."""
        cdef int64_t now = self.loop.now_us
        cdef Postponed *run
        cdef Slot slot
        cdef int left = LATE_A_TURN
        if self.sockets == 0:
            return
        memset(&slot, 0, sizeof(slot))
        while left > 0 and self.backlog.all.count > 0:
            left -= 1
            run = self.backlog.take()
            slot.data = run.data
            slot.length = run.length
            slot.segment = run.segment
            slot.local = run.local
            self.give(self.links.names.find(packet_id(run.data)), &slot, 0, run.length, &run.source, now)
            free(run)
        self.serve(now)
        if self.links.waiting and self.sending is None:
            self.loop.schedule(&self.work)
        if self.backlog.all.count > 0:
            self.loop.schedule(&self.late_work)

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
        link = self.links.names.find(packet_id(slot.data + begin))
        if link is None and self.detours is not None and not sent_on and self.detours.take(slot, begin, end, source):
            return
        if self.backlog is not None and self.can_wait(link, now):
            self.backlog.add(slot, begin, end, source)
            self.loop.schedule(&self.late_work)
        else:
            self.give(link, slot, begin, end, source, now)

    cdef bint can_wait(self, Link link, int64_t now) noexcept:
        """Whether packets for that link (None: there is none yet) are of somebody who only comes, or comes back."""
        return link is None or not link.admitted or (
            now - link.connection.received_at > link.connection.keepalive_us)

    cdef void give(self, Link link, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source,
                   int64_t now) noexcept:
        """Act on the packets of one connection; None: there is none yet."""
        if link is None:
            self.take_new(slot, begin, end, source, now)
            return
        link.connection.receive_run(slot.data + begin, end - begin, slot.segment, source, now)
        if link.connection.path.ids.heard_more:
            self.links.names.rename(link, link.connection.path.ids.window())
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
            if self.listener is None:
                self.deny(slot.data + offset, length, source, now)
            elif not self.is_full(slot.data + offset, length, now):
                result = self.listener.receive(slot.data + offset, length, source, now, &reply)
            if result == ListenResult.ANSWER:
                self.answer(&reply, &slot.local, source)
                if packet_type(slot.data + offset, length) == PacketType.DATA:
                    return  # once for all of a train
            elif result == ListenResult.ACCEPT:
                self.accept(&reply, slot, now)
            offset += length

    cdef void deny(self, const uint8_t *packet, uint32_t length, const PeerAddress *source, int64_t now) noexcept:
        """Take an UNKNOWN: a connection that we have dialled may have died with the peer's process."""
        cdef Link link
        cdef Denial denial
        if packet_type(packet, length) != PacketType.UNKNOWN:
            return
        for link in list(self.links.all.values()):
            denial = link.connection.denied(packet, length, source)
            if denial == Denial.ASKED and now >= link.asked_at:
                link.asked_at = now + UNKNOWN_US
                link.connection.channel.ping_due = True
                link.wake()
            elif denial == Denial.DENIED and now >= link.unknown_at:
                link.unknown_at = now + UNKNOWN_US
                link.tell(partial(link.handler.on_unknown, link))

    cdef bint is_full(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        """Whether there is no room for it, or no time: then an ACK, whose cookie is good for once, is left unheard."""
        cdef bint asks = packet_type(data, length) == PacketType.ACK
        if self.links.admitted < self.most or not asks:
            return asks and self.observer.is_busy()
        if now >= self.full_at:
            self.full_at = now + FULL_US
            self.loop.guard(self.observer.on_full, None)
        return True

    cdef void answer(self, Reply *reply, const LocalAddress *local, const PeerAddress *source) noexcept:
        """Send a SYN_ACK or an UNKNOWN; whoever misses it asks again."""
        if self.sending is not None:
            return
        if self.has_answer_to:
            source, local = &self.answer_to, NULL
        self.put(source, local, reply.answer, reply.answer_bytes)
        self.outbox.finish(0, False)
        self.outbox.flush(self.sources[0].fd, False)
        self.outbox.clear()

    cdef void accept(self, const Reply *reply, Slot *slot, int64_t now) noexcept:
        cdef Link link, other
        try:
            link = Link(self.links, self.config)
            link.local = slot.local
            link.connection.accept(&reply.accepted, now)
            self.links.insert(link)
        except MemoryError:
            return
        victim = self.links.strangers.add(link.connection.channel.local_id, source_of(&reply.accepted.address))
        if victim is not None:
            other = self.links.names.find(victim)
            other.connection.abort(EndCode.ABORTED, b"too many strangers", now)
            other.events(now)
            self.links.remove(other)
        self.loop.guard(partial(self.observer.on_link, link), None)
        link.wake()
        if link.handler is None:
            self.links.remove(link)

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


_endpoints = set()  # open endpoints: the kernel holds pointers to their sources


cdef void run_endpoint(Work *work) noexcept:
    (<DatagramEndpoint>work.owner).run()


cdef void run_late(Work *work) noexcept:
    (<DatagramEndpoint>work.owner).run_late()


cdef void socket_ready(Source *source, uint32_t events) noexcept:
    cdef DatagramEndpoint endpoint = <DatagramEndpoint>source.owner
    if events & ~<uint32_t>EPOLLOUT:
        endpoint.readable[source != &endpoint.sources[0]] = True
    if events & EPOLLOUT and endpoint.sending is not None:
        endpoint.flush(endpoint.sending, endpoint.loop.now_us)
    endpoint.loop.schedule(&endpoint.work)
