"""Bytes that show where they belong, and traffic on sockets that is checked with them.

`pattern(offset, count)` is the same pseudo-random text for every test: a byte lost, repeated or moved shows
as a difference at its offset.
"""

import errno
import random
import selectors
import socket
import struct
import threading
import time

PERIOD = 1_000_003  # prime, so that no buffer size divides it
BLOCK = random.Random(6200).randbytes(PERIOD)
BLOCK += BLOCK[:1 << 20]


def pattern(offset, count):
    """`count` (at most 1 MiB) bytes of the pattern from `offset` on."""
    start = offset % PERIOD
    return BLOCK[start:start + count]


def check(data, offset):
    """AssertionError unless `data` is what the pattern has at `offset`."""
    if data != pattern(offset, len(data)):
        wrong = next(i for i, (a, b) in enumerate(zip(data, pattern(offset, len(data)), strict=True)) if a != b)
        raise AssertionError(f"wrong byte at offset {offset + wrong}")


def read_exactly(connection, count):
    data = bytearray()
    while len(data) < count:
        part = connection.recv(min(count - len(data), 1 << 18))
        assert part, f"end after {len(data)} of {count} bytes"
        data += part
    return bytes(data)


def read_pattern(connection, count, offset=0):
    """Reads and checks `count` bytes of the pattern."""
    end = offset + count
    while offset < end:
        part = connection.recv(min(end - offset, 1 << 18))
        assert part, f"end at offset {offset}, not {end}"
        check(part, offset)
        offset += len(part)


def read_to_end(connection):
    parts = []
    while part := connection.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def send_pattern(connection, count, offset=0):
    for start in range(offset, offset + count, 1 << 18):
        connection.sendall(pattern(start, min(1 << 18, offset + count - start)))


def reset(connection):
    """Closes with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def ends_by_reset(connection):
    """Reads on until the connection ends; True if it ended by RST."""
    try:
        read_to_end(connection)
    except OSError as error:
        if error.errno == errno.ECONNRESET:
            return True
        raise
    return False


def is_turned_away(host, port):
    """Whether who connects there is reset; the reset may be here before connect() has looked at how it ended."""
    try:
        return ends_by_reset(host.connect(port))
    except ConnectionResetError:
        return True


class Traffic(threading.Thread):
    """Sends the pattern on every connection to an echo daemon, and judges what comes back, until told to
    finish.

    At most `in_flight` bytes of a connection are on their way. `received[i]` counts the good bytes of
    connection i.
    """

    def __init__(self, connections, in_flight=1 << 16):
        super().__init__(daemon=True)
        self.connections = list(connections)
        self.in_flight = in_flight
        self.sent = [0] * len(self.connections)
        self.received = [0] * len(self.connections)
        self.failures = []
        self.finishing = False
        self.selector = selectors.DefaultSelector()
        self.start()

    @property
    def total(self):
        return sum(self.received)

    def run(self):
        for index, connection in enumerate(self.connections):
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, index)
        finishing = False
        while self.selector.get_map() and not self.failures:
            if self.finishing and not finishing:
                finishing = True
                self._end_directions()
            for key, ready in self.selector.select(timeout=0.05):
                try:
                    self._serve(key, ready, finishing)
                except (OSError, AssertionError) as error:
                    self.failures.append(f"connection {key.data}: {error}")

    def _serve(self, key, ready, finishing):
        index = key.data
        if ready & selectors.EVENT_READ:
            data = key.fileobj.recv(1 << 18)
            check(data, self.received[index])
            self.received[index] += len(data)
            if not data:
                missing = self.sent[index] - self.received[index]
                assert finishing, "ended too early"
                assert missing == 0, f"ended {missing} bytes too early"
                self.selector.unregister(key.fileobj)
                return
        room = 0 if finishing else self.in_flight - (self.sent[index] - self.received[index])
        if ready & selectors.EVENT_WRITE and room > 0:
            self.sent[index] += key.fileobj.send(pattern(self.sent[index], min(room, 1 << 18)))
            room -= 1
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if room > 0 else 0)
        if key.events != wanted:
            self.selector.modify(key.fileobj, wanted, index)

    def _end_directions(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.shutdown(socket.SHUT_WR)
            self.selector.modify(key.fileobj, selectors.EVENT_READ, key.data)

    def goes_on(self, more=1, within=30):
        """Waits until every connection received `more` bytes."""
        goals = [count + more for count in self.received]
        end = time.monotonic() + within
        while any(count < goal for count, goal in zip(self.received, goals, strict=True)):
            stuck = sum(count < goal for count, goal in zip(self.received, goals, strict=True))
            assert not self.failures, self.failures[:5]
            assert time.monotonic() < end, f"{stuck} of {len(goals)} connections got nothing for {within} s"
            time.sleep(0.005)

    def finish(self, within=20):
        """Stops sending, waits for the rest of every answer and its end; returns the total number of bytes."""
        self.finishing = True
        self.join(timeout=within)
        assert not self.failures, self.failures[:5]
        open_now = len(self.selector.get_map() or ()) if self.is_alive() else 0
        assert not self.is_alive(), f"{open_now} connections did not end within {within} s"
        return self.total


def fill(connection, quiet=0.5, most=1 << 28):
    """Sends the pattern until nothing was taken for `quiet` seconds; returns the number of bytes taken."""
    connection.setblocking(False)
    sent, progress_at = 0, time.monotonic()
    while sent < most and time.monotonic() - progress_at < quiet:
        try:
            sent += connection.send(pattern(sent, 1 << 18))
            progress_at = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    connection.settimeout(15)
    return sent


class Flow(threading.Thread):
    """Sends the pattern on `source` and judges it at `sink`, as fast as it goes, in two threads until `stop`."""

    def __init__(self, source, sink):
        super().__init__(daemon=True)
        self.source, self.sink = source, sink
        self.received = 0
        self.failure = None
        self.stopping = False
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.start()

    def run(self):
        sent = 0
        try:
            while not self.stopping and not self.failure:
                self.source.sendall(pattern(sent, 1 << 18))
                sent += 1 << 18
            self.source.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.failure = self.failure or error

    def _read(self):
        try:
            while data := self.sink.recv(1 << 18):
                check(data, self.received)
                self.received += len(data)
        except (OSError, AssertionError) as error:
            self.failure = error

    def rate(self, seconds):
        """Bytes a second that arrive during the next `seconds`."""
        before = self.received
        time.sleep(seconds)
        assert self.failure is None, self.failure
        return (self.received - before) / seconds

    def stop(self, within=20):
        """Ends the direction; everything sent must have arrived."""
        self.stopping = True
        self.join(within)
        self.reader.join(within)
        assert self.failure is None, self.failure
        assert not (self.is_alive() or self.reader.is_alive()), f"stuck after {self.received} bytes"
