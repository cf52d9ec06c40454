"""Early words: OPEN and the first bytes of a new session's stream go behind HELLO, and are said once, whatever becomes
of that flight."""

from types import SimpleNamespace

import pytest
from tests.drivers._pysession import PySession

from mproxy._early import early_words, note_early
from mproxy._session import EventKind, Session
from mproxy._wire import FrameType
from mproxy.handshake import Welcome
from mproxy.programs.connect import parse
from mproxy.programs.introduction import Introduction
from tests.unit.session_pair import SECRET, SESSION_ID, Pair, frames_of, take_all

BANNER = b"SSH-2.0-OpenSSH_9.2\r\n"
LATER = b"and what comes later"


class Beginning(Pair):
    """A client that has no session yet, with one stream, and the server that its HELLO reaches."""

    def __init__(self, written=BANNER, target=b""):
        super().__init__()
        self.client = PySession(Session(self.config, is_server=False))
        self.stream = self.client.open(target)
        if written:
            self.client.write(self.stream, written)
        self.arrived = b""

    def say(self):
        """What goes behind HELLO."""
        words, self.length = early_words(self.client.session.streams)
        return words

    def hear(self, words):
        """The server, once it has read that flight."""
        self.attach_server(self.hello() + words)
        self.arrived += daemon_of(self.server_events)

    def welcome(self):
        """The client, once it has read WELCOME."""
        assert note_early(self.client.session.streams, self.length, self.epoch)
        self.client.session.learn_identity(SESSION_ID, SECRET)
        self.attach_client()

    def carry(self):
        """Move all that is left; the frames that the client sends."""
        said = []
        for _ in range(5):
            data = self.client.transmit(1 << 20)
            said += frames_of(data)
            self.arrived += daemon_of(self.server.receive(data, self.now, take_all))
            self.down()
        return said

    def rest(self):
        """What the daemon has not been handed at once, because it was connected to meanwhile."""
        while part := self.server.hand(self.stream, 1 << 20)[0]:
            self.arrived += part
        return self.arrived


def daemon_of(events):
    """What is handed to the daemon."""
    return b"".join(event[2] for event in events if event[0] == EventKind.DATA)


@pytest.mark.parametrize("target", [b"", b"localhost:22"])
@pytest.mark.parametrize("written", [b"", BANNER, bytes(4000)])
def test_the_stream_begins_behind_hello(written, target):
    one = Beginning(written, target)
    words = one.say()
    kinds = [frame[0] for frame in frames_of(words)]
    assert kinds == [FrameType.OPEN, FrameType.DATA][:1 + bool(written)]
    assert len(words) <= 28 + len(target) + 28 + 1024
    one.hear(words)
    assert (EventKind.OPENED, one.stream, target) in one.server_events
    one.welcome()
    one.client.write(one.stream, LATER)
    said = [frame for frame in one.carry() if frame[2] == one.stream]
    assert FrameType.OPEN not in [frame[0] for frame in said], "it was said before"
    assert said[0][3] == one.length, "and so were these bytes"
    assert one.rest() == written + LATER


def test_what_the_daemon_answers_comes_with_the_welcome():
    one = Beginning()
    one.hear(one.say())
    one.server.write(one.stream, b"SSH-2.0-server\r\n")
    one.welcome()
    events = one.down()
    assert (EventKind.DATA, one.stream, b"SSH-2.0-server\r\n", False) in events


@pytest.mark.parametrize("kept", [0, 28, 40])
def test_a_flight_that_is_cut_off_behind_hello(kept):
    """WELCOME came back on the old carrier, and the rest of the early words is lost with that."""
    one = Beginning()
    one.hear(one.say()[:kept])
    one.welcome()
    one.lose()
    one.attach()
    one.carry()
    assert one.rest() == BANNER


def test_a_carrier_lost_behind_the_welcome():
    one = Beginning()
    one.hear(one.say())
    one.welcome()
    one.client.write(one.stream, LATER)
    one.lose()
    one.attach()
    said = one.carry()
    assert FrameType.OPEN not in [frame[0] for frame in said]
    assert one.rest() == BANNER + LATER


def test_refused_or_lost_nothing_is_noted():
    """Another HELLO says the same again, to a server that has begun nothing, or begins anew."""
    one = Beginning()
    words = one.say()
    assert one.say() == words
    one.client.write(one.stream, LATER)
    assert one.say().endswith(BANNER + LATER)
    one.hear(one.say())
    one.welcome()
    assert one.rest() == BANNER + LATER


def test_a_welcome_that_has_no_early_words_opens_as_ever():
    one = Beginning()
    one.hear(b"")
    one.client.session.learn_identity(SESSION_ID, SECRET)
    one.attach_client()
    one.carry()
    assert one.rest() == BANNER


def test_an_application_that_has_gone_meanwhile():
    one = Beginning()
    one.say()
    one.client.reset(one.stream)
    assert early_words(one.client.session.streams) == (b"", 0)
    assert not note_early(one.client.session.streams, one.length, 1)


def test_of_several_streams_none_is_early():
    one = Beginning()
    one.client.open()
    assert one.say() == b""


def test_the_server_knows_whether_its_welcome_has_arrived():
    one = Beginning()
    one.hear(one.say())
    assert not one.server.session.met
    one.welcome()
    one.client.session.probe(one.now)
    one.carry()
    assert one.server.session.met


class Known:
    """The instance of a cproxy that has left nothing behind."""

    id, former = b"i" * 16, 0


@pytest.mark.parametrize("is_for_ssh", [True, False])
def test_only_where_sshd_is_the_daemon(is_for_ssh):
    """Should the answer get lost another connection is made, and hears the same again: for ssh nothing has happened
    then, for others it might be an order that is carried out twice."""
    one = Beginning()
    config = parse(["ann@server"]).replace(state_dir=None)
    if not is_for_ssh:
        config = config.replace(direct=None)
    endpoint = SimpleNamespace(session=one.client.session)
    introduction = Introduction(config, None, Known(), endpoint)
    caller = introduction.make_caller()
    assert (BANNER in caller.outgoing) == is_for_ssh
    introduction.welcomed(Welcome(SESSION_ID, SECRET, bytes(16), caller.hello.epoch, 1 << 20, 1 << 16))
    assert one.client.look(one.stream)["sent"] == (len(BANNER) if is_for_ssh else 0)


def test_the_answer_to_an_older_hello_counts_for_what_that_said():
    one = Beginning()
    introduction = Introduction(parse(["ann@server"]).replace(state_dir=None), None, Known(),
                                SimpleNamespace(session=one.client.session))
    first = introduction.make_caller()
    one.client.write(one.stream, LATER)
    introduction.make_caller()
    introduction.welcomed(Welcome(SESSION_ID, SECRET, bytes(16), first.hello.epoch, 1 << 20, 1 << 16))
    assert one.client.look(one.stream)["sent"] == len(BANNER)
