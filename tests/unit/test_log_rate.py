"""Which lines the log holds back, and how it reports them later."""

import pytest

from mproxy.service.log_rate import MOST_BUCKETS, Restraint

NOON = 1_800_000_000.0
HOUR_S = 3600


def written(restraint, lines, at=NOON):
    """The `more` of those (level, event, fields) that are written at once."""
    told = [restraint.admit(level, event, fields, at) for level, event, fields in lines]
    return [more for more in told if more is not None]


def refused(peer="10.0.0.1:4000", why="no HELLO within 5s"):
    return "warning", "refused", {"peer": peer, "why": why}


def an_hour(make, a_second):
    """Lines that are written in an hour of so many a second, including the late ones; `make(number)` makes one."""
    restraint, count, number = Restraint(), 0, 0
    for second in range(0, HOUR_S, 10):
        for _ in range(10 * a_second):
            number += 1
            count += restraint.admit(*make(number), NOON + second) is not None
        count += len(restraint.due(NOON + second))
    return count


def test_the_same_reason_is_told_five_times_and_then_once_a_minute_with_a_count():
    restraint = Restraint()
    assert written(restraint, [refused()] * 100) == [0] * 5
    assert written(restraint, [refused()] * 2, NOON + 59) == []
    assert written(restraint, [refused()] * 2, NOON + 60) == [97]
    assert written(restraint, [refused()], NOON + 120) == [1]


def test_a_dial_that_fails_is_told_once_a_minute_for_each_reason():
    """Reasons that alternate do not count as new."""
    restraint = Restraint()
    lines = [("warning", "dial-failed", {"sproxy": "server:6200", "why": why}) for why in ("refused", "no route")]
    assert written(restraint, lines * 50) == [0, 0]
    assert written(restraint, lines * 50, NOON + 60) == [49, 49]


def test_the_port_of_a_peer_does_not_make_it_another():
    restraint = Restraint()
    assert len(written(restraint, [refused(f"10.0.0.1:{port}") for port in range(1000, 1100)])) == 5
    assert len(written(restraint, [refused(f"[2001:db8:0:1::{host:x}]:1") for host in range(1, 100)])) == 5


def test_one_source_does_not_silence_another():
    restraint = Restraint()
    written(restraint, [refused()] * 1000)
    assert written(restraint, [refused("10.0.0.2:1")]) == [0]


def test_reasons_of_a_peer_s_own_making_do_not_help_it():
    restraint = Restraint()
    assert len(written(restraint, [refused(why=f"it sent {number}") for number in range(1000)])) == 20


@pytest.mark.parametrize(("make", "most"), [
    (lambda number: refused(), 70),
    (lambda number: refused(why=f"it sent {number}"), 385),
    (lambda number: refused(f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:1"), 3_810),
    (lambda number: ("warning", "refused", {"session": "4f2a91c0", "stream": number, "why": "no", "target": "x"}), 70),
    (lambda number: ("info", "connected", {"session": f"{number:08x}", "peer": "10.0.0.1:1"}), 3_710),
    (lambda number: ("warning", "dial-failed", {"why": ("refused", "no route")[number % 2]}), 2 * 61),
], ids=["one reason", "many reasons", "many sources", "an authorised client", "sessions", "an outage"])
def test_lines_of_an_hour(make, most):
    """Whoever causes them, the log stays readable and the disk does not fill up."""
    assert an_hour(make, 5) <= most


def breaks(restraint, seconds):
    """How many lines tell of a path that breaks and comes back every second."""
    told = 0
    for second in range(seconds):
        for line in (("warning", "lost", {"session": "4f2a91c0", "why": "closed by the peer"}),
                     ("info", "resumed", {"session": "4f2a91c0", "peer": "10.0.0.1:6200"})):
            told += restraint.admit(*line, NOON + second) is not None
        told += len(restraint.due(NOON + second))
    return told


def test_breaks_of_one_session_are_told_each_at_first_and_then_once_a_minute():
    """Neither a `resumed` nor its `lost` is missing when the network changes a few times."""
    assert breaks(Restraint(), 12) == 24
    assert breaks(Restraint(), HOUR_S) <= 2 * (12 + 60)


def test_who_looks_for_a_fault_is_told_each_break():
    assert breaks(Restraint(with_flaps=True), 120) == 240


def test_many_sessions_of_one_host_are_told_each():
    restraint = Restraint()
    for number in range(100):
        assert restraint.admit("info", "resumed", {"session": f"{number:08x}", "peer": "10.0.0.1:6200"}, NOON) == 0


def test_what_no_line_follows_is_told_when_its_time_comes():
    restraint = Restraint()
    written(restraint, [refused()] * 8)
    assert restraint.holding and restraint.due(NOON + 59) == []
    assert restraint.due(NOON + 60) == [(*refused(), 2)]
    assert not restraint.holding and restraint.due(NOON + 600) == []


def test_at_the_end_all_is_told_a_line_an_event():
    restraint = Restraint()
    written(restraint, [refused(f"10.0.0.{host}:1") for host in range(3)] * 9)
    written(restraint, [("warning", "stream-reset", {"session": "4f2a91c0", "why": "it refused"})] * 7)
    assert sorted((event, more + 1) for _, event, _, more in restraint.rest()) == [("refused", 12), ("stream-reset", 2)]
    assert not restraint.rest()


def test_what_is_over_is_not_told():
    restraint = Restraint()
    dial = "warning", "dial-failed", {"why": "refused"}
    written(restraint, [dial] * 9)
    restraint.forget("dial-failed")
    assert restraint.rest() == [] and restraint.admit(*dial, NOON + 1) is None, "its rate stays"


def test_a_file_s_line_is_always_written():
    restraint = Restraint()
    assert len(written(restraint, [("info", "sent", {"file": "x"})] * 5000)) == 5000
    assert len(written(restraint, [("info", "received", {"file": "x", "peer": "10.0.0.1:1"})] * 5000)) == 5000


def test_memory_is_bounded_and_nothing_is_uncounted():
    restraint = Restraint()
    lines = [refused(f"10.0.{host >> 8}.{host & 255}:1") for host in range(20_000) for _ in range(2)]
    told = len(written(restraint, lines))
    assert len(restraint._buckets) <= MOST_BUCKETS
    assert told + sum(more + 1 for *_, more in restraint.rest()) == len(lines)


def test_a_clock_that_is_put_back_does_not_silence():
    restraint = Restraint()
    written(restraint, [refused()] * 9)
    assert restraint.admit(*refused(), NOON - 1_000_000) is None
    assert restraint.admit(*refused(), NOON - 1_000_000 + 60) == 5
