"""Workloads 1 and 2: bulk over loopback, one stream up, down and both ways, and 50 streams up.

Goal: what a byte costs in the two proxies, and how fast it goes beside that.
Method: a client that sends (or asks for) bytes without end in calls of 256 KiB, through two proxies, to a
server that does the opposite. After a warm-up, bytes that arrived and CPU seconds of the proxy processes are
both read at the start and at the end of the same interval. "Both ways" counts the bytes of both directions.
Limits: client, server and both proxies share the cores, so Gbit/s depends on how many there are; CPU seconds
per GB hardly does. The kernel's loopback work is done in whoever sends, and counts there. Content is not
looked at (the system tests compare checksums). Nothing is pinned to a core.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import (
    DIRECT,
    DIRECT_IPERF,
    HAPROXY,
    HAPROXY_BIG,
    HAPROXY_SPLICE,
    HAPROXY_TLS,
    MPROXY,
    MPROXY_PLAIN,
    NGINX,
    SOCAT,
    SSH,
    STUNNEL,
)
from harness.places import LOOPBACK, free_port
from harness.process import Group, Process

FULL_SECONDS, QUICK_SECONDS = 0.5, 0.4
WARM_UP_SECONDS = 0.15
MANY_WARM_UP_SECONDS = 0.5  # with less the figures scatter: 50 streams take longer to settle
SETTLE_SECONDS = 0.05  # the last bytes of one turn must not run in the next

ONE_STREAM = (
    ("bulk up", load.SERVER_RECEIVES, 1),
    ("bulk down", load.SERVER_SENDS, 1),
    ("bulk both ways", load.SERVER_DOES_BOTH, 1),
)
IPERF_MODES = {load.SERVER_RECEIVES: (), load.SERVER_SENDS: ("-R",), load.SERVER_DOES_BOTH: ("--bidir",)}
MANY_STREAMS = (("bulk 50 streams", load.SERVER_RECEIVES, 50),)


def cases(rows: tuple[tuple[str, bytes, int], ...], bench: Bench, stack: ExitStack) -> Iterator[Case]:
    address = (LOOPBACK, free_port())
    server = stack.enter_context(load.Worker(load.bulk_server, address))
    seconds = bench.plan.pick(FULL_SECONDS, QUICK_SECONDS)
    for contender in bench.contenders():
        if contender.name == DIRECT_IPERF:
            iperf = iperf_server(bench, stack)
            for row, mode, streams in rows:
                yield Case(row, contender.name, partial(measure_iperf, iperf, mode, streams))
            continue
        chain = contender.chain_between(f"{LOOPBACK}:{address[1]}")
        group = bench.start(stack, contender, chain)
        if group is None:
            continue
        for row, mode, streams in rows:
            yield Case(
                row, contender.name, partial(measure, group, server, chain.entry, mode, streams, seconds)
            )


def measure(
    group: Group, server: load.Worker, entry: load.Address, mode: bytes, streams: int, seconds: float
) -> dict[str, float]:
    """CPU seconds per GB and Gbit/s of one contender over one interval."""
    with load.Worker(load.bulk_client, entry, mode, streams) as client:
        time.sleep(WARM_UP_SECONDS if streams == 1 else MANY_WARM_UP_SECONDS)
        begun_at, cpu, received = time.monotonic(), group.cpu_seconds(), _received(server, client)
        time.sleep(seconds)
        elapsed, cpu, received = (
            time.monotonic() - begun_at,
            group.cpu_seconds() - cpu,
            _received(server, client) - received,
        )
    time.sleep(SETTLE_SECONDS)
    if not received:
        raise MeasureError("not one byte arrived")
    rate = {"Gbit/s": received * 8 / elapsed / 1e9}
    return {"CPU s/GB": cpu / received * 1e9, **rate} if group.processes else rate


def iperf_server(bench: Bench, stack: ExitStack) -> int:
    """Start iperf3 as server; returns its port."""
    port = free_port()
    server = Process(["iperf3", "-s", "-p", str(port), "-B", LOOPBACK], bench.plan.work / "iperf3.log")
    stack.callback(server.stop)
    server.wait_listening(port)
    return port


def measure_iperf(port: int, mode: bytes, streams: int) -> dict[str, float]:
    """Gbit/s without a proxy by somebody else's load generator, for comparison with ours; it takes whole seconds."""
    command = ["iperf3", "-c", LOOPBACK, "-p", str(port), "-t", "1", "-P", str(streams), "--json", *IPERF_MODES[mode]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    outcome = json.loads(result.stdout or "{}")
    if "end" not in outcome or "error" in outcome:
        raise MeasureError(f"iperf3: {outcome.get('error') or result.stderr.strip() or 'no result'}")
    sums = [outcome["end"].get(name) for name in ("sum_received", "sum_received_bidir_reverse")]
    return {"Gbit/s": sum(found["bits_per_second"] for found in sums if found) / 1e9}


def _received(server: load.Worker, client: load.Worker) -> int:
    return server.counters[0] + client.counters[0]


_PLAIN = (DIRECT, DIRECT_IPERF, MPROXY, MPROXY_PLAIN, HAPROXY, HAPROXY_BIG, HAPROXY_SPLICE, NGINX, SOCAT)
_SECURE = (HAPROXY_TLS, STUNNEL, SSH)
_QUICK = (DIRECT, MPROXY, HAPROXY, HAPROXY_BIG)

WORKLOADS = (
    Workload("bulk", "Bulk, one stream", partial(cases, ONE_STREAM), _PLAIN + _SECURE, _QUICK),
    Workload("bulk50", "Bulk, 50 streams", partial(cases, MANY_STREAMS), _PLAIN + _SECURE, _QUICK[:-1]),
)
