"""Workload 6: a key stroke's round trip while another stream copies at full speed over the same 50 Mbit/s
path.

Goal: typing must stay pleasant beside a file copy.
Method: two hosts and a switch in namespaces; a token bucket shapes both directions to 50 Mbit/s with a queue
of 20 ms (loss-based congestion control fills it). First proxy beside the client, last proxy beside the
server. One stream copies up (or down) without end; after a second another sends one byte, waits for its
echo, and 10 ms later sends the next. Both streams share one carrier in mproxy and one connection in ssh;
haproxy has two connections, direct likewise. "Idle path" is direct without the copy: the path's own round trip.
Limits: a queue in the network can't be overtaken by anybody; what differs is how much each contender puts
between the key stroke and that queue. The copy's own rate is shown so that nobody wins by copying less.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import DIRECT, HAPROXY, MPROXY, SSH
from harness.places import LOOPBACK, Shape, TwoHosts, free_port

KEY_IDLE, KEY_UP, KEY_DOWN = "key stroke, idle path", "key stroke beside upload", "key stroke beside download"
PATH = Shape(mbit_s=50, queue_ms=20)
ROWS = ((KEY_UP, load.SERVER_RECEIVES), (KEY_DOWN, load.SERVER_SENDS))
INTERVAL_SECONDS = 0.01
SECONDS = 2.0
WARM_UP_SECONDS = 1.2
QUICK_ROUNDS = 1


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    hosts = stack.enter_context(TwoHosts("key", PATH))
    port = free_port()
    # Daemons listen on every address of host b: next to the last proxy, and reachable without any.
    server = stack.enter_context(load.Worker(load.bulk_server, ("0.0.0.0", port), netns=hosts.b))
    rounds = bench.plan.pick(None, QUICK_ROUNDS)
    for contender in bench.contenders():
        chain = contender.chain_across(hosts, f"{LOOPBACK}:{port}")
        if bench.start(stack, contender, chain) is None:
            continue
        if contender.name == DIRECT:
            yield Case(KEY_IDLE, DIRECT, partial(measure, hosts, server, chain.entry, None), rounds)
        for row, mode in bench.plan.pick(ROWS, ROWS[:1]):
            yield Case(row, contender.name, partial(measure, hosts, server, chain.entry, mode), rounds)


def measure(hosts: TwoHosts, server: load.Worker, entry: load.Address, mode: bytes | None) -> dict[str, float]:
    """Round trip of a key stroke in milliseconds, and what the copy beside it reached."""
    with ExitStack() as stack:
        typist = stack.enter_context(load.Worker(load.typist, entry, netns=hosts.a))
        copied = _no_copy
        if mode is not None:
            copier = stack.enter_context(load.Worker(load.bulk_client, entry, mode, 1, netns=hosts.a))
            copied = partial(_received, server, copier)
            time.sleep(WARM_UP_SECONDS)
        begun_at, before = time.monotonic(), copied()
        times = sorted(typist.ask(1, SECONDS, INTERVAL_SECONDS))
        rate = (copied() - before) * 8 / (time.monotonic() - begun_at) / 1e6
    time.sleep(0.3)
    if not times:
        raise MeasureError("no key stroke came back")
    figures = {
        name: load.percentile(times, share) / 1e6 for name, share in (("p50 ms", 0.5), ("p99 ms", 0.99))
    }
    return figures if mode is None else {**figures, "copy Mbit/s": rate}


def _no_copy() -> int:
    return 0


def _received(server: load.Worker, client: load.Worker) -> int:
    return server.counters[0] + client.counters[0]


WORKLOAD = Workload(
    "keystroke",
    "Key stroke beside a copy over 50 Mbit/s",
    cases,
    (DIRECT, MPROXY, HAPROXY, SSH),
    (DIRECT, MPROXY, SSH),
    needs_root=True,
    peer=SSH,
)
