"""Sums of sessions that are over, from one worker to the next."""

from types import SimpleNamespace

import pytest

from mproxy.service.status import Ended, Outages


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
