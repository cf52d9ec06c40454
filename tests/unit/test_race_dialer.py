"""`cproxy --carrier auto` has two ways to sproxy: which is tried when, and how it comes back to UDP. Both dialers are
stand-ins; times are literal."""

import random

import pytest

from mproxy._wire import CloseCode, WelcomeFeature
from mproxy.ground.errors import PeerError
from mproxy.policy.race_dialer import (
    AGAIN_US,
    ANSWERED_US,
    HEAD_START_US,
    LASTING_US,
    MOST_AGAIN_US,
    MOVE_AFTER_US,
    MOVE_US,
    QUICKLY_US,
    REMEMBERED_US,
    SETTLED_US,
    RaceDialer,
)
from mproxy.policy.udp_record import UdpRecord
from tests.unit.test_host_dialer import Asked, Caller, Clock, Way


class Racer(Way):
    """A dialer of one kind, which counts its starts."""

    paths = spot = None

    def __init__(self, observer, heard=None):
        super().__init__(observer)
        self.heard, self.starts, self.shunned, self.has_said_hello = heard, 0, 0, False

    def start(self):
        self.starts += not self.running
        super().start()

    def ease(self):
        """An attempt that is under way goes on to its end."""

    def ask(self):
        """Before the next attempt: whether it is to be; if not it eases, and nothing is under way."""
        if self.running and not self.observer.still_wanted():
            self.stop()

    def fail(self):
        self.observer.on_dial_failed("no answer")
        self.ask()

    def advertised(self, spot):
        self.spot = spot

    def network_changed(self):
        pass

    def shun_answered(self):
        self.shunned += 1

    def welcome(self, features=WelcomeFeature.UDP):
        self.running = False
        self.observer.on_welcome(Connected(), Caller(), Welcomed(features))


class Connected:
    """A socket."""

    def getpeername(self):
        return "127.0.0.1", 6200

    def getsockname(self):
        return "127.0.0.1", 40000


class Welcomed:
    """A WELCOME."""

    def __init__(self, features):
        self.features = features


class Race:
    """A RaceDialer between a clock and an observer."""

    def __init__(self, state_dir=None, starts_quickly=False):
        self.clock, self.asked, self.udp = Clock(), Asked(), None
        self.dialer = RaceDialer(self.clock, self.asked, UdpRecord(state_dir, "server:6200"), starts_quickly, self._tcp,
                                 self._datagram)

    def _tcp(self, observer):
        self.tcp = Racer(observer)
        return self.tcp

    def _datagram(self, observer, heard, _paths):
        self.udp = Racer(observer, heard)
        return self.udp

    def running(self):
        return [name for name in ("udp", "tcp") if getattr(self, name) is not None and getattr(self, name).running]

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


def test_where_tcp_has_said_hello_udp_waits(race):
    """Goal: sproxy does not see two carriers of one newcomer, of which one would end the other's session."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.has_said_hello = True
    race.udp.heard()
    assert race.running() == ["tcp"]
    race.tcp.welcome()
    race.clock.pass_us(MOVE_AFTER_US - 1)
    assert race.running() == []
    race.clock.pass_us(1)
    assert race.running() == ["udp"], "UDP passes, so the session moves"


def test_udp_that_has_waited_for_tcp_in_vain_joins_again(race):
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.has_said_hello = True
    race.udp.heard()
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
    for _again in range(9):
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


def fall_back(race):
    """The session's carrier over UDP is lost, and UDP does not pass."""
    race.lose()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.asked.wanted = False


def first_look_s(race):
    """After how many whole seconds UDP is tried again."""
    for seconds in range(1, MOST_AGAIN_US // 1_000_000 + 1):
        race.clock.pass_us(1_000_000)
        if race.running():
            return seconds
    return None


def test_udp_that_was_blocked_for_a_moment_carries_the_session_again_soon(race):
    """Goal: a path that was bad for some seconds costs no minute without UDP, whenever that is."""
    race.dialer.start()
    for _ in range(3):
        race.udp.welcome()
        race.clock.pass_us(LASTING_US)
        fall_back(race)
        assert first_look_s(race) == 5


def test_udp_that_never_lasts_is_looked_at_later_and_later(race):
    """Goal: where UDP passes and is then lost, again and again, the session does not stand still every few seconds."""
    race.dialer.start()
    looks = []
    for _ in range(6):
        race.udp.welcome()
        race.clock.pass_us(LASTING_US - HEAD_START_US - 1)
        fall_back(race)
        looks.append(first_look_s(race))
    assert looks == [5, 10, 20, 40, 80, 160]
    race.udp.welcome()
    race.clock.pass_us(LASTING_US // 2)
    race.lose()
    race.udp.welcome()  # a carrier as the one before
    race.clock.pass_us(LASTING_US // 2)
    fall_back(race)
    assert first_look_s(race) == 5


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


def test_a_session_that_is_lost_when_its_new_carrier_has_answered_waits_for_that(race):
    """Goal: sproxy closes the old carrier when it welcomes the new one; whichever is seen first, that one is used."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.clock.pass_us(AGAIN_US)
    race.udp.heard()
    race.lose()
    assert race.running() == ["udp"] and race.udp.starts == 2
    race.clock.pass_us(ANSWERED_US - 1)
    assert race.running() == ["udp"]
    race.udp.welcome()
    assert race.asked.welcomes == 2
    race.clock.pass_us(MOST_AGAIN_US)
    assert race.running() == []


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


def test_an_sproxy_without_udp_is_not_asked_again(race):
    """Goal: an old sproxy, or one with --no-udp, costs one head start, whatever happens to the network, until it says
    something else."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome(features=WelcomeFeature.LISTENS)
    race.dialer.network_changed()
    race.clock.pass_us(MOST_AGAIN_US)
    assert race.running() == []
    race.lose()
    race.dialer.network_changed()
    assert race.running() == ["tcp"]
    race.tcp.welcome()
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == ["udp"], "it says that it takes UDP now"


def test_where_udp_was_blocked_is_remembered(tmp_path):
    first = Race(str(tmp_path))
    first.dialer.start()
    first.clock.pass_us(HEAD_START_US)
    first.tcp.welcome()
    again = Race(str(tmp_path))
    again.dialer.start()
    assert again.running() == ["tcp"]
    again.tcp.welcome()
    again.clock.pass_us(REMEMBERED_US)
    assert again.running() == ["udp"]
    again.udp.welcome()
    last = Race(str(tmp_path))
    last.dialer.start()
    assert last.running() == ["udp"], "it passes"


def test_that_it_is_not_offered_is_remembered(tmp_path):
    first = Race(str(tmp_path))
    first.dialer.start()
    first.clock.pass_us(HEAD_START_US)
    first.tcp.welcome(features=0)
    again = Race(str(tmp_path))
    again.dialer.start()
    assert again.running() == ["tcp"]


def test_a_quick_start_is_over_tcp():
    """Goal: --stdio does not wait for UDP, nor load what it takes; the session moves later."""
    race = Race(starts_quickly=True)
    race.dialer.start()
    assert race.running() == ["tcp"] and race.udp is None
    race.tcp.welcome()
    race.clock.pass_us(SETTLED_US - 1)
    assert race.udp is None
    race.clock.pass_us(1)
    assert race.running() == ["udp"]
    race.udp.welcome()
    assert race.asked.welcomes == 2
    race.lose()
    assert race.running() == ["udp"], "the next carrier is found as everybody's"


def test_udp_that_has_just_begun_does_not_count_as_blocked():
    """Goal: the network changes while the first dial is under way, and TCP is welcomed before UDP can be answered."""
    race = Race(starts_quickly=True)
    race.dialer.start()
    race.dialer.network_changed()
    assert race.running() == ["udp", "tcp"]
    race.clock.pass_us(HEAD_START_US - 1)
    race.tcp.welcome()
    race.clock.pass_us(SETTLED_US)
    assert race.running() == ["udp"]


def on_tcp():
    """A session that TCP has carried until it was to move."""
    race = Race(starts_quickly=True)
    race.dialer.start()
    race.tcp.welcome()
    race.clock.pass_us(SETTLED_US - 1)
    return race


def test_a_carrier_in_doubt_moves_when_it_has_turned_out_to_be_good():
    race = on_tcp()
    race.asked.wanted = True
    race.clock.pass_us(1)
    assert race.udp is None
    race.asked.wanted = False
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == ["udp"]


def test_a_carrier_that_was_dialled_for_in_vain_moves_later():
    """Goal: a dialer that asks, and hears that nothing is wanted, eases by itself; that is no reason to stay."""
    race = on_tcp()
    race.lose()
    assert race.running() == ["udp"]
    race.asked.wanted = False
    race.udp.ask()
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == ["udp"] and race.tcp.starts == 1
    race.udp.welcome()
    assert race.asked.welcomes == 2


def test_a_change_of_the_network_in_the_head_start_does_not_leave_tcp_out(race):
    """Goal: a session that TCP has carried is lost, and networks come and go: TCP is dialled beside UDP as ever."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.dialer.network_changed()
    race.lose()
    assert race.running() == ["udp"]
    race.dialer.network_changed()
    race.clock.pass_us(HEAD_START_US)
    assert race.running() == ["udp", "tcp"]


def test_an_attempt_that_goes_on_after_a_doubt_does_not_leave_tcp_out(race):
    """Goal: a carrier was in doubt, is good, and is lost while sproxy is still asked over UDP."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.dialer.network_changed()
    race.lose()
    race.asked.wanted = False
    race.dialer.ease()
    assert race.running() == ["udp"]
    race.lose()
    race.clock.pass_us(HEAD_START_US)
    assert race.running() == ["udp", "tcp"]


def test_a_quick_start_without_tcp():
    race = Race(starts_quickly=True)
    race.dialer.start()
    race.clock.pass_us(QUICKLY_US)
    assert race.running() == ["udp", "tcp"]


def test_a_carrier_that_is_lost_while_it_moves_counts_as_not_running(race):
    """Goal: whoever has this as one of its ways starts it again."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    assert race.dialer.running
    race.tcp.welcome()
    race.clock.pass_us(AGAIN_US)
    assert race.running() == ["udp"] and not race.dialer.running


def test_both_shun_the_address_of_another_sproxy(race):
    race.dialer.start()
    race.dialer.shun_answered()
    assert (race.tcp.shunned, race.udp.shunned) == (1, 1)


NODE = "198.51.100.21", 6200


def test_a_session_moves_to_the_address_that_was_advertised(race):
    """Goal: UDP did not pass where the command line leads, but sproxy says where else: tried soon, once for each
    address; and nowhere when it says nothing any more."""
    race.dialer.start()
    race.clock.pass_us(HEAD_START_US)
    race.tcp.welcome()
    race.asked.wanted = False
    race.dialer.advertised(NODE)
    race.clock.pass_us(MOVE_AFTER_US - 1)
    assert race.running() == []
    race.clock.pass_us(1)
    assert race.running() == ["udp"] and race.udp.spot == NODE
    race.clock.pass_us(MOVE_US)
    assert race.running() == []
    race.dialer.advertised(NODE)
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == [], "it is known to be blocked"
    race.dialer.advertised(None)
    race.clock.pass_us(MOVE_AFTER_US)
    assert race.running() == [] and race.udp.spot is None


def test_a_quick_start_goes_to_the_advertised_address_as_late_as_ever():
    race = Race(starts_quickly=True)
    race.dialer.start()
    race.tcp.welcome()
    race.asked.wanted = False
    race.dialer.advertised(NODE)
    race.clock.pass_us(SETTLED_US - 1)
    assert race.running() == []
    race.clock.pass_us(1)
    assert race.running() == ["udp"] and race.udp.spot == NODE


@pytest.mark.parametrize("number", range(100))
def test_whatever_has_happened_a_session_over_tcp_tries_udp_again(seed, number):
    """Goal: doubts, changes of the network, lost carriers, answers, failures and welcomes at any moment; where UDP
    leads nowhere TCP is soon dialled, too, and UDP is tried again within the longest pause."""
    chance = random.Random(f"{seed} {number}")
    race = Race(starts_quickly=chance.random() < 0.5)

    def running():
        return [getattr(race, name) for name in race.running()]

    def ask():
        for dialer in running():
            dialer.ask()

    def welcome(name):
        if name in race.running():
            getattr(race, name).welcome()

    def refute():
        race.asked.wanted = False
        chance.choice([ask, lambda: None])()
        race.dialer.ease()

    def fail():
        for dialer in running():
            dialer.fail()

    steps = [race.lose, refute, ask, race.dialer.network_changed, lambda: welcome("udp"), lambda: welcome("tcp"),
             lambda: race.udp is not None and race.udp.running and race.udp.heard(), fail]
    for _ in range(chance.randrange(1, 30)):
        chance.choice(steps)()
        race.clock.pass_us(chance.choice([0, 10_000, HEAD_START_US, ANSWERED_US, SETTLED_US, MOVE_US]))
    race.lose()
    for _ in range((ANSWERED_US + HEAD_START_US) // HEAD_START_US):
        race.clock.pass_us(HEAD_START_US)
    assert "tcp" in race.running(), f"--seed {seed}: nobody dials TCP"
    race.tcp.welcome()
    for _ in range(chance.randrange(3)):  # it is in doubt for a while
        race.clock.pass_us(chance.choice([0, MOVE_AFTER_US - 1, SETTLED_US - 1]))
        race.lose()
        race.clock.pass_us(chance.choice([0, 1, MOVE_AFTER_US]))
        race.asked.wanted = False
        ask()
    tries = race.udp.starts if race.udp is not None else 0
    for _ in range(MOST_AGAIN_US // HEAD_START_US + 1):
        race.clock.pass_us(HEAD_START_US)
        ask()
        if race.udp is not None and race.udp.starts > tries:
            break
    else:
        raise AssertionError(f"--seed {seed}: it stays on TCP")
