"""The plain relay, TCP: bulk, HTTP keep-alive and Connection: close through one relay, and 20,000 connections.

Goal: what a byte, a request and a connection cost in one relay process, and whether a crowd is served.
Method: as workloads `bulk` and `http`, with one hop in place of two: one worker against `nbthread 1` and
`worker_processes 1`. The crowd: two client processes of 10,000 connections each, through one rule, to two echo
servers. All connections are opened and greeted; then for five seconds requests of 64 bytes go round all of them at a
fixed rate, and the time of each to its echo is noted. Memory is the growth of the private pages of all processes of
the relay, divided by the connections.
Limits: those of `bulk` and `http`. A process may have 20,000 descriptors where this was measured, so the crowd needs
three workers, which `--workers` gives; peers with one process could not hold it, so there is no column for them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from harness import load, peers
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import DIRECT, HAPROXY, HAPROXY_BIG, HAPROXY_SPLICE, MPROXY_RELAY, NGINX, SOCAT, Contender
from harness.crowd import crowd_client, crowd_server
from harness.places import LOOPBACK, free_port
from harness.process import Process

from workloads import bulk, http

BULK_ROWS = (
    ("relay bulk up", load.SERVER_RECEIVES, 1),
    ("relay bulk down", load.SERVER_SENDS, 1),
    ("relay bulk 50 streams", load.SERVER_RECEIVES, 50),
)
HTTP_CLIENTS = 32
KEEP_ALIVE_ROW, CLOSE_ROW = "relay keep-alive, 32 clients", "relay connection: close, 32 clients"
CROWD_ROW = "relay, 20,000 connections"

CROWD_CLIENTS, CROWD_EACH, CROWD_WORKERS = 2, 10_000, 3
CROWD_SECONDS, CROWD_QUICK_SECONDS = 5.0, 2.0
CROWD_RATE = 2_000  # requests per second and client process: what Python generators do beside the relay
REQUEST_BYTES = 64
SETTLE_SECONDS = 1.0


def one_hop(bench: Bench) -> Iterator[Contender]:
    """The contenders with a single proxy in the row."""
    for contender in bench.contenders():
        yield replace(contender, hops=min(1, contender.hops))


def bulk_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    address = (LOOPBACK, free_port())
    server = stack.enter_context(load.Worker(load.bulk_server, address))
    seconds = bench.plan.pick(bulk.FULL_SECONDS, bulk.QUICK_SECONDS)
    for contender in one_hop(bench):
        chain = contender.chain_between(f"{LOOPBACK}:{address[1]}")
        group = bench.start(stack, contender, chain)
        if group is None:
            continue
        for row, mode, streams in BULK_ROWS:
            measure = partial(bulk.measure, group, server, chain.entry, mode, streams, seconds)
            yield Case(row, contender.name, measure)


def http_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    port = free_port()
    target = f"{LOOPBACK}:{port}"
    work = bench.plan.work
    origin = Process(peers.nginx_origin(target, work), work / "relay-origin.log")
    stack.callback(origin.stop)
    origin.wait_listening(port)
    for contender in one_hop(bench):
        chain = contender.chain_between(target)
        group = bench.start(stack, contender, chain)
        if group is None:
            continue
        for row, close in (KEEP_ALIVE_ROW, False), (CLOSE_ROW, True):
            measure = partial(http.measure, group, chain.entry, HTTP_CLIENTS, close)
            yield Case(row, contender.name, measure, bench.plan.many_rounds)


def crowd_cases(bench: Bench, _stack: ExitStack) -> Iterator[Case]:
    for contender in bench.contenders():
        yield Case(CROWD_ROW, contender.name, partial(measure_crowd, bench), 1)


def measure_crowd(bench: Bench) -> dict[str, float]:
    """Open, load and close the crowd; one refused or lost connection is an error."""
    seconds = bench.plan.pick(CROWD_SECONDS, CROWD_QUICK_SECONDS)
    with ExitStack() as stack:
        targets = [(LOOPBACK, free_port()) for _ in range(CROWD_CLIENTS)]
        servers = [stack.enter_context(load.Worker(crowd_server, target)) for target in targets]
        entry = (LOOPBACK, free_port())
        rule = ", ".join(f"{host}:{port}" for host, port in targets)
        relay = Process(
            peers.mproxy_relay(f"{LOOPBACK}:{entry[1]}", rule, bench.plan.work, workers=CROWD_WORKERS),
            bench.plan.work / "relay-crowd.log",
        )
        stack.callback(relay.stop)
        relay.wait_listening(entry[1])
        time.sleep(SETTLE_SECONDS)
        before = private_bytes(relay)
        clients = [stack.enter_context(load.Worker(crowd_client, entry)) for _ in range(CROWD_CLIENTS)]
        ask_all(clients, "open", CROWD_EACH)
        time.sleep(SETTLE_SECONDS)
        figures = {"bytes each": (private_bytes(relay) - before) / (CROWD_CLIENTS * CROWD_EACH)}
        answers = ask_all(clients, "requests", REQUEST_BYTES, CROWD_RATE, seconds)
        if (held := sum(server.counters[0] for server in servers)) != CROWD_CLIENTS * CROWD_EACH:
            raise MeasureError(f"{held} connections arrived")
        times_ms = sorted(itertools.chain.from_iterable(answers))
        figures["p50 ms"] = load.percentile(times_ms, 0.5)
        figures["p99 ms"] = load.percentile(times_ms, 0.99)
        figures["requests"] = len(times_ms)
        return figures


def ask_all(clients: list[load.Worker], *command) -> list:
    """Give all the same command, then collect the answers."""
    for client in clients:
        client.control.send(command)
    answers = [client.answer() for client in clients]
    for outcome, detail in answers:
        if outcome != "done":
            raise MeasureError(detail)
    return [detail for _outcome, detail in answers]


def private_bytes(process: Process) -> int:
    """Memory that ends with the processes: what they share with each other or the file cache is not counted."""
    total = 0
    for pid in process.family():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total * 1024


_BULK = (MPROXY_RELAY, HAPROXY, HAPROXY_BIG, HAPROXY_SPLICE, NGINX, SOCAT)
_HTTP = (DIRECT, MPROXY_RELAY, HAPROXY, NGINX)

WORKLOADS = (
    Workload("relay-bulk", "Relay, bulk", bulk_cases, _BULK, (MPROXY_RELAY, HAPROXY, HAPROXY_BIG)),
    Workload("relay-http", "Relay, HTTP", http_cases, _HTTP, (MPROXY_RELAY, HAPROXY), note=http.NOTE),
    Workload("relay-crowd", "Relay, 20,000 connections", crowd_cases, (MPROXY_RELAY,), (MPROXY_RELAY,)),
)
