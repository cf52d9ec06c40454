"""A sender and a receiver of files that are joined: no sockets, no threads, and what is said can be looked at."""

from mproxy.transfer import messages
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.messages import HEADER, WITH_BULK, MessageType
from mproxy.transfer.receiver import FileReceiver, ReceiveObserver
from mproxy.transfer.sender import FileSender, SendObserver
from mproxy.transfer.source_queue import SourceQueue
from tests.unit.test_receiver import Threads
from tests.walked import find_sources


class JoinedLink:
    """One end. What is sent arrives when the test says so; `change(kind, message)` may replace a message on its way."""

    unsent = 0
    heard_us = 0
    peer = ("127.0.0.1", 1)

    def __init__(self):
        self.handler = self.other = self.wanted = None
        self.change = None
        self.least = self.filled = 0
        self.arrived = bytearray()
        self.said = bytearray()
        self.bytes_out = {}  # kind -> bytes of such messages
        self.ended = None
        self.finished = False

    def fill(self, buffer, least=None):
        self.wanted, self.least, self.filled = memoryview(buffer), least or len(buffer), 0

    def send(self, data):
        self.said += data
        while len(self.said) >= HEADER.size:
            kind, length = messages.parse_header(self.said)
            if len(self.said) < HEADER.size + length:
                return
            message = bytes(memoryview(self.said)[:HEADER.size + length])
            del self.said[:len(message)]
            self.bytes_out[kind] = self.bytes_out.get(kind, 0) + len(message)
            self.other.arrived += self.change(kind, message) if self.change else message

    def abort(self, code, reason):
        if self.ended is None:
            self.ended = reason.decode()
            self.handler.on_ended(self, code, self.ended, True)
            if self.other.ended is None:
                self.other.ended = self.ended
                self.other.handler.on_ended(self.other, code, self.ended, False)

    def finish(self):
        """As a connection does: it is over when both ends have finished, and all has arrived."""
        self.finished = True

    def end_if_done(self):
        """The end of a connection that has done all that it was for."""
        if self.ended is None and self.finished and self.other.finished and not self.arrived:
            self.ended = ""
            self.handler.on_ended(self, 0, "", True)

    def pass_on(self):
        """Whether something arrived."""
        if self.wanted is None or not self.arrived or self.ended is not None:
            return False
        taken = self.arrived[:len(self.wanted) - self.filled]
        del self.arrived[:len(taken)]
        self.wanted[self.filled:self.filled + len(taken)] = taken
        self.filled += len(taken)
        if self.filled >= self.least:
            self.handler.on_filled(self)
        return True


class Said(SendObserver, ReceiveObserver):
    """What either side was told."""

    def __init__(self):
        self.outcomes, self.error = {}, "not over"

    def on_open(self, _end):
        """Nothing to do."""

    def on_surplus(self, _receiver, surplus, answer):
        self.surplus = surplus
        answer(True)

    def on_file(self, *told):
        _end, source, *rest = told
        if not rest:
            self.outcomes[source.name] = source.outcome.code

    def on_over(self, _sender, error, _code, _local):
        self.error = error

    def on_crowded(self, again):
        again()


class Joined:
    """Both ends: of the files in `there`, which go below `here`."""

    def __init__(self, there, here, *, force=True, sketches=True, deletes=False, find=None, **options):
        self.threads, self.said = Threads(), Said()
        self.sending, self.receiving = JoinedLink(), JoinedLink()
        self.sending.other, self.receiving.other = self.receiving, self.sending
        self.into = IntoDirectory(str(here), force)
        self.into.offers_sketches, self.into.deletes = sketches, deletes
        self.deletion = None
        self.receiver = FileReceiver(self.receiving, self.into, self.threads, self.said)
        self.sender = FileSender(self.sending, self.threads, self.said, **options)
        self.sources = find_sources(list(map(str, there)), lambda path, why: None, **(find or {}))

    def run(self, most=100_000):
        """Until nothing moves any more."""
        self.sender.start(SourceQueue(self.sources), self.deletion)
        self.receiver.on_established(self.receiving)
        self.sender.on_established(self.sending)
        for _ in range(most):
            moved = self.sending.pass_on() | self.receiving.pass_on()
            if self.threads.jobs:
                self.threads.work(1)
            elif not moved:
                self.receiving.end_if_done()
                self.sending.end_if_done()
                break
        else:
            raise AssertionError("they go on for ever")
        return self.said.error

    def sent(self, *kinds):
        """Bytes of the sender's messages of these kinds."""
        return sum(self.sending.bytes_out.get(kind, 0) for kind in kinds or tuple(MessageType))


def payload_of(message):
    """What is behind the header of a message with bulk."""
    kind, _length = messages.parse_header(message)
    return message[HEADER.size + WITH_BULK[kind]:]
