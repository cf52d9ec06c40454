"""Two sessions whose carrier is a pair of byte strings that a test moves by hand; the clock is a literal."""

from tests.drivers._pysession import PySession

from mproxy._frames import FrameParser, encode_frame
from mproxy._session import Session
from mproxy._wire import FrameFlag, FrameType
from mproxy.ground.config import SessionConfig

SESSION_ID = b"session-id-16-by"
SECRET = bytes(32)
BEAT_US = 1_000_000


def make_config(**values):
    """A SessionConfig with small limits."""
    return SessionConfig(**{"heartbeat_us": BEAT_US, "window_bytes": 16384, "session_budget_bytes": 65536, **values})


def frames_of(data):
    """[(type, flags, stream, seq, ack, payload)] of whole frames."""
    return [frame[:6] for frame in FrameParser().feed(data)]


def end_mark(newest=0):
    """The frame that closes a RESUME list; `newest` is the id of the newest stream the list knows of."""
    return encode_frame(FrameType.RESUME, flags=FrameFlag.END, seq=newest)


def heartbeat(sent_at=0, *, echo_of=None):
    """A HEARTBEAT of the test's session."""
    if echo_of is None:
        return encode_frame(FrameType.HEARTBEAT, seq=sent_at, payload=SESSION_ID)
    return encode_frame(FrameType.HEARTBEAT, flags=FrameFlag.REPLY, ack=echo_of, payload=SESSION_ID)


def take_all(_stream, length):
    """An application that takes everything it is offered."""
    return length


def take_none(_stream, _length):
    """An application that does not read."""
    return 0


def lone(*, is_server, config=None, active=True, now=1000):
    """One session on a carrier whose other end is the test; `active`: the peer's list was empty."""
    config = config or make_config()
    one = PySession(Session(config, is_server=is_server, session_id=SESSION_ID, secret=SECRET))
    one.session.attach(1, config.window_bytes, config.session_budget_bytes, b"", now)
    if active:
        one.receive(end_mark(), now, take_all)
    return one


class Pair:
    """`client` and `server`, PySessions; `now` is theirs."""

    def __init__(self, config=None, server_config=None):
        self.config = config or make_config()
        self.server_config = server_config or self.config
        self.client = PySession(Session(self.config, is_server=False, session_id=SESSION_ID, secret=SECRET))
        self.server = PySession(Session(self.server_config, is_server=True, session_id=SESSION_ID, secret=SECRET))
        self.now = 1000
        self.epoch = 0

    def hello(self):
        """What the client says in its HELLO: its list of streams as it is now."""
        return self.client.session.streams.resume_list()

    def attach(self, client_list=None):
        """A new carrier, both lists exchanged; returns the events of (client, server)."""
        client_list = self.hello() if client_list is None else client_list
        self.attach_server(client_list)
        return self.attach_client(), self.server_events

    def attach_server(self, client_list):
        """The first half: HELLO has arrived at the server."""
        self.epoch += 1
        config = self.config
        server = self.server.session
        server.attach(
            self.epoch, config.window_bytes, config.session_budget_bytes, server.streams.resume_list(), self.now)
        self.server_events = self.server.receive(client_list, self.now, take_none)

    def attach_client(self):
        """The second half: WELCOME and the server's list arrive at the client."""
        config = self.server_config
        self.client.session.attach(
            self.epoch, config.window_bytes, config.session_budget_bytes, b"", self.now)
        count = 28 * (self.server.stream_count + 1)
        return self.client.receive(self.server.transmit(count), self.now, take_none)

    def lose(self):
        """The carrier breaks; what was not moved is lost."""
        self.client.session.carrier_lost()
        self.server.session.carrier_lost()

    def up(self, takes=take_all, most=1 << 20):
        """Move what the client sends; returns the server's events."""
        return self.server.receive(self.client.transmit(most), self.now, takes)

    def down(self, takes=take_all, most=1 << 20):
        """Move what the server sends; returns the client's events."""
        return self.client.receive(self.server.transmit(most), self.now, takes)

    def pump(self, takes=take_all):
        """Move everything both ways until nothing moves; returns the events of (client, server)."""
        client_events, server_events = [], []
        for _ in range(100):
            at_server, at_client = self.client.transmit(1 << 20), self.server.transmit(1 << 20)
            if not at_server and not at_client:
                return client_events, server_events
            server_events += self.server.receive(at_server, self.now, takes)
            client_events += self.client.receive(at_client, self.now, takes)
        raise AssertionError("the sessions do not come to rest")

    def beat(self):
        """Let one heartbeat interval pass with heartbeats and their echoes both ways."""
        self.now += BEAT_US
        for one in (self.client, self.server):
            one.session.handle_timeout(self.now)
        return self.pump()

    def both_end(self, stream):
        """Both applications end their direction and close."""
        for one in (self.client, self.server):
            one.end(stream)
        self.pump()
        for one in (self.client, self.server):
            one.hand(stream, 1 << 20)
            one.release(stream)
        self.pump()

    def streams(self):
        """How many streams (client, server) remember, finished or not."""
        return self.client.stream_count, self.server.stream_count
