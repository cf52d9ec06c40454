"""A session with the fuzzer for its peer, and what must hold of it at any moment."""

from tests.drivers._pysession import PySession

from mproxy._session import EventKind, Session
from mproxy._wire import MIN_WINDOW_BYTES
from mproxy.ground.config import SessionConfig

SESSION_ID = b"session-id-16-by"
CONFIG = SessionConfig(window_bytes=16384, session_budget_bytes=65536, max_streams=20)
MOST_BYTES = CONFIG.session_budget_bytes + CONFIG.max_streams * MIN_WINDOW_BYTES


class Watched:
    """A PySession whose applications are slow, and whose every event is checked."""

    def __init__(self, is_server):
        self.one = PySession(Session(CONFIG, is_server=is_server, session_id=SESSION_ID, secret=bytes(32)))
        self.session = self.one.session
        self.now = 1000
        self.epoch = 0
        self.open = set()
        self.closed = self.said = False
        self.told = []
        self.attach()
        if not is_server:
            for data in (b"some", b"", b"x" * 5000):
                stream = self.one.open()
                self.open.add(stream)
                self.one.write(stream, data)

    def attach(self):
        """A new carrier, unless the session is over."""
        if not self.closed:
            self.epoch += 1
            self.session.attach(
                self.epoch, CONFIG.window_bytes, CONFIG.session_budget_bytes, self.session.streams.resume_list(),
                self.now)

    def receive(self, data):
        """Bytes of the peer; applications take half of what they are offered. `check` is the caller's."""
        for event in self.one.receive(data, self.now, lambda _stream, length: length // 2):
            assert not self.closed, "an event after the end"
            self.told.append(event)
            if event[0] == EventKind.OPENED:
                assert event[1] not in self.open
                self.open.add(event[1])
            elif event[0] == EventKind.RESET:
                self.open.discard(event[1])
            elif event[0] == EventKind.DATA:
                assert event[1] in self.open
            elif event[0] == EventKind.CLOSED:
                self.closed = True

    def applications_move(self):
        """Every application takes what is kept for it, writes a little and ends what its peer has ended."""
        for stream in list(self.open):
            if self.one.look(stream) is None:
                continue
            _, ended = self.one.hand(stream, 3000)
            self.one.write(stream, b"answer")
            if ended:
                self.one.end(stream)
        self.check()
        self.send()

    def check(self):
        """What holds at any moment, whatever the peer sent."""
        streams = self.session.streams
        assert streams.in_held <= MOST_BYTES
        assert streams.out_held <= MOST_BYTES
        held_in = held_out = 0
        for stream in self.open:
            look = self.one.look(stream)
            if look is None:
                continue
            assert look["acked"] <= look["peak"] <= look["written"] + look["out_ended"]
            assert look["handed"] <= look["received"]
            if not look["aborted"]:
                held_in += look["received"] - look["handed"]
                held_out += look["written"] - look["acked"]
        assert held_in <= streams.in_held
        assert held_out <= streams.out_held

    def send(self):
        """The carrier takes what there is; who ended the session says why."""
        sent = self.one.transmit(1 << 20)
        if self.closed and not self.said:
            self.said = True
            _, _, reason, local = self.told[-1]
            assert reason in sent or not local
