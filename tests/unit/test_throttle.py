"""Keeping to a rate, in virtual time."""

import pytest

from mproxy.transfer.throttle import SLICE_US, Throttle
from tests.unit.dial_parts import SECOND_US, FakeLoop


class Link:
    """A connection that takes everything at once."""

    unsent = 0

    def __init__(self, loop):
        self.loop, self.sent = loop, []

    def send(self, data):
        self.sent.append((self.loop.now(), bytes(data)))


@pytest.mark.parametrize("rate", [10_000, 1_250_000, 100_000_000])
def test_no_second_has_more_than_the_rate(rate):
    loop = FakeLoop()
    link = Link(loop)
    throttle = Throttle(loop, link, rate)
    data = [bytes([number]) * (rate // 3) for number in range(9)]
    began = loop.now()
    for one in data:
        throttle.send(one)
    assert throttle.unsent == 9
    while throttle.unsent:
        loop.run(0.001)
    assert b"".join(piece for _at, piece in link.sent) == b"".join(data)
    most = rate * SLICE_US // SECOND_US + 1200
    for at, _piece in link.sent:
        assert sum(len(piece) for when, piece in link.sent if at <= when < at + SECOND_US) <= rate + 2 * most
    assert loop.now() - began >= 2.7 * SECOND_US
    assert loop.now() - began < 3.2 * SECOND_US


def test_time_in_which_nothing_was_sent_is_not_made_up_for():
    loop = FakeLoop()
    link = Link(loop)
    throttle = Throttle(loop, link, 100_000)
    loop.run(60)
    throttle.send(bytes(100_000))
    loop.run(0.5)
    assert sum(len(piece) for _at, piece in link.sent) < 60_000
    loop.run(1)
    assert throttle.unsent == 0
