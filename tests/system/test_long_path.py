"""A resume over a long path: how many round trips it takes, and how long."""

import itertools
import os
import statistics
import time

import pytest
from lab import outage, until
from long_cable import TUN, LongCable
from proxies import DAEMON_PORT
from test_figures import Arrivals

from tests.root import real_root

DELAY_S = 0.025  # of each direction
CHANGES = 9


@pytest.fixture
def cable(lab, ends):
    """The client's only path to the router."""
    lab.wifi.pull()
    if not real_root() and not os.access(TUN, os.R_OK | os.W_OK):
        pytest.skip(f"{TUN} is for root alone here")
    cable = LongCable(lab.client, lab.router, 4, DELAY_S)
    ends.callback(cable.close)
    cable.give(2)
    return cable


def flights(segments):
    """[(up, [segments])]: what each side sent before it got an answer."""
    return [(up, list(group)) for up, group in itertools.groupby(sorted(segments), lambda segment: segment.up)]


def test_first_byte_and_flights_of_a_resume(pair, cable, carrier_options):
    """Goal: the first byte of the daemon within 100 ms and three round trips (TCP, TLS, HELLO; two without TLS) of the
    address's return. The client speaks first, answers sproxy's TLS with one flight that has all the rest, HELLO and
    RESUME among it, and the next that it gets brings the daemon's bytes."""
    flights_up = 1 if carrier_options else 2
    pair.peer("count", DAEMON_PORT, "0.005")
    pair.start()
    arrivals = Arrivals(pair.app())
    until(lambda: arrivals.times, 10, "first number")
    delays, waits = [], []
    for change in range(CHANGES):
        cable.pull()
        outage(0.3)
        cable.segments.clear()
        given_at = time.monotonic()
        cable.give(50 + change)
        first_at = until(lambda: arrivals.first_after(given_at), 10, "a number after the change")  # noqa: B023
        delays.append(first_at - given_at)
        resumed = pair.cproxy.event("resumed", count=change + 1)
        port = int(resumed["local"].rpartition(":")[2])
        seen = flights([segment for segment in list(cable.segments) if segment.port == port and segment.at <= first_at])
        seen = seen[:2 * flights_up]
        assert [up for up, _ in seen] == [True, False] * flights_up, seen
        for _, flight in seen[:-1]:
            assert flight[-1].at - flight[0].at < DELAY_S, "a flight in which somebody waited"
        waits.append(first_at - seen[-1][1][0].at)
    print("seconds to the first byte:", *(f"{delay:.3f}" for delay in sorted(delays)))
    assert statistics.median(delays) <= 0.100 + (flights_up + 1) * 2 * DELAY_S
    assert statistics.median(waits) < DELAY_S, "the daemon's bytes come with WELCOME, not a round trip later"
    assert max(delays) < 3
    seen = list(arrivals.numbers)
    assert seen == list(range(len(seen)))
