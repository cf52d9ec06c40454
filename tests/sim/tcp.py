"""A TCP connection in virtual time, as far as whoever writes to it can tell: what a socket takes, what is in flight,
what TCP_INFO says, when messages come out. And the path below: a rate, a queue, a delay each way.

The sender is Reno with selective acknowledgements (RFC 6675) and HyStart, the receiver acknowledges every segment.
No handshake, no end.
"""

import random
from collections import deque

from tests.sim.path import Direction

SEGMENT = 1448             # payload of a full packet
ACK_BYTES = 24             # beside the headers that a Direction counts
SOCKET_BYTES = 46_000      # what a socket takes at the beginning
LEAST_TIMEOUT = 200_000
REORDERING = 3             # packets sent later that arrive before one counts as lost
HYSTART = 4_000, 16_000    # beyond the shortest round trip slow start ends: an eighth of it, within these (RFC 9406)


class Packet:
    """What is in flight: a segment from byte `number` on, or an acknowledgement up to it for one segment."""

    def __init__(self, number, length, of=None):
        self.number = number
        self.length = length   # 0: an acknowledgement
        self.of = of           # the segment that it is for
        # of a segment
        self.order = 0         # how many were sent before it
        self.sent_at = 0
        self.acked_then = self.acked_at = 0  # bytes acknowledged as it was sent, and since when

    def __len__(self):
        return (self.length or ACK_BYTES) + 24


class Socket:
    """One end. `deliver(message, length)` gets what the peer wrote, in order."""

    def __init__(self, clock, out):
        self.clock = clock
        self.out = out         # the Direction
        self.deliver = lambda message, length: None
        self.peer = None
        # sender
        self.messages = deque()  # (number behind the last byte, length, message), not delivered
        self.written = self.sent = self.acked = 0
        self.flight = {}       # packets by number, in the order in which they were sent
        self.flight_bytes = 0
        self.lost = deque()    # to be sent again
        self.orders = self.newest = 0  # packets sent, and the newest that arrived
        self.window = 10 * SEGMENT
        self.threshold = 1 << 40
        self.recover = 0       # a loss is being repaired up to here
        self.rtt = self.least_rtt = 0
        self.acked_at = 0
        self.delivery_rate = 0  # bytes a second by the newest packet, as tcpi_delivery_rate
        self.timeout_at = None
        # receiver
        self.received = 0
        self.early = {}        # segments behind a gap

    # ---- for whoever writes

    @property
    def unacked(self):
        return self.written - self.acked

    def space(self):
        """What the socket takes now."""
        return max(0, max(SOCKET_BYTES, 2 * self.window) - self.unacked)

    def write(self, message, length):
        self.written += length
        self.messages.append((self.written, length, message))
        self._transmit()

    # ---- sender

    def _transmit(self):
        while self.flight_bytes < self.window:
            if self.lost:
                packet = self.lost.popleft()
                if packet.number < self.acked:
                    continue
            elif self.sent < self.written:
                packet = Packet(self.sent, min(SEGMENT, self.written - self.sent))
                self.sent += packet.length
            else:
                return
            self._send(Packet(packet.number, packet.length))

    def _send(self, packet):
        self.orders += 1
        packet.order, packet.sent_at = self.orders, self.clock.now
        packet.acked_then, packet.acked_at = self.acked, self.acked_at or self.clock.now
        self.flight[packet.number] = packet
        self.flight_bytes += packet.length
        self.out.send(packet)
        if self.timeout_at is None:
            self._arm()

    def _arm(self):
        self.timeout_at = self.clock.now + max(LEAST_TIMEOUT, 2 * self.rtt or 1_000_000)
        self.clock.at(self.timeout_at, self._on_timeout, self.timeout_at)

    def _on_timeout(self, due):
        if due != self.timeout_at:
            return
        self.timeout_at = None
        if self.acked < self.sent:
            self._shrink()
            self.window = SEGMENT
            self.rtt *= 2
            while self.flight:
                self._take_out(next(iter(self.flight)), self.lost)
            self._transmit()

    def _take_out(self, number, into=None):
        packet = self.flight.pop(number, None)
        if packet is not None:
            self.flight_bytes -= packet.length
            if into is not None:
                into.append(packet)

    def _shrink(self):
        if self.acked >= self.recover:
            self.threshold = self.window = max(7 * self.window // 10, 2 * SEGMENT)
            self.recover = self.sent

    def take_ack(self, packet):
        """An acknowledgement arrived."""
        now, of = self.clock.now, packet.of
        self._note_rtt(max(1, now - of.sent_at))
        self._take_out(of.number)
        self.newest = max(self.newest, of.order)
        if packet.number > self.acked:
            newly, self.acked, self.acked_at = packet.number - self.acked, packet.number, now
            self.delivery_rate = (self.acked - of.acked_then) * 1_000_000 // max(1, now - of.acked_at)
            if self.acked >= self.recover:
                self.window += newly if self.window < self.threshold else SEGMENT * newly // self.window
            self._arm()
        while self.flight:
            number, first = next(iter(self.flight.items()))
            if number < self.acked:
                self._take_out(number)
            elif first.order + REORDERING < self.newest:
                self._shrink()
                self._take_out(number, self.lost)
            else:
                break
        self._transmit()
        if self.acked == self.sent:
            self.timeout_at = None

    def _note_rtt(self, rtt):
        self.rtt = (7 * self.rtt + rtt) // 8 if self.rtt else rtt
        self.least_rtt = min(self.least_rtt or rtt, rtt)
        if self.rtt > self.least_rtt + min(max(self.least_rtt // 8, HYSTART[0]), HYSTART[1]):
            self.threshold = min(self.threshold, self.window)

    # ---- receiver

    def take_segment(self, packet):
        """A segment arrived."""
        self.early[packet.number] = packet.length
        while self.received in self.early:
            self.received += self.early.pop(self.received)
        self.out.send(Packet(self.received, 0, packet))
        messages = self.peer.messages
        while messages and messages[0][0] <= self.received:
            _end, length, message = messages.popleft()
            self.deliver(message, length)

    def take(self, packet):
        """A packet arrived."""
        if packet.length:
            self.take_segment(packet)
        else:
            self.take_ack(packet)


class TokenBucket(Direction):
    """A direction that lets `burst` bytes through at once when it has rested."""

    def __init__(self, clock, faults, burst):
        super().__init__(clock, faults, random.Random(1))
        self.burst_us = burst * 1e6 / faults.rate

    def send(self, packet):
        self.busy_until = max(self.busy_until, self.clock.now - self.burst_us)
        waits = max(0, self.busy_until - self.clock.now)
        if waits * self.faults.rate / 1e6 > self.faults.queue_bytes:
            self.overflows += 1
            return
        self.busy_until += len(packet) * 1e6 / self.faults.rate
        at = max(self.clock.now, self.busy_until) + self.faults.delay
        self.clock.at(int(at), self._arrive, packet, self.clock.now, None)


def connect(clock, faults, burst=0):
    """Both ends of a connection over a path with these Faults in each direction."""
    ways = [TokenBucket(clock, faults, burst) for _ in range(2)]
    ends = [Socket(clock, way) for way in ways]
    for end, other, way in zip(ends, reversed(ends), reversed(ways), strict=True):
        end.peer = other
        way.sink = end.take
    return ends
