"""Sums of sessions that are over, from one worker to the next."""

from types import SimpleNamespace

import pytest

from mproxy.service.status import (
    HISTORIES_BYTES,
    HISTORY_BYTES,
    Ended,
    Outages,
    check_history,
    histories_of,
    pack_history,
    unpack_history,
)


def session(number):
    streams = SimpleNamespace(opened=number, out_bytes=10 * number, in_bytes=1 << 50)
    return SimpleNamespace(session_id=bytes([number]) * 16, streams=streams)


class Sums:
    """Those of a program whose workers die: `next` is another one."""

    def __init__(self):
        self.kept = b""
        self.next()

    def next(self):
        self.ended = Ended(self.keep)
        self.ended.recall(self.kept)

    def keep(self, data):
        self.kept = data


def test_sums_go_on():
    """Goal: also those of outages, and whether a session that the next worker finds was counted is known."""
    sums = Sums()
    outages = Outages(1000)
    outages.begin(100, "test")
    sums.ended.add(session(1), outages, 2_000_100)
    sums.next()
    sums.ended.add(session(1), outages, 3_000_100)
    sums.ended.add(session(2), Outages(1000), 0)
    sums.next()
    found = sums.ended.facts()
    assert (found["sessions"], found["streams_ever"], found["sent_bytes"], found["received_bytes"]) == (
        2, 3, 30, 1 << 51)
    assert found["outages"] == {"count": 1, "total_s": 2}


def test_many_at_once():
    """Goal: the last ones are known, and the record does not grow for ever."""
    sums = Sums()
    for number in range(250):
        sums.ended.add(session(number), Outages(1000), 0)
    sums.next()
    for number in range(240, 250):
        sums.ended.add(session(number), Outages(1000), 0)
    assert sums.ended.facts()["sessions"] == 250
    assert len(sums.kept) < 2040


@pytest.mark.parametrize("damage", [b"x", bytes(56) + b"x", bytes(55)])
def test_what_cannot_be_sums(damage):
    ended = Ended()
    ended.recall(damage)
    assert ended.facts()["sessions"] == 0


def test_figures_of_outages_go_on():
    before, after = Outages(1000), Outages(1000)
    before.begin(100, "test")
    before.end(300, 7, 100)
    before.begin(5000, "test")
    after.recall(*before.memory())
    assert after.began_at == 5000 and after.resent_bytes == 7
    after.end(5100, 0, None)
    assert (after.count, after.longest_us, after.total_us) == (2, 200, 300)


def test_an_outage_keeps_its_reason():
    """Goal: what the log says of a lost carrier is what the list of outages says later; of one that nobody saw lost, as
    another came first, that it was silent."""
    outages = Outages(1000)
    outages.begin(5000, "Connection reset by peer")
    outages.end(9000, 0, 5000)
    outages.end(19_000, 0, 12_000)
    silent, reset = outages.facts(20_000)["recent"]
    assert (reset["why"], reset["lasted_s"]) == ("Connection reset by peer", 0.004)
    assert (silent["why"], silent["lasted_s"], outages.count) == ("nothing heard for too long", 0.007, 2)


def outages_of(count, why="nothing heard", began_at=0):
    outages = Outages(1000)
    for number in range(count):
        outages.begin(began_at + 1000 * number + 1, f"{why} {number}")
        outages.end(began_at + 1000 * number + 500, 0, None)
    return outages


def next_of(outages):
    """The same, in another process."""
    after = Outages(1000)
    after.recall(*outages.memory())
    after.recall_history(unpack_history(pack_history(outages.history())))
    return after


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("count", [0, 3, 40])
def test_lists_of_outages_go_on(count, away):
    """Goal: whoever asks is told the same before and after, also of the one that lasts; the next one comes to it."""
    before = outages_of(count)
    if away:
        before.begin(90_000, "no route")
    after = next_of(before)
    assert after.facts(95_000) == before.facts(95_000) and after.why == before.why
    for each in (before, after):
        each.begin(96_000, "pulled")
        each.end(97_000, 0, None)
    assert after.facts(99_000) == before.facts(99_000)


def test_a_list_that_is_too_long_loses_the_oldest():
    before = outages_of(16, "\u20ac" * 300)
    packed = pack_history(before.history())
    assert 0 < len(packed) <= HISTORY_BYTES
    kept = unpack_history(packed)
    assert kept and kept[0][0] == 15_001 and kept == [list(each) for each in before.history()[:len(kept)]]
    assert next_of(before).count == 16


@pytest.mark.parametrize("damage", [
    b"x", b"[1]", b'[["a",1,"b"]]', b"[[1,2]]", b"{}", b'[[1,2,"x"],[1,2,3]]', b"[" * 1000, b'[[1.5,2,"x"]]', b"\xff"])
def test_what_cannot_be_a_list(damage):
    assert unpack_history(damage) == []
    assert check_history(damage) == []


def test_histories_of_many_sessions_are_bounded():
    """Goal: an upgrade's message has room; of those that were away last all is told."""
    sessions = [(bytes([number]) * 16, outages_of(10, began_at=100_000 * number)) for number in range(200)]
    found = histories_of([*sessions, (bytes(16), Outages(1000))])
    assert 10 < len(found) < 200
    assert set(found) == {bytes([number]).hex() * 16 for number in range(200 - len(found), 200)}
    assert len(str(found)) < 2 * HISTORIES_BYTES
