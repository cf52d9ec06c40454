"""The carrier that is a connection over datagrams. Both lives of a byte, and its end: _datagram_carrier.pxd."""

import os
import socket
from functools import partial

from libc.string cimport memcpy, memset

from mproxy._ring cimport Ring, iovec, ring_used, ring_view
from mproxy._session cimport Session
from mproxy.carrier._carrier cimport PathReport
from mproxy.io._loop cimport BUFFER_BYTES, Work
from mproxy.io._packets cimport LocalAddress
from mproxy.io._udp_socket cimport Peer, peer_pair
from mproxy.transport._arrivals cimport own_source, pair_of
from mproxy.transport._channel cimport Channel
from mproxy.transport._connection cimport Connection
from mproxy.transport._datagram_endpoint cimport DatagramEndpoint
from mproxy.transport._link cimport Link
from mproxy.transport._packet cimport EndCode
from mproxy.transport._path cimport Path
from mproxy.transport.observers import LinkHandler


cdef class LinkFrames(FrameParcels):
    """Of `carrier`, for one session."""

    def __init__(self, Session session not None, DatagramCarrier carrier not None):
        FrameParcels.__init__(self, session, carrier.link.connection)
        self.carrier = carrier

    cdef bint prepare(self) noexcept:
        """What the handshake has said comes first: a long list waits for room."""
        cdef Link link = self.carrier.link
        return link.send_left == 0 and not link.send_queue and FrameParcels.prepare(self)

    cdef bytes last_words(self):
        """What `prepare` has not written."""
        cdef Ring *control = &self.session.transmitter.control
        cdef iovec parts[2]
        cdef int i, n = ring_view(control, control.head, ring_used(control), parts)
        return b"".join([(<char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(n)])

    cdef void deliver_ordered(self, int64_t now) noexcept:
        cdef uint8_t *buffer = self.carrier.loop.buffer
        cdef iovec parts[2]
        cdef uint32_t length
        while self.recipient != NULL and self.connection.read_view(BUFFER_BYTES, parts) > 0:
            length = <uint32_t>parts[0].iov_len
            memcpy(buffer, parts[0].iov_base, length)  # its place in the ring is free from here on
            self.connection.consume(length, now)
            self.recipient.take(self.recipient.owner, buffer, length, False)

    cdef bint deliver(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        if self.recipient == NULL or not self.recipient.take(self.recipient.owner, data, length, True):
            return False
        self.carrier.parcels += 1
        return True

    cdef void arrived(self, int64_t now) noexcept:
        self.deliver_ordered(now)

    cdef void left(self) noexcept:
        if self.session is not None:
            self.carrier.writable = not self.session.wants_transmit()
            self.session.streams.stalled = not self.carrier.writable
            self.session.transmitter.end_batch()


cdef class DatagramCarrier(Carrier):
    """`link`, whose keys are known, now belongs to the carrier. No byte of a stream goes to an address of which
    `judge(host)` does not say that the peer may be there. It has taken `answer_us` to answer, as far as is known."""

    def __init__(self, Link link not None, judge=None, int64_t answer_us=0):
        self.loop = link.siblings.loop
        self.link = link
        self.sealed = True
        self.pulls = True
        self.keepalive_us = link.connection.keepalive_us
        self.idle_us = link.connection.idle_us
        link.handler = Liveliness(self)
        self.judge = judge
        self.answer_us = answer_us
        link.connection.path.judged = judge is not None

    cdef void wake_endpoint(self) noexcept:
        if self.work != NULL:
            self.loop.schedule(self.work)

    cdef void begin(self, Work *work) noexcept:
        self.work = work
        self.writable = True
        _open.add(self)
        if self.link.ended:
            self.end("closed by the peer")

    cdef void join(self, Session session, Recipient *recipient) noexcept:
        self.frames = LinkFrames(session, self)
        self.frames.recipient = recipient

    cdef long receive(self, size_t most, const uint8_t **data) noexcept:
        self.readable = False
        return -1

    cdef size_t room(self, bint bulk_waits, bint *bulk_too) noexcept:
        bulk_too[0] = True
        self.writable = False
        self.link.wake()
        return 0

    cdef bint report(self, PathReport *path) noexcept:
        cdef Channel channel = self.link.connection.channel
        path.answer_us = channel.timeout_us(0)
        if channel.recovery.rtt.smoothed == 0:
            path.answer_us = max(path.answer_us, self.answer_us)  # the engine has measured nothing yet
        path.silent_us = self.loop.now_us - self.link.connection.received_at
        path.repeats = 0  # the engine finds by itself which packets are too large
        path.in_flight = <uint32_t>channel.recovery.waiting
        path.acked_bytes = channel.recovery.delivered
        path.packets = <uint32_t>channel.in_packets
        path.data_packets = self.parcels
        return True

    cdef void expect(self, int64_t interval_us, int64_t death_us) noexcept:
        if interval_us != self.interval_us:
            self.interval_us = interval_us
            self.link.connection.expect(self.keepalive_us if interval_us <= self.keepalive_us else 2 * interval_us,
                                        max(self.idle_us, 4 * death_us), self.loop.now_us)
            self.link.wake()

    cdef void close(self, bint abort) noexcept:
        if self.frames is not None:
            if not abort and not self.frames.prepare() and self.link.unsent:
                self.link.send(self.frames.last_words())
            self.frames.recipient = NULL
            self.frames.close()
        self.work = NULL
        if abort:
            self.link.abort(EndCode.ABORTED, b"")
        else:
            leave_link(self.link)
        # Whoever brings packets may be at work in here.
        self.loop.soon.append(partial(_open.discard, self))

    def seek(self):
        if self.work == NULL:
            return
        if self.seeks_left == 0:
            self.seeks_left = SEEKS
            self.loop.call_later(SEEK_US, self.seek_on)
        self.sought_from = self.loop.now_us

    def seek_on(self):
        """Ask again, unless the peer was heard; called by the loop."""
        if self.work == NULL or self.link.ended or self.link.connection.received_at >= self.sought_from:
            self.seeks_left = 0
            return
        self.seeks_left -= 1
        self.link.connection.ask(self.loop.now_us)
        self.link.wake()
        if self.seeks_left > 0:
            self.loop.call_later(SEEK_US, self.seek_on)

    # ---- told by the link, through Liveliness

    def peer_moved(self):
        """The peer has another address. If it may not be there the endpoint will hear that; until then nothing goes
        there but control frames."""
        if self.frames is not None:
            self.frames.held = self.judge is not None and not self.judge(self.link.peer[0])
        self.moved = True
        self.wake_endpoint()

    def seen_elsewhere(self):
        """The peer sees us at another address than before: ours has changed, or what a NAT makes of it."""
        self.moved |= self.link.connection.setup.active  # a server's clients see it where they have dialled
        self.wake_endpoint()

    def peer_seen(self):
        """The peer seems to have another address."""
        cdef Path path = self.link.connection.path
        path.trusted = self.judge(pair_of(&path.candidate)[0])

    def deny(self):
        """The peer may not know the connection any more."""
        self.denied = True
        self.wake_endpoint()

    def lose(self, str why not None):
        """It is over, and the endpoint will see that."""
        self.end(why)
        self.readable = True
        self.wake_endpoint()

    def describe(self):
        """`kind` (datagram), `local` and `peer` as (host, port)."""
        return {"kind": "datagram", "local": own_address(self.link), "peer": self.link.peer}


class Liveliness(LinkHandler):
    """What the link of a carrier tells."""

    def __init__(self, DatagramCarrier carrier):
        self._carrier = carrier

    def on_address_changed(self, _link):
        self._carrier.peer_moved()

    def on_address_seen(self, _link):
        self._carrier.peer_seen()

    def on_address_asked(self, _link):
        self._carrier.seen_elsewhere()

    def on_unknown(self, _link):
        self._carrier.deny()

    def on_read_ended(self, _link):
        self._carrier.lose("closed by the peer")

    def on_ended(self, _link, _code, reason, local):
        self._carrier.lose(reason if local and reason else "closed by the peer")


class Farewell(LinkHandler):
    """Takes what still comes on a link whose carrier was closed, so that its stream can end."""

    def __init__(self):
        self._rest = bytearray(4096)

    def on_filled(self, link):
        if not link.ended:
            link.fill(self._rest, 1)


def leave_link(Link link not None):
    """End a link behind what was written or given to `send`."""
    link.handler = Farewell()
    if link.ended:
        return
    link.finish()
    if link.fill_least == 0:  # else it is called when that buffer has bytes
        link.handler.on_filled(link)
    link.siblings.loop.call_later(GOODBYE_US, partial(link.abort, int(EndCode.ABORTED), b""))


def is_busy(DatagramEndpoint endpoint not None):
    """Whether a link of it has not ended yet; one that is silent for longer than its peer may be is not waited for."""
    return any(not (<Link>link).ended and not is_silent(link) for link in endpoint.links.all.values())


cdef bint is_silent(Link link):
    cdef Connection connection = link.connection
    return link.siblings.loop.now_us - connection.received_at > connection.keepalive_us + (
        connection.channel.timeout_us(0))


cdef tuple own_address(Link link):
    """(host, port) that this path has; "?" for the host where there is no way to the peer."""
    cdef LocalAddress local = link.local
    cdef Peer peer
    if link.siblings.fd < 0:
        return "?", 0
    with socket.socket(fileno=os.dup(link.siblings.fd)) as own:
        port = own.getsockname()[1]
    if not local.bytes[0] | local.bytes[10] | local.bytes[15]:
        own_source(link.siblings.fd, &link.connection.path.peer, &local)
    memset(&peer, 0, sizeof(peer))
    memcpy(&peer.name.sin6_addr, local.bytes, 16)
    host = peer_pair(&peer)[0]
    return "?" if host == "::" else host, port


_open = set()  # carriers in use, alive until the turn after `close`
