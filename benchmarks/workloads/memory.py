"""Workload 8: memory of a proxy with 10,000 idle streams, and after all of them were busy and went idle
again.

Goal: an idle stream owns no buffer, and a busy past leaves nothing behind.
Method: a fresh pair of proxies; resident memory (RSS) of each before; 10,000 connections are opened and see
one byte echoed; RSS again after a quiet second. Then 16 KiB go out on every stream at once and come back; RSS
again after two quiet seconds. The figure is the growth of the proxy that grew more, per 10,000 streams.
Limits: RSS counts user memory, not the kernel's socket buffers. haproxy needs two descriptors a connection
and is given 9,900 of them where a process may have 20,000; its growth is scaled up to 10,000.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import HAPROXY, MPROXY, MPROXY_UNKEPT, NGINX, Contender
from harness.crowd import crowd_client, crowd_server
from harness.places import LOOPBACK, free_port
from harness.process import Group

STREAMS = 10_000
PEER_STREAMS = 9_900
BUSY_BYTES = 16 * 1024
QUIET_SECONDS, QUIET_AFTER_BUSY_SECONDS = 1.0, 2.0
QUICK_ROUNDS = 1
IDLE_ROW, BUSY_ROW = "10,000 idle streams", "10,000 streams after being busy"
METRIC = "MB a proxy"


def cases(bench: Bench, _stack: ExitStack) -> Iterator[Case]:
    rounds = bench.plan.pick(None, QUICK_ROUNDS)
    for contender in bench.contenders():
        yield Case(BUSY_ROW, contender.name, partial(measure, bench, contender), rounds)


def measure(bench: Bench, contender: Contender) -> dict[str, float]:
    """Growth in MB of the bigger proxy; the idle row is added on the side, from the same processes."""
    count = STREAMS if contender.name in (MPROXY, MPROXY_UNKEPT) else PEER_STREAMS
    with ExitStack() as stack:
        port = free_port()
        stack.enter_context(load.Worker(crowd_server, (LOOPBACK, port)))
        chain = contender.chain_between(f"{LOOPBACK}:{port}")
        group = bench.start_or_raise(stack, contender, chain)
        _warm_up(chain.entry)
        before = group.rss_bytes()
        client = stack.enter_context(load.Worker(crowd_client, chain.entry))
        _order(client, "open", count)
        time.sleep(QUIET_SECONDS)
        idle = {METRIC: _growth_mb(group, before, count)}
        bench.results.add(bench.workload.name, IDLE_ROW, contender.name, idle)
        _order(client, "exchange", BUSY_BYTES)
        time.sleep(QUIET_AFTER_BUSY_SECONDS)
        return {METRIC: _growth_mb(group, before, count)}


def _warm_up(entry: load.Address) -> None:
    """One connection, so that what is there once a process is not charged to the streams."""
    with load.connect(entry) as sock:
        sock.settimeout(load.ANSWER_TIMEOUT_SECONDS)
        load.round_trip_times_ns(sock, 1, 0.1)
    time.sleep(0.2)


def _growth_mb(group: Group, before: list[int], count: int) -> float:
    return (
        max(now - then for now, then in zip(group.rss_bytes(), before, strict=True)) / 1e6 * STREAMS / count
    )


def _order(client: load.Worker, *command) -> None:
    outcome, detail = client.ask(*command)
    if outcome != "done":
        raise MeasureError(detail)


WORKLOAD = Workload("memory", "Memory of idle streams", cases, (MPROXY, HAPROXY, NGINX), (MPROXY,))
