"""A resume over a long path: how many round trips it takes, and how long."""

import itertools
import statistics
import time

import pytest
from lab import outage, until
from long_cable import LongCable, need_tun
from proxies import DAEMON_PORT
from test_figures import Arrivals, least_median

DELAY_S = 0.05  # of each direction; who waits for an answer in a flight, waits twice as long


@pytest.fixture
def cable(lab, ends):
    """The client's only path to the router."""
    lab.wifi.pull()
    need_tun()
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
    flights_up = 1 if "--plaintext" in carrier_options else 2
    pair.peer("count", DAEMON_PORT, "0.005")
    pair.start(cproxy=["--log-level", "debug"])  # which tells of every resume, however many there are
    arrivals = Arrivals(pair.app())
    until(lambda: arrivals.times, 10, "first number")
    numbers = itertools.count()
    spans = [[] for _ in range(2 * flights_up - 1)]  # of each flight, how long it took to leave
    waits = []

    def change():
        number = next(numbers)
        cable.pull()
        outage(0.3)
        cable.segments.clear()
        given_at = time.monotonic()
        cable.give(50 + number)
        first_at = until(lambda: arrivals.first_after(given_at), 20, "a number after the change")
        resumed = pair.cproxy.event("resumed", count=number + 1)
        port = int(resumed["local"].rpartition(":")[2])
        seen = flights([segment for segment in list(cable.segments) if segment.port == port and segment.at <= first_at])
        seen = seen[:2 * flights_up]
        assert [up for up, _ in seen] == [True, False] * flights_up, seen
        for (_, flight), span in zip(seen, spans, strict=False):
            span.append(flight[-1].at - flight[0].at)
        waits.append(first_at - seen[-1][1][0].at)
        return first_at - given_at

    limit = 0.100 + (flights_up + 1) * 2 * DELAY_S
    assert least_median(change, count=7, limit=limit) <= limit
    assert max(map(statistics.median, spans)) < DELAY_S, "a flight in which somebody waits"
    assert statistics.median(waits) < DELAY_S, "the daemon's bytes come with WELCOME, not a round trip later"
    seen = list(arrivals.numbers)
    assert seen == list(range(len(seen)))
