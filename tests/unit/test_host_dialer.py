"""`mproxy connect` has two ways to a host: which is tried when, and what is believed of whom. The dialers of both are
stand-ins; times are literal."""

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.config import CproxyConfig
from mproxy.ground.errors import PeerError
from mproxy.policy import host_dialer
from mproxy.policy.announcement import announce
from mproxy.policy.dialer import DialObserver
from mproxy.policy.host_dialer import ALONE_US, FIRST_ALONE_US, MOVE_AFTER_US, MOVE_US, HostDialer
from mproxy.policy.host_record import HostRecord

KEY, OTHER = "SHA256:" + "k" * 43, "SHA256:" + "o" * 43
NAME = "ann@server:22"


class Clock:
    """The loop: its timers run when the time is moved on."""

    def __init__(self):
        self.time, self.timers = 0, []

    def now(self):
        return self.time

    def call_later(self, us, act):
        timer = Timer(self.time + us, act)
        self.timers.append(timer)
        return timer

    def pass_us(self, us):
        self.time += us
        for timer in [each for each in self.timers if each.at <= self.time]:
            self.timers.remove(timer)
            if not timer.cancelled:
                timer.act()


class Timer:
    def __init__(self, at, act):
        self.at, self.act, self.cancelled = at, act, False

    def cancel(self):
        self.cancelled = True


class Way:
    """A dialer of one kind."""

    follows_routes, stays, device, next_try_at, is_answered = False, False, None, None, False

    def __init__(self, observer):
        self.observer, self.running, self.keeps_terminal = observer, False, False

    def start(self):
        self.running = True

    def stop(self):
        self.running = False

    def keep_terminal(self):
        self.keeps_terminal = True


class Caller:
    refused = True


class Asked(DialObserver):
    """The cproxy."""

    def __init__(self):
        self.wanted, self.welcomes, self.failures, self.refusals = True, 0, [], []

    def still_wanted(self):
        return self.wanted

    def on_welcome(self, sock, caller, welcome):
        self.welcomes += 1
        self.wanted = False

    def on_dial_failed(self, why):
        self.failures.append(why)

    def on_turned_away(self, error, caller):
        self.refusals.append(error)


class Ways:
    """A HostDialer between a clock and an observer, and what it makes."""

    def __init__(self, state_dir, monkeypatch):
        self.clock, self.asked, self.trusted, self.ports = Clock(), Asked(), [], []
        self.direct = self.via = self.heard = None

        def make_via(_loop, _config, observer, _log, heard):
            self.via, self.heard = Way(observer), heard
            return self.via

        def make_direct(port, observer):
            self.ports.append(port)
            self.direct = Way(observer)
            return self.direct
        monkeypatch.setattr(host_dialer, "ViaDialer", make_via)
        config = CproxyConfig(via="ssh", direct="server", name=NAME, state_dir=str(state_dir))
        self.dialer = HostDialer(self.clock, config, self.asked, None, make_direct, self.trusted.append)

    def running(self):
        return [name for name in ("direct", "via") if getattr(self, name) is not None and getattr(self, name).running]

    def welcome(self, way):
        way.observer.on_welcome(None, Caller(), None)


@pytest.fixture
def record(tmp_path):
    """Of a host that is known."""
    found = HostRecord(str(tmp_path), NAME)
    found.learn(6200, KEY)
    return found


@pytest.fixture
def ways(tmp_path, monkeypatch):
    return Ways(tmp_path, monkeypatch)


def again(tmp_path):
    return HostRecord(str(tmp_path), NAME)


def test_an_unknown_host_is_reached_by_ssh_and_then_at_its_port(ways, tmp_path):
    assert ways.trusted == [""]
    ways.dialer.start()
    assert ways.running() == ["via"]
    ways.heard(b"Welcome\n" + announce([6201], KEY))
    assert (ways.trusted[-1], ways.ports) == (KEY, [6201])
    assert not ways.dialer.will_move
    ways.welcome(ways.via)
    ways.via.stop()  # as a dialer does at its welcome
    ways.clock.pass_us(MOVE_AFTER_US)
    assert ways.running() == ["direct"]
    assert ways.direct.observer.still_wanted() and ways.dialer.will_move
    ways.welcome(ways.direct)
    assert not ways.dialer.will_move
    assert ways.asked.welcomes == 2
    assert (again(tmp_path).port, again(tmp_path).is_shut) == (6201, False)


def test_a_session_through_the_port_takes_the_terminal_from_ssh(record, ways):
    """Goal: in an outage the ssh that runs beside the port writes nothing into the work of who has the terminal."""
    ways.dialer.start()
    assert not ways.via.keeps_terminal
    ways.welcome(ways.direct)
    assert ways.via.keeps_terminal


def test_a_port_that_cannot_be_reached_is_remembered(ways, tmp_path):
    ways.dialer.start()
    ways.heard(announce([6201], KEY))
    ways.welcome(ways.via)
    ways.via.stop()
    ways.clock.pass_us(MOVE_AFTER_US)
    assert ways.dialer.will_move
    ways.clock.pass_us(MOVE_US)
    assert ways.running() == [] and not ways.dialer.will_move
    assert again(tmp_path).is_shut
    assert not ways.asked.failures


def test_a_known_port_is_tried_first_and_alone(record, ways):
    assert (ways.trusted, ways.ports) == ([KEY], [6200])
    ways.dialer.start()
    ways.clock.pass_us(FIRST_ALONE_US - 1)
    assert ways.running() == ["direct"]
    ways.dialer.start()
    ways.clock.pass_us(1)
    assert ways.running() == ["direct", "via"]


def test_a_port_that_refuses_costs_nothing(record, ways):
    ways.dialer.start()
    ways.direct.observer.on_dial_failed("refused")
    assert "via" in ways.running()
    assert not ways.asked.failures  # ssh has its say first


def test_a_shut_port_is_not_waited_for_but_looked_at_later(record, tmp_path, monkeypatch):
    record.note(is_shut=True)
    ways = Ways(tmp_path, monkeypatch)
    ways.dialer.start()
    assert ways.running() == ["via"]
    ways.heard(announce([6200], KEY))
    ways.welcome(ways.via)
    ways.via.stop()
    ways.clock.pass_us(MOVE_AFTER_US)
    assert ways.running() == ["direct"]


def test_in_an_outage_the_port_has_more_time(record, ways):
    ways.dialer.start()
    ways.welcome(ways.direct)
    ways.direct.stop()
    ways.asked.wanted = True
    ways.dialer.start()
    ways.clock.pass_us(ALONE_US - 1)
    assert ways.running() == ["direct"]
    ways.clock.pass_us(1)
    assert ways.running() == ["direct", "via"]


def test_what_is_not_our_sproxy_at_the_port_is_no_news(record, ways):
    ways.dialer.start()
    stranger = Caller()
    stranger.refused = False
    ways.direct.observer.on_turned_away(PeerError(CloseCode.KEY_REFUSED, "another key"), stranger)
    assert "via" in ways.running() and not ways.asked.refusals
    ways.heard(announce([6205], OTHER))
    assert (ways.trusted, ways.ports) == ([KEY, OTHER], [6200, 6205])


def test_what_our_sproxy_says_of_the_session_counts(record, ways):
    ways.dialer.start()
    ways.direct.observer.on_turned_away(PeerError(CloseCode.UNKNOWN_SESSION, "gone"), Caller())
    assert len(ways.asked.refusals) == 1


def test_while_sproxy_answers_through_ssh_the_port_is_left_alone(record, ways):
    ways.dialer.start()
    ways.clock.pass_us(FIRST_ALONE_US)
    ways.heard(announce([6200], KEY))
    ways.via.is_answered = True
    assert ways.running() == ["via"]
    assert not ways.direct.observer.still_wanted()


def test_an_sproxy_that_tells_no_key_is_not_believed(ways):
    ways.dialer.start()
    for banner in (b"", announce([6200], "")):
        with pytest.raises(PeerError, match="--attach --start"):
            ways.heard(banner)
    assert ways.trusted == [""]


def test_a_carrier_that_is_lost_on_its_way_to_the_port(ways):
    """Goal: what was an attempt beside a carrier becomes the search for one, with ssh again."""
    ways.dialer.start()
    ways.heard(announce([6200], KEY))
    ways.welcome(ways.via)
    ways.via.stop()
    ways.clock.pass_us(MOVE_AFTER_US)
    ways.asked.wanted = True
    ways.dialer.start()
    ways.clock.pass_us(ALONE_US)
    assert ways.running() == ["direct", "via"]


def test_a_missing_program_is_named(ways):
    ways.dialer.start()
    ways.via.observer.on_dial_failed("the command ended without an answer from sproxy: exit status 127")
    (why,) = ways.asked.failures
    assert why.startswith("mproxy is not installed on server")


def carried_by_ssh(ways):
    """A session that ssh carries and that is about to move."""
    ways.dialer.start()
    ways.heard(announce([6201], KEY))
    ways.welcome(ways.via)
    ways.via.running = False
    ways.clock.pass_us(MOVE_AFTER_US - 1)
    assert ways.running() == []


def test_a_carrier_in_doubt_moves_when_it_has_turned_out_to_be_good(ways):
    carried_by_ssh(ways)
    ways.asked.wanted = True
    ways.clock.pass_us(1)
    assert ways.running() == []
    ways.asked.wanted = False
    ways.clock.pass_us(MOVE_AFTER_US)
    assert ways.running() == ["direct"]


def test_a_carrier_that_was_dialled_for_in_vain_moves_later(ways):
    carried_by_ssh(ways)
    ways.asked.wanted = True
    ways.dialer.start()
    assert ways.running() == ["direct"]
    ways.asked.wanted = False
    assert not ways.direct.observer.still_wanted()
    ways.direct.running = False
    ways.clock.pass_us(MOVE_AFTER_US)
    assert ways.running() == ["direct"]
    ways.clock.pass_us(MOVE_US)
    assert ways.running() == [], "the port cannot be reached"
    ways.clock.pass_us(10 * MOVE_AFTER_US)
    assert ways.running() == []
