"""Workload 7: one bulk stream over a path of 100 ms round trip that gives 300 Mbit/s.

Goal: neither window nor acks of the resumable protocol may limit one stream on a long fat path.
Method: a relay between the two proxies holds every byte back for 50 ms each way and lets 300 Mbit/s through
in each direction; the direct contender goes through the same kind of relay. After a warm-up the bytes that
arrive are counted for about a second.
Limits: the relay ends TCP on both of its sides, so what is tested is the proxies' own window and ack scheme,
not the kernel's. It takes in at most 8 MiB beyond what it has let through; it is Python, and costs about a
tenth of a core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import DIRECT, HAPROXY, MPROXY, SSH
from harness.delay_relay import PathLimits, delay_relay
from harness.places import LOOPBACK, free_port

LONG_ROWS = ("100 ms path up", "100 ms path down")
PATH = PathLimits(one_way_s=0.050, bytes_per_s=300e6 / 8, held_bytes=8 << 20)
ROWS = tuple(zip(LONG_ROWS, (load.SERVER_RECEIVES, load.SERVER_SENDS), strict=True))
WARM_UP_SECONDS = 1.2
FULL_SECONDS, QUICK_SECONDS = 1.2, 1.0
QUICK_ROUNDS = 1


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    server_port = free_port()
    server = stack.enter_context(load.Worker(load.bulk_server, (LOOPBACK, server_port)))
    target = f"{LOOPBACK}:{server_port}"
    rounds = bench.plan.pick(None, QUICK_ROUNDS)
    for contender in bench.contenders():
        relay_port, last_port = free_port(), free_port()
        onward = (LOOPBACK, last_port if contender.hops else server_port)
        stack.enter_context(load.Worker(delay_relay, (LOOPBACK, relay_port), onward, PATH))
        chain = contender.chain_through(f"{LOOPBACK}:{relay_port}", last_port, target)
        if bench.start(stack, contender, chain) is None:
            continue
        for row, mode in bench.plan.pick(ROWS, ROWS[:1]):
            yield Case(row, contender.name, partial(measure, bench, server, chain.entry, mode), rounds)


def measure(bench: Bench, server: load.Worker, entry: load.Address, mode: bytes) -> dict[str, float]:
    """Mbit/s that one stream reaches."""
    with load.Worker(load.bulk_client, entry, mode, 1) as client:
        time.sleep(WARM_UP_SECONDS)
        begun_at, received = time.monotonic(), server.counters[0] + client.counters[0]
        time.sleep(bench.plan.pick(FULL_SECONDS, QUICK_SECONDS))
        received = server.counters[0] + client.counters[0] - received
        elapsed = time.monotonic() - begun_at
    time.sleep(0.3)
    if not received:
        raise MeasureError("not one byte arrived")
    return {"Mbit/s": received * 8 / elapsed / 1e6}


WORKLOAD = Workload(
    "longpath",
    "One stream, 100 ms round trip, 300 Mbit/s",
    cases,
    (DIRECT, MPROXY, HAPROXY, SSH),
    (DIRECT, MPROXY),
    peer=DIRECT,
)
