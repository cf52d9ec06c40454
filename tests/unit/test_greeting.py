"""The reception: which callers are heard, which have to go, what counts as a failure. Sockets and loop are fakes,
except where it matters what the kernel reports."""

import socket
import struct

import pytest

from mproxy._wire import CloseCode, PreambleFlag
from mproxy.ground.config import SproxyConfig
from mproxy.ground.errors import PeerError
from mproxy.handshake import Hello, encode_preamble
from mproxy.io import _loop
from mproxy.policy.crowd import TAG_SHARE, Rank
from mproxy.policy.sources import FAILURES
from mproxy.programs import greeting
from mproxy.programs.greeting import Reception
from mproxy.programs.guest import SILENT_US, STEP_US
from mproxy.programs.link_guest import MOST_QUEUED, LinkDoor

OFFICE, ELSEWHERE = "203.0.113.1", "198.51.100.1"
PREAMBLE = encode_preamble()
TAG = 77


class Handle:
    """A watch or a timer."""

    def set(self, **_how):
        pass

    def close(self):
        pass

    cancel = pause = close


class Loop:
    """Its time stands still; slow calls are made when `run` is called."""

    def __init__(self):
        self.at = 0
        self.slow = []
        self.timers = []

    def now(self):
        return self.at

    def watch(self, _fd, callback, **_how):
        self.ready = callback
        return Handle()

    def call_later(self, delay_us, callback):
        timer = Handle()
        self.timers.append((self.at + delay_us, callback, timer))
        timer.cancel = lambda: self.timers.remove(entry) if entry in self.timers else None
        entry = self.timers[-1]
        return timer

    def call_slow(self, callback):
        self.slow.append(callback)

    def run(self):
        calls, self.slow = self.slow, []
        for call in calls:
            call()

    def pass_time(self, us):
        self.at += us
        for timer in [timer for timer in self.timers if timer[0] <= self.at]:
            if timer in self.timers:
                self.timers.remove(timer)
                timer[1]()


class Sock:
    """The server's end of a connection."""

    def __init__(self, number):
        self.number = number
        self.arrived = b""
        self.hung_up = self.closed = False
        self.sent = b""
        self.options = set()

    def fileno(self):
        return self.number

    def setblocking(self, _how):
        pass

    def setsockopt(self, _level, name, _value):
        self.options.add(name)

    def recv(self, size, flags=0):
        data = self.arrived[:size]
        if not data and not self.hung_up:
            raise BlockingIOError
        if not flags:
            self.arrived = self.arrived[size:]
        return data

    def send(self, data):
        self.sent += data
        return len(data)

    def shutdown(self, _how):
        pass

    def close(self):
        self.closed = True


class Log:
    def __init__(self):
        self.events = []

    def warning(self, event, **fields):
        self.events.append((event, fields))


class Host:
    """Knows one tag; refuses every HELLO, except perhaps one that resumes."""

    def __init__(self):
        self.ranks = {TAG: Rank.PRESENT}

    def make_tls(self):
        return None

    def rank(self, tag):
        return self.ranks.get(tag, Rank.STRANGER)

    def check(self, _guest, hello, _channel):
        if not hello.session_id:
            raise PeerError(CloseCode.BAD_PROOF, "wrong proof")


class Scene:
    """A reception with room for `most` in each crowd."""

    def __init__(self, most):
        self.loop, self.log, self.host = Loop(), Log(), Host()
        self.reception = Reception(self.loop, None, self.log, SproxyConfig(port=0, max_unfinished=most), self.host)
        self.made = 0

    def call(self, words=b"", source=OFFICE, hung_up=False, later=False):
        """A connection that brings `words`; with `later` they have arrived but were not read yet."""
        self.made += 1
        sock = Sock(self.made)
        sock.arrived, sock.hung_up = words, hung_up
        self.reception._receive(sock, (source, 50_000 + self.made))
        if words and not later:
            self.loop.ready(0)
            self.loop.run()
        return sock

    def source_of(self, prefix=ELSEWHERE):
        """A new source each time."""
        self.made += 1
        return f"100.{self.made >> 8}.{self.made & 255}.1"


@pytest.fixture
def scene():
    return Scene(16)


def block(scene, source=OFFICE):
    for _ in range(FAILURES):
        assert scene.call(b"garbage, not ours", source).closed
    assert scene.log.events[-1][0] == "source-blocked"


def test_any_number_of_silent_connections_leave_those_who_speak_alone(scene):
    """1,500 a second from 250 sources would keep honest clients out if always the oldest of all had to go."""
    speaking = [scene.call(PREAMBLE, scene.source_of()) for _ in range(16)]
    silent = [scene.call(b"", scene.source_of()) for _ in range(500)]
    assert not any(sock.closed for sock in speaking)
    assert [sock.closed for sock in silent] == [True] * 484 + [False] * 16, "of the silent the oldest go"


def test_words_that_were_not_read_yet_count(scene):
    """While the loop is busy, an honest caller whose bytes were not read yet must not count as silent."""
    honest = scene.call(PREAMBLE, ELSEWHERE, later=True)
    for _ in range(100):
        scene.call(b"", scene.source_of())
    assert not honest.closed


def test_a_flood_that_speaks_lets_returning_sessions_in(scene):
    returning = scene.call(encode_preamble(tag=TAG))
    flood = [scene.call(PREAMBLE, scene.source_of()) for _ in range(200)]
    assert not returning.closed and sum(not sock.closed for sock in flood) == 15
    assert flood[-1].closed is False, "and a newcomer gets its turn"


def test_a_blocked_source_is_still_heard_when_it_shows_a_tag(scene):
    """With many clients behind one address, garbage from one must not keep out the sessions of the others."""
    block(scene)
    assert scene.call(PREAMBLE).closed and not scene.call(b"").closed
    assert not scene.call(encode_preamble(tag=TAG)).closed
    assert scene.call(encode_preamble(tag=TAG + 1)).closed, "a tag that nobody made"
    assert not scene.call(PREAMBLE, ELSEWHERE).closed


@pytest.mark.parametrize("flags", [PreambleFlag.PROBE, PreambleFlag.PROBE | PreambleFlag.TLS])
def test_a_probe_is_answered_and_is_no_failure(scene, flags):
    """Goal: whoever looks every second whether there is an sproxy is not taken for one who fails."""
    for _ in range(5 * FAILURES):
        sock = scene.call(encode_preamble(flags=flags))
        assert sock.sent == PREAMBLE and sock.closed
    assert not scene.log.events and not len(scene.reception)
    block(scene)
    assert scene.call(encode_preamble(flags=flags)).sent == PREAMBLE, "also where nobody is heard"


def test_nobody_is_blocked_where_sessions_are(scene):
    scene.reception.known_at(OFFICE)
    for _ in range(5 * FAILURES):
        scene.call(b"garbage, not ours")
    assert not scene.call(PREAMBLE).closed
    assert "source-blocked" not in [event for event, _ in scene.log.events]


def test_an_overheard_tag_brings_no_crowd_in(scene):
    block(scene)
    shown = [scene.call(encode_preamble(tag=TAG), ELSEWHERE) for _ in range(TAG_SHARE)]
    assert not any(sock.closed for sock in shown)
    assert scene.call(encode_preamble(tag=TAG)).closed, "from then on it is a stranger's"


def test_a_tag_that_only_fails_is_worth_nothing(scene):
    """Its failures do not count for the address, and it may have no more of them than an address may."""
    refused = encode_preamble(tag=TAG) + b"no frame, and nothing that could become one"
    for _ in range(FAILURES):
        assert scene.call(refused, ELSEWHERE).closed
    assert scene.log.events[-1] == ("source-blocked", {
        "source": f"tag:{TAG:016x}", "why": "too many failed attempts; ignored for a while"})
    assert not scene.call(PREAMBLE, ELSEWHERE).closed
    block(scene)
    assert scene.call(encode_preamble(tag=TAG)).closed


def test_dials_that_were_given_up_while_nobody_looked_are_no_failures(scene):
    """While sproxy stood still for ten seconds, its clients, all behind one address, dialled and gave up."""
    for _ in range(5 * FAILURES):
        assert scene.call(PREAMBLE + b"the beginning of a handshake", hung_up=True).closed
    assert not scene.call(PREAMBLE).closed and not scene.log.events


def test_who_leaves_in_the_middle_has_failed(scene):
    for _ in range(FAILURES):
        sock = scene.call(PREAMBLE)
        sock.hung_up = True
        scene.loop.ready(0)
        scene.loop.run()
        assert sock.closed
    assert scene.call(PREAMBLE).closed


def test_what_somebody_said_who_has_gone_has_no_effect(scene):
    """The HELLO of a dial that cproxy has given up must not end the carrier that it has by now."""
    sock = scene.call(encode_preamble(tag=TAG))
    sock.arrived, sock.hung_up = b"a HELLO", True
    scene.loop.ready(0)
    scene.loop.run()
    assert sock.closed and not scene.log.events and not sock.sent


def test_one_session_has_two_lists_under_way_at_most(scene):
    """Otherwise a client that has a session could fill all places with endless lists."""
    hello = Hello(b"s" * 16, b"i" * 16, b"n" * 16, 1, 1 << 26, 1 << 22)
    hello.list_bytes = 28
    words = PREAMBLE + hello.encode()
    begun = [scene.call(words, scene.source_of()) for _ in range(10)]
    assert sum(not sock.closed for sock in begun) == TAG_SHARE
    assert not scene.call(PREAMBLE).closed


def test_the_silent_have_seconds_and_who_speaks_has_more(scene):
    """A round trip of seven seconds is slow, not hostile; but useless bytes do not extend the time."""
    silent, dripping = scene.call(b""), scene.call(PREAMBLE[:5])
    speaking = scene.call(PREAMBLE)
    scene.loop.pass_time(SILENT_US - 1)
    assert not (silent.closed or dripping.closed)
    scene.loop.pass_time(1)
    assert silent.closed and dripping.closed and not speaking.closed
    scene.loop.pass_time(STEP_US - SILENT_US - 1)
    assert not speaking.closed
    scene.loop.pass_time(1)
    assert speaking.closed
    assert [fields["why"] for event, fields in scene.log.events] == [
        "no preamble within 5s", "no preamble within 5s", "no HELLO within 30s"]


def test_one_source_has_a_part_and_a_known_one_more():
    scene = Scene(64)
    strangers = [scene.call(PREAMBLE) for _ in range(40)]
    assert sum(not sock.closed for sock in strangers) == 16
    scene.reception.known_at(ELSEWHERE)
    assert sum(not scene.call(PREAMBLE, ELSEWHERE).closed for _ in range(32)) == 32


def test_those_over_udp_are_heard_while_there_is_time(scene):
    """Goal: of ten thousand that come at once those that are heard are served before they give up."""
    door = LinkDoor(scene.loop, scene.log, SproxyConfig(port=0), scene.reception, lambda: None)
    steps = []
    for number in range(MOST_QUEUED):
        assert not door.is_busy()
        door.in_turn(lambda number=number: steps.append(number))
    assert door.is_busy() and not steps
    scene.loop.run()
    assert steps == list(range(MOST_QUEUED)) and not door.is_busy()


def test_guests_never_take_more_than_a_quarter_of_the_descriptors(monkeypatch):
    monkeypatch.setattr(greeting.resource, "getrlimit", lambda _which: (1024, 1024))
    assert greeting.most_unfinished(SproxyConfig(port=0)) == 128
    assert greeting.most_unfinished(SproxyConfig(port=0, max_unfinished=3)) == 3


def test_the_end_sends_everybody_away(scene):
    socks = [scene.call(b""), scene.call(PREAMBLE)]
    scene.reception.close()
    assert all(sock.closed for sock in socks) and not scene.loop.timers


def test_who_is_told_nothing_is_reset_and_a_refusal_is_not_waited_for_long(scene):
    """Otherwise the kernel would keep the sockets of vanished callers for minutes, in any number."""
    refused, silent = (scene.call(words, ELSEWHERE) for words in (b"garbage, not ours", b""))
    scene.loop.pass_time(SILENT_US)
    assert refused.sent and silent.sent
    assert refused.options == silent.options == {socket.TCP_USER_TIMEOUT}
    block(scene)
    left = scene.call(PREAMBLE + b"the beginning of a handshake", hung_up=True)
    for sock in (left, scene.call(PREAMBLE), *[scene.call(b"", scene.source_of()) for _ in range(20)][:4]):
        assert sock.closed and not sock.sent and sock.options == {socket.SO_LINGER}


class Held:
    """The real loop, in which it is never the turn of slow calls."""

    def __init__(self):
        self.real = _loop.Loop()
        self.slow = []
        self.now, self.call_later, self.watch = self.real.now, self.real.call_later, self.real.watch

    def call_slow(self, callback):
        self.slow.append(callback)

    def run(self, turns):
        """So many turns after the first slow call was queued."""
        def count():
            nonlocal turns
            turns -= bool(self.slow)
            if turns and self.now() < deadline:
                self.real.call_soon_threadsafe(count)
            else:
                self.real.stop()

        deadline = self.now() + 10_000_000
        count()
        self.real.run()


@pytest.mark.parametrize("words", [b"", PREAMBLE])
def test_a_guest_that_has_gone_queues_once(words):
    """Its end is ready in every turn: each would queue a call more, and sproxy do nothing else."""
    loop, log = Held(), Log()
    reception = Reception(loop, None, log, SproxyConfig(port=0, max_unfinished=16), Host())
    listener = socket.create_server(("127.0.0.1", 0))
    caller = socket.create_connection(listener.getsockname())
    sock, address = listener.accept()
    reception._receive(sock, address)
    caller.sendall(words)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.close()
    loop.run(turns=20)
    assert len(loop.slow) == 1
    loop.slow.pop()()
    assert not len(reception) and sock.fileno() < 0
    listener.close()
