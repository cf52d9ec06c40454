"""When and where cproxy dials, and what it reports, in virtual time and with sockets that follow a plan."""

import errno
import itertools
import socket
import statistics
from functools import partial
from types import SimpleNamespace

import pytest

from mproxy.policy import candidate, dialer, paths
from mproxy.policy.attempt import DialAttempt
from mproxy.policy.dialer import Dialer
from mproxy.policy.paths import SEGMENTS, SMALL_US, Paths, Way, network_of
from tests.unit.dial_parts import SECOND_US, FakeCaller, FakeLoop, FakeResolver, FakeSocket, Observer, Plan, refuse

HOST = "server.example"
V4 = 2
OWN, OTHER = "10.3.0.2", "10.4.0.2"


class Bench:
    """A dialer. `network(way)` gives the plan for a connection."""

    def __init__(self, monkeypatch, network, *, answer=("10.3.0.2",), timeout_s=10, stay=False):
        self.loop = FakeLoop()
        self.observer = Observer(self.loop)
        self.resolver = FakeResolver(self.loop, answer)
        self.network = network
        self.sockets = []
        self.source = "10.1.0.2"
        self.device = "wlan0"
        self.queued = 0
        monkeypatch.setattr(dialer, "outgoing_device", lambda _address: self.device)
        monkeypatch.setattr(dialer, "preferred_source", lambda *_: self.source)
        monkeypatch.setattr("mproxy.policy.attempt.preferred_source", lambda *_: self.source)
        monkeypatch.setattr(candidate.fcntl, "ioctl", lambda *_: self.queued.to_bytes(4, "little"))
        config = SimpleNamespace(
            sproxy_host=HOST, sproxy_port=6200, proxy=None, stay=stay, connect_timeout_us=int(timeout_s * SECOND_US))
        self.dialer = Dialer(self.loop, self.resolver, config, self.observer, self._connect)

    def _connect(self, way):
        plan = self.network(way)
        refuse(way, plan)
        sock = FakeSocket(self.loop, way, plan)
        self.sockets.append(sock)
        return sock

    def start(self, seconds):
        self.begun = self.loop.now()
        self.dialer.start()
        self.loop.run(seconds)
        return self

    def tried(self):
        """The address of each connection, and how many seconds after the start it was tried."""
        return [(sock.way.address[0], (sock.began_at - self.begun) / 1e6) for sock in self.sockets]

    def open_sockets(self):
        return [sock for sock in self.sockets if not sock.closed]


SILENT = Plan()
REFUSED = Plan(0.001, error=errno.ECONNREFUSED)


def welcoming(rtt_s):
    return Plan(rtt_s, says=[(rtt_s, b"tls"), (2 * rtt_s, b"welcome")])


# --- attempts

def test_a_connection_that_cannot_be_watched_is_one_that_failed(monkeypatch):
    """Right: it is closed and reported, and another one is tried; it must not block the next for ever."""
    bench = Bench(monkeypatch, lambda _way: welcoming(0.01))
    watch, out_of_memory = bench.loop.watch, [OSError(errno.ENOMEM, "Cannot allocate memory")]

    def watch_but_once(fd, call, *, read=True, write=False):
        if read and out_of_memory:
            raise out_of_memory.pop()
        return watch(fd, call, read=read, write=write)

    bench.loop.watch = watch_but_once
    bench.start(5)
    assert bench.sockets[0].closed
    assert [why for _at, why in bench.observer.cut_off] == ["Cannot allocate memory"]
    assert len(bench.observer.welcomed) == 1


@pytest.mark.parametrize("rtt_s", [0.01, 1, 3.5, 4, 7, 9])
def test_a_round_trip_of_seconds_connects(monkeypatch, rtt_s):
    """Right: the first attempt is answered after one round trip, however many were begun beside it."""
    bench = Bench(monkeypatch, lambda _way: welcoming(rtt_s)).start(40)
    (at, _way), = bench.observer.welcomed
    assert at - bench.begun == pytest.approx(3 * rtt_s * SECOND_US, abs=0.02 * SECOND_US)
    assert bench.observer.failed == []


def test_every_attempts_end_is_told_at_its_time(monkeypatch):
    """Right: behind a router that drops packets each attempt lasts --connect-timeout, not less, and is reported."""
    bench = Bench(monkeypatch, lambda _way: SILENT, timeout_s=10).start(12)
    begun = [at for _address, at in bench.tried()]
    ends = [(at - bench.begun) / 1e6 for at, _why in bench.observer.failed]
    assert ends[0] == pytest.approx(10, abs=0.01)
    assert len(ends) == sum(at <= 2.0 for at in begun)
    assert all("no answer within 10s (10.3.0.2 port 6200)" in why for _at, why in bench.observer.failed)


@pytest.mark.parametrize("timeout_s", [1, 10, 60, 600])
def test_attempts_are_bounded_and_go_on(monkeypatch, timeout_s):
    bench = Bench(monkeypatch, lambda _way: SILENT, timeout_s=timeout_s).start(110)
    assert len(bench.open_sockets()) <= dialer.ATTEMPTS
    if timeout_s <= 10:
        begun = [at for _address, at in bench.tried()]
        assert max(later - earlier for earlier, later in itertools.pairwise(begun)) <= 2.1


def test_a_silent_name_service_is_told(monkeypatch):
    bench = Bench(monkeypatch, lambda _way: SILENT, answer=None).start(11)
    assert bench.observer.failed[0] == (bench.begun + 10 * SECOND_US, "no answer from the name service within 10s")


def test_refused_is_told_at_once(monkeypatch):
    bench = Bench(monkeypatch, lambda _way: REFUSED).start(0.1)
    assert bench.observer.failed[0][1] == "Connection refused (10.3.0.2 port 6200)"


# --- candidates

def test_who_connects_and_says_nothing_is_told(monkeypatch):
    """Right: a frozen sproxy, or a port that only accepts, is reported after --connect-timeout; few connections."""
    bench = Bench(monkeypatch, lambda _way: Plan(0.001)).start(11)
    (at, why), = bench.observer.failed
    assert at - bench.begun == pytest.approx(10 * SECOND_US, abs=0.1 * SECOND_US)
    assert why == "connected, but no welcome within 10s"
    assert len(bench.sockets) <= 6


def test_no_second_candidate_while_one_makes_progress(monkeypatch):
    """Right: a list of streams that takes 25 s to arrive is waited for, on one connection."""
    says = [(0.4 * number, b"piece") for number in range(1, 63)] + [(25, b"welcome")]
    bench = Bench(monkeypatch, lambda _way: Plan(0.1, says=says)).start(30)
    assert bench.observer.welcomed == [(bench.sockets[0].began_at + 25_100_000, bench.sockets[0].way)]
    assert len(bench.sockets) <= 2    # one more was under way before the first had connected
    assert bench.observer.failed == []


def test_progress_upwards_counts(monkeypatch):
    """Right: the candidate is kept while the other end's kernel acknowledges our list."""
    bench = Bench(monkeypatch, lambda _way: Plan(0.1, says=[(20, b"welcome")]))
    bench.queued = 60_000
    bench.start(0.2)
    for _ in range(60):
        bench.queued -= 900
        bench.loop.run(0.35)
    assert [at for at, _way in bench.observer.welcomed] == [bench.sockets[0].began_at + 20_100_000]
    assert len(bench.sockets) <= 2


def test_an_overdue_candidate_gives_way_to_one_that_works(monkeypatch):
    plans = iter([Plan(0.001)] + [welcoming(0.001)] * 10)
    bench = Bench(monkeypatch, lambda _way: next(plans)).start(3)
    (at, _way), = bench.observer.welcomed
    assert at - bench.begun < 1.5 * SECOND_US


def before_hello(monkeypatch):
    """Candidates that have sent the first words of TLS, and HELLO only behind the answer."""
    monkeypatch.setattr(FakeCaller, "met", False)
    monkeypatch.setattr(FakeCaller, "finished", False)


def test_a_path_that_was_mute_is_found_soon(monkeypatch):
    """Goal: in the first two minutes of an outage the median is 0.7 s, whatever accepted connections before and said
    nothing."""
    before_hello(monkeypatch)
    took = []
    for number in range(320):  # pauses are random: of few the median is, too
        back_at = 1 + 0.339 * number
        bench = Bench(monkeypatch, lambda _way: Plan(0.005))
        bench.start(back_at)
        assert len(bench.open_sockets()) <= 5
        bench.network = lambda _way: welcoming(0.005)
        bench.loop.run(10)
        (at, _way), = bench.observer.welcomed
        took.append((at - bench.begun) / SECOND_US - back_at)
        assert len(bench.open_sockets()) == 1
    assert statistics.median(took) <= 0.7 and max(took) < 2.2


def test_the_first_that_is_answered_goes_on(monkeypatch):
    """Goal: a busy sproxy answers by turns: who waits longest is next, and is not given up for one that came later."""
    before_hello(monkeypatch)
    plans = iter([Plan(0.001, says=[(3.5, b"hello"), (4.2, b"welcome")])] + [Plan(0.001)] * 20)
    bench = Bench(monkeypatch, lambda _way: next(plans)).start(10)
    first, *others = bench.sockets
    assert [at for at, _way in bench.observer.welcomed] == [first.began_at + 4_201_000]
    assert len(others) == 3 and all(sock.is_reset for sock in others)
    assert bench.open_sockets() == [first]


def test_whoever_has_said_hello_stands_aside_for_nobody(monkeypatch):
    """Right: two of ours that have are never open at once."""
    bench = Bench(monkeypatch, lambda _way: Plan(0.005))
    bench.dialer.start()
    for _ in range(300):
        bench.loop.run(0.1)
        assert len(bench.open_sockets()) <= 1


def test_a_mute_path_is_left_alone_in_an_old_outage(monkeypatch):
    before_hello(monkeypatch)
    bench = Bench(monkeypatch, lambda _way: Plan(0.005)).start(300)
    before = len(bench.sockets)
    bench.loop.run(600)
    assert before < 200 and len(bench.sockets) - before < 60
    bench.dialer.stop()
    assert bench.open_sockets() == []


def test_a_doubt_that_is_over_before_hello_costs_no_change(monkeypatch):
    """Right: if bytes come on the old carrier while the new one connects, nothing is sent on the new one."""
    bench = Bench(monkeypatch, lambda _way: welcoming(0.5)).start(0.2)
    bench.observer.wanted = False
    bench.loop.run(10)
    assert bench.observer.welcomed == []
    assert bench.open_sockets() == []
    assert not bench.dialer.running
    assert all(sock.is_reset for sock in bench.sockets), "nothing of them is to stay in the kernel"


def test_who_is_given_up_for_another_is_reset(monkeypatch):
    """Right: after an orderly end its HELLO would still arrive, and be answered on a path that may be gone."""
    plans = iter([Plan(0.001)] + [welcoming(0.001)] * 10)
    bench = Bench(monkeypatch, lambda _way: next(plans)).start(10)
    former, *others = bench.sockets
    assert len(bench.observer.welcomed) == 1 and former.is_reset
    assert [sock.is_reset for sock in others] == [sock.closed for sock in others], "but the carrier is not"


# --- what is remembered

@pytest.mark.parametrize("answer", [None, "name service unreachable", (), ("10.9.9.9",)])
def test_the_address_that_worked_needs_no_lookup(monkeypatch, answer):
    """Right: if the name service is silent, fails, or has no address or a wrong one, the old one is tried at once."""
    bench = Bench(monkeypatch, lambda way: welcoming(0.01) if way.address[0] == "10.3.0.2" else SILENT).start(1)
    bench.resolver.answer = answer
    bench.start(2)
    (_first, again) = bench.observer.welcomed
    assert again[0] - bench.begun < 0.1 * SECOND_US


def test_a_name_that_moved_is_followed_though_something_answers_at_the_old_address(monkeypatch):
    """Right: if something else than our sproxy answers at the old address, that one is tried after the new one."""
    bench = Bench(monkeypatch, lambda _way: welcoming(0.01)).start(1)
    bench.resolver.answer = ("10.4.0.2",)
    bench.network = lambda way: (
        welcoming(0.05) if way.address[0] == "10.4.0.2" else Plan(0.001, says=[(0.001, b"strange")]))
    bench.start(5)
    assert bench.observer.welcomed[-1][1].address[0] == "10.4.0.2"
    assert bench.observer.welcomed[-1][0] - bench.begun < SECOND_US


@pytest.mark.parametrize("answer", [(OWN, OTHER), (OTHER, OWN), (OTHER,)], ids=["own first", "other first", "no own"])
def test_a_session_finds_its_own_sproxy_though_another_one_is_nearer(monkeypatch, answer):
    """Goal: two sproxies with one key behind one name: the one that has the session is the farther one."""
    bench = Bench(monkeypatch, lambda way: welcoming(0.4) if way.address[0] == OWN else SILENT, answer=(OWN,)).start(3)
    bench.resolver.answer = answer
    bench.observer.on_turned_away = lambda *_: bench.dialer.shun_answered()
    bench.network = lambda way: (
        welcoming(0.4) if way.address[0] == OWN else Plan(0.01, says=[(0.01, b"elsewhere")]))
    for _ in range(3):
        others = len(bench.tried())
        bench.start(5)
        assert bench.observer.welcomed[-1][1].address[0] == OWN
        assert bench.observer.welcomed[-1][0] - bench.begun < 2 * SECOND_US
    assert {sock.way.address[0] for sock in bench.sockets[others:]} == {OWN}, "what has answered is remembered"
    bench.dialer.paths.session_over(proven=True)
    bench.resolver.answer = (OTHER,)
    bench.network = lambda way: welcoming(0.01) if way.address[0] == OTHER else SILENT
    bench.start(1)
    assert bench.observer.welcomed[-1][1].address[0] == OTHER, "the next session may be anywhere"


def test_where_only_another_sproxy_is_left_its_answer_is_heard(monkeypatch):
    """Right: while the own one does not answer the other one is asked again and again: it may have changed."""
    bench = Bench(monkeypatch, lambda way: welcoming(0.01) if way.address[0] == OWN else SILENT,
                  answer=(OWN, OTHER)).start(1)
    told = []
    bench.observer.on_turned_away = lambda *_: (told.append(bench.loop.now()), bench.dialer.shun_answered())
    bench.network = lambda way: SILENT if way.address[0] == OWN else Plan(0.01, says=[(0.01, b"elsewhere")])
    bench.start(20)
    assert len(told) >= 5


def test_lookups_have_a_pace_of_their_own(monkeypatch):
    """Right: an outage of a day, with a name service that answers, causes hundreds of lookups, not 65,000."""
    bench = Bench(monkeypatch, lambda _way: REFUSED).start(86_400)
    assert len(bench.resolver.asked_at) < 1000
    assert len(bench.sockets) < 1300


def test_the_device_that_worked_is_tried_when_the_better_route_leads_nowhere(monkeypatch):
    bench = Bench(monkeypatch, lambda _way: welcoming(0.01)).start(1)
    bench.device = "eth0"
    bench.network = lambda way: welcoming(0.01) if way.device == "wlan0" else SILENT
    bench.start(3)
    assert bench.observer.welcomed[-1][1].device == "wlan0"
    assert bench.observer.welcomed[-1][0] - bench.begun < SECOND_US
    assert bench.dialer.device == "wlan0"


def test_a_portal_on_the_better_route_gives_way_to_the_device_that_worked(monkeypatch):
    bench = Bench(monkeypatch, lambda _way: welcoming(0.01)).start(1)
    bench.device = "eth0"
    bench.network = lambda way: (
        welcoming(0.05) if way.device == "wlan0" else Plan(0.001, says=[(0.001, b"strange")]))
    bench.start(5)
    assert bench.observer.welcomed[-1][1].device == "wlan0"


def test_a_silent_portal_on_the_better_route_gives_way_as_soon_as_it_is_overdue(monkeypatch):
    """Goal: it accepts whoever calls and says nothing: the device that worked is next, not the same route again."""
    monkeypatch.setattr(FakeCaller, "met", False)
    bench = Bench(monkeypatch, lambda _way: welcoming(0.01)).start(1)
    bench.device = "eth0"
    bench.network = lambda way: welcoming(0.05) if way.device == "wlan0" else Plan(0.001)
    bench.start(5)
    assert bench.observer.welcomed[-1][1].device == "wlan0"
    assert bench.observer.welcomed[-1][0] - bench.begun < 2 * SECOND_US


def test_other_devices_than_the_last_are_never_used(monkeypatch):
    """Right: nothing is sent outside a tunnel that is down, and a route that works is left alone."""
    bench = Bench(monkeypatch, lambda _way: welcoming(0.01)).start(1)
    bench.network = lambda _way: SILENT
    bench.start(20)
    assert {sock.way.device for sock in bench.sockets} == {None}


# --- pace

def test_an_old_outage_is_dialled_at_once_when_somebody_writes_or_the_network_changes(monkeypatch):
    bench = Bench(monkeypatch, lambda _way: REFUSED).start(1000)
    for sign in (partial(bench.dialer.hurry, False), bench.dialer.network_changed):
        before = len(bench.sockets)
        sign()
        bench.loop.run(1)
        assert len(bench.sockets) == before + 1
    bench.source = "10.1.0.77"
    before = len(bench.sockets)
    bench.dialer.network_changed()
    bench.loop.run(60)
    assert len(bench.sockets) > before + 50   # all is different now: as in a new outage


def test_an_application_that_never_stops_writing_does_not_keep_a_firewall_awake(monkeypatch):
    """Right: continuous typing causes no more dials than waiting does: there are more than 30 s without one."""
    bench = Bench(monkeypatch, lambda _way: REFUSED).start(0)
    for _ in range(800):
        bench.loop.run(0.25)
        bench.dialer.hurry(False)
    late = [at for _address, at in bench.tried() if at > 119]
    assert max(later - earlier for earlier, later in itertools.pairwise(late)) > 31
    assert [at for at in late if 120 < at < 150] == []


class Firewall:
    """Answers only who has not tried for `memory_s`; whoever has, the SYNs that the system repeats included, is dropped
    and counts anew (nft `update @set { ip saddr timeout ... }`, iptables `recent --update`)."""

    SYNS_S = (0, 1, 2, 3, 4, 5, 7)  # while an attempt lasts, 10 s, with tcp_syn_linear_timeouts

    def __init__(self, memory_s):
        self.memory_us = memory_s * SECOND_US
        self.tries = []
        self.bench = None

    def __call__(self, _way):
        now = self.bench.loop.now()
        syns = [at + second * SECOND_US for at in self.tries for second in self.SYNS_S]
        blocks = not syns or now - max(at for at in syns if at <= now) < self.memory_us
        self.tries.append(now)
        return SILENT if blocks else welcoming(0.05)


def behind(monkeypatch, firewall):
    firewall.bench = Bench(monkeypatch, firewall)
    return firewall.bench.start(0)


@pytest.mark.parametrize("memory_s, within_minutes", [(30, 3), (60, 6), (300, 20), (600, 42)])
def test_a_firewall_that_counts_every_blocked_try_forgets_in_the_end(monkeypatch, memory_s, within_minutes):
    bench = behind(monkeypatch, Firewall(memory_s))
    bench.loop.run(60 * within_minutes)
    assert len(bench.observer.welcomed) == 1


def test_it_also_forgets_while_a_program_writes_each_half_minute(monkeypatch):
    bench = behind(monkeypatch, Firewall(100))
    for _ in range(60):
        bench.loop.run(30)
        if bench.dialer.running:
            bench.dialer.hurry(False)
    assert len(bench.observer.welcomed) == 1


def test_who_starts_an_application_in_an_old_outage_is_not_kept_waiting(monkeypatch):
    """Goal: half a minute apart each is tried at once, however many were in vain and however much is written."""
    bench = Bench(monkeypatch, lambda _way: REFUSED).start(7200)
    for _ in range(20):
        bench.dialer.hurry(False)
        bench.loop.run(31)
        before = len(bench.sockets)
        bench.dialer.hurry(True)
        assert len(bench.sockets) == before + 1


# --- segments

def test_segments_get_smaller_with_each_stuck_carrier_and_are_raised_again():
    memory = Paths()
    assert not memory.narrow
    for size in (*SEGMENTS, SEGMENTS[-1]):
        assert memory.stuck("10.3.0.2", "10.1.0.2", 5) == size
        assert memory.segment_bytes("10.3.0.2", "10.1.0.2", 6) == size
    assert memory.segment_bytes("10.3.0.2", "10.1.0.77", 6) == SEGMENTS[-1], "another address of the same network"
    assert memory.segment_bytes("10.3.0.2", "10.1.1.2", 6) == 0
    assert memory.segment_bytes("10.3.0.3", "10.1.0.2", 6) == 0
    assert memory.segment_bytes("10.3.0.2", "10.1.0.2", 5 + SMALL_US) == 0
    memory.stuck("10.3.0.2", "10.1.0.2", 10 * SMALL_US)  # tried again too early: the same size, for twice as long
    assert memory.segment_bytes("10.3.0.2", "10.1.0.2", 12 * SMALL_US - 1) == SEGMENTS[-1]


def test_a_sign_that_proves_nothing_is_enough_for_the_first_step_and_two_in_a_row_for_the_next():
    memory = Paths()
    path = "10.3.0.2", "10.1.0.2"
    for at_s, size in ((0, SEGMENTS[0]), (100, SEGMENTS[0]), (130, SEGMENTS[1]), (300, SEGMENTS[1])):
        memory.may_be_stuck(*path, at_s * SECOND_US)
        assert memory.segment_bytes(*path, at_s * SECOND_US) == size


def test_a_hello_in_vain_makes_segments_smaller(monkeypatch):
    """Right: HELLO with many streams, or its answer, may share a large packet that a narrow path drops."""
    bench = Bench(monkeypatch, lambda _way: Plan(0.001, says=[(0.001, b"tls")])).start(0.9)
    assert not bench.dialer.paths.narrow
    bench.loop.run(1.1)
    assert bench.dialer.paths.segment_bytes("10.3.0.2", "10.1.0.2", bench.loop.now()) == SEGMENTS[0]


@pytest.mark.parametrize(("asked", "remembered", "fits"), [
    (None, "127.0.0.9", True), ("10.1.0.9", "127.0.0.9", True), ("10.1.0.9", "10.1.0.2", False)],
    ids=["no route yet", "another route", "a path of before"])
def test_segments_fit_the_address_that_the_connection_has(monkeypatch, asked, remembered, fits):
    """Right: a route that comes between the question which it is and the connection must not lead to a memory of
    another path, nor past that of its own."""
    monkeypatch.setattr(dialer, "preferred_source", lambda *_: asked)
    config = SimpleNamespace(sproxy_host=HOST, sproxy_port=6200, proxy=None, stay=False, connect_timeout_us=SECOND_US)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = FakeLoop()
        one = Dialer(loop, FakeResolver(loop, None), config, Observer(loop))
        one.paths.stuck("127.0.0.1", remembered, loop.now())
        with one._connect(Way(V4, listener.getsockname())) as sock:
            largest = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    assert (largest <= SEGMENTS[0]) is fits


@pytest.mark.parametrize("one, other, alike", [
    ("10.1.0.2", "10.1.0.200", True), ("10.1.0.2", "10.1.2.2", False), ("fd00:1::2", "fd00:1::a:b", True),
    ("fd00:1::2", "fd00:1:0:1::2", False), ("fe80::1%eth0", "fe80::2%eth0", True), (None, None, True)])
def test_networks_of_ours(one, other, alike):
    assert (network_of(one) == network_of(other)) == alike


def test_memory_is_bounded():
    memory = Paths()
    for number in range(1000):
        memory.stuck(f"peer {number}", "fd00::1", 0)
        memory.led_nowhere(Way(V4, (f"peer {number}", 1)))
    assert len(memory._segments) <= paths.MOST_PATHS
    assert len(memory._sour) <= paths.MOST_PATHS


def test_an_attempt_that_is_cancelled_says_nothing(monkeypatch):
    bench = Bench(monkeypatch, lambda _way: SILENT)
    told = []
    attempt = DialAttempt(bench.loop, Paths(), SECOND_US, bench._connect, told.append, told.append)
    attempt.begin([Way(V4, ("10.3.0.2", 6200))], None)
    attempt.cancel()
    bench.loop.run(5)
    assert told == []
    assert bench.open_sockets() == []
    assert bench.sockets[0].is_reset
