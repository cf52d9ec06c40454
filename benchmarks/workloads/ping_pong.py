"""Workload 5: one message there and back, 1 byte and 1 KiB, one at a time.

Goal: what two proxies add to a round trip.
Method: one connection; send, wait for the whole echo, note the time, at once again. p50, p99 and p99.9 of
each turn.
Limits: both ends are Python and cost some microseconds a trip, the same for everybody, which pulls all ratios
a little towards 1. On two cores most of a trip is waking sleepers up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import DIRECT, HAPROXY, MPROXY, MPROXY_PLAIN, NGINX, SOCAT, SSH, STUNNEL
from harness.places import LOOPBACK, free_port

SIZES = (("ping-pong 1 B", 1), ("ping-pong 1 KiB", 1024))
FULL_SECONDS, QUICK_SECONDS = 0.6, 0.3
WARM_UP_SECONDS = 0.1


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    port = free_port()
    stack.enter_context(load.Worker(load.echo_server, (LOOPBACK, port)))
    seconds = bench.plan.pick(FULL_SECONDS, QUICK_SECONDS)
    for contender in bench.contenders():
        chain = contender.chain_between(f"{LOOPBACK}:{port}")
        if bench.start(stack, contender, chain) is None:
            continue
        for row, size in SIZES:
            yield Case(row, contender.name, partial(measure, chain.entry, size, seconds))


def measure(entry: load.Address, size: int, seconds: float) -> dict[str, float]:
    """Percentiles of the round trip in microseconds."""
    with load.connect(entry) as sock:
        sock.settimeout(load.ANSWER_TIMEOUT_SECONDS)
        load.round_trip_times_ns(sock, size, WARM_UP_SECONDS)
        sock.settimeout(None)
        times = sorted(load.round_trip_times_ns(sock, size, seconds))
    time.sleep(0.05)
    if not times:
        raise MeasureError("no round trip came to its end")
    shares = (("p50 us", 0.5), ("p99 us", 0.99), ("p99.9 us", 0.999))
    return {name: load.percentile(times, share) / 1e3 for name, share in shares}


WORKLOAD = Workload(
    "pingpong",
    "Ping-pong",
    cases,
    (DIRECT, MPROXY, MPROXY_PLAIN, HAPROXY, NGINX, SOCAT, SSH, STUNNEL),
    (DIRECT, MPROXY, HAPROXY),
)
