"""`cproxy --carrier auto` has two ways to sproxy: which is tried when, and how it comes back to UDP. Both dialers are
stand-ins; times are literal."""

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.policy.race_dialer import (
    AGAIN_US,
    ANSWERED_US,
    HEAD_START_US,
    MOST_AGAIN_US,
    MOVE_AFTER_US,
    MOVE_US,
    RaceDialer,
)
from tests.unit.test_host_dialer import Asked, Caller, Clock, Way


class Racer(Way):
    """A dialer of one kind, which counts its starts."""

    paths = None

    def __init__(self, observer, heard=None):
        super().__init__(observer)
        self.heard, self.starts = heard, 0

    def start(self):
        self.starts += not self.running
        super().start()

    ease = Way.stop

    def network_changed(self):
        pass

    def welcome(self):
        self.running = False
        self.observer.on_welcome(None, Caller(), None)


class Race:
    """A RaceDialer between a clock and an observer."""

    def __init__(self):
        self.clock, self.asked = Clock(), Asked()
        self.dialer = RaceDialer(self.clock, self.asked, self._tcp, self._datagram)

    def _tcp(self, observer):
        self.tcp = Racer(observer)
        return self.tcp

    def _datagram(self, observer, heard):
        self.udp = Racer(observer, heard)
        return self.udp

    def running(self):
        return [name for name in ("udp", "tcp") if getattr(self, name).running]

    def lose(self):
        """The carrier was lost, and another one is wanted."""
        self.asked.wanted = True
        self.dialer.start()


@pytest.fixture
def race():
    return Race()


def test_datagrams_have_a_head_start(race):
    race.dialer.start()
    assert race.running() == ["udp"]
    race.clock.pass_us(HEAD_START_US - 1)
    assert race.running() == ["udp"]
    race.clock.pass_us(1)
    assert race.running() == ["udp", "tcp"]
    race.udp.welcome()
    assert race.running() == [] and race.asked.welcomes == 1


def test_an_answer_over_udp_stops_tcp_for_a_second(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.udp.heard()
    assert race.running() == ["udp"]
    race.clock.pass_us(ANSWERED_US)
    assert race.running() == ["udp", "tcp"]


def test_where_udp_is_blocked_only_the_first_dial_waits(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    assert race.running() == [] and race.asked.welcomes == 1
    race.lose()
    assert race.running() == ["tcp"], "UDP was blocked a moment ago"


def test_udp_is_looked_at_again_later_and_later(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    pause_us = AGAIN_US
    for _again in range(8):
        race.clock.pass_us(pause_us - 1)
        assert race.running() == []
        race.clock.pass_us(1)
        assert race.running() == ["udp"]
        race.clock.pass_us(MOVE_US)
        assert race.running() == []
        pause_us = min(2 * pause_us, MOST_AGAIN_US)
    assert pause_us == MOST_AGAIN_US
    race.clock.pass_us(pause_us)
    race.udp.welcome()
    assert race.asked.welcomes == 2
    race.lose()
    assert race.running() == ["udp"], "it passes, so it has its head start again"


def test_a_change_of_the_network_forgets_that_udp_was_blocked(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.dialer.network_changed()
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == ["udp"], "the session moves"
    race.udp.welcome()
    assert race.asked.welcomes == 2
    race.dialer.network_changed()
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == [], "UDP carries it already"


def test_a_session_that_is_lost_while_it_moves_dials_both_ways(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.clock.pass_us(AGAIN_US)
    assert race.running() == ["udp"]
    race.lose()
    assert race.running() == ["udp"] and race.udp.starts == 3
    race.clock.pass_us(HEAD_START_US)
    assert race.running() == ["udp", "tcp"]


def test_a_failure_of_udp_starts_tcp_at_once_and_is_not_reported(race):
    race.dialer.start()
    race.udp.observer.on_dial_failed("UDP: no answer within 10s")
    assert race.running() == ["udp", "tcp"] and not race.asked.failures
    race.tcp.observer.on_dial_failed("Connection refused")
    assert race.asked.failures == ["Connection refused"]


def test_a_refusal_by_our_sproxy_is_passed_on(race):
    race.dialer.start()
    refusal = PeerError(CloseCode.UNKNOWN_SESSION, "no such session")
    race.udp.observer.on_turned_away(refusal, Caller())
    assert race.asked.refusals == [refusal] and race.running() == ["udp"]


def test_after_its_end_nothing_is_dialled(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.dialer.stop()
    race.dialer.network_changed()
    race.clock.pass_us(MOST_AGAIN_US)
    assert race.running() == []
