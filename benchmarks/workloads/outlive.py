"""Workload 20: the process that serves is killed: how long its connections stand still, and what that promise costs.

Goal: kill -9 of sproxy's worker is a pause that nobody notices; in normal running the keeper costs nothing.
Method: two proxies on loopback. Bulk: one stream of bytes down without end; sproxy's worker is killed, and the client
notes the longest time without a byte around that moment. Streams: 1,000 are open; the worker is killed, in the same
moment the daemon sends 64 bytes on each, and the clock stops when the client has the last of them. A kill is 1.2 s
after the one before, which is when a worker has come of age. Memory of the keeper: what is its own alone (USS), beside
a worker that has served. Bulk, HTTP and idle streams: the workloads of the session group, with a keeper beside without.
Upgrade: while 64 bytes go down on each of 1,000 streams, round after round, sproxy is told to hand over to the next
build, which is itself; the longest round counts, from the daemon's first byte to the client's last one, beside the
ordinary ones. A connection that is lost ends the row. The same with two workers: the streams are those of eight
cproxies, whose sessions are spread over both.
Limits: on loopback the dial takes no time; over a path it takes its round trips. Killing what serves in a peer ends its
connections: there is no pause to measure, which is said where it is left out.
"""

from __future__ import annotations

import os
import select
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Hop
from harness.contenders import (
    HAPROXY,
    MPROXY,
    MPROXY_DATAGRAM,
    MPROXY_TLS,
    MPROXY_UNKEPT,
    NGINX,
    REPOSITORY,
    SSH,
    started,
)
from harness.crowd import crowd_client, crowd_server
from harness.places import LOOPBACK, free_port
from harness.process import Group, Process, descendants

from workloads import bulk, http, memory

PAUSE_ROW = "kill -9 of sproxy's worker, bulk"
STREAMS_ROW = "kill -9 of sproxy's worker, 1,000 streams"
UPGRADE_ROW = "upgrade of sproxy, 1,000 streams"
WORKERS_ROW = "upgrade of sproxy --workers 2, 1,000 streams of 8 sessions"
KEEPER_ROW = "the keeper's own memory"
KILLS, STREAM_KILLS, QUICK_KILLS = 50, 20, 5
STREAMS = 1_000
WORKERS, SESSIONS = 2, 8
TOKEN_BYTES = 64
OF_AGE_SECONDS = 1.2
UPGRADE_SECONDS = 2.5
WATCHED_SECONDS = 1.0
CUT = "cut: the connection ended with the process"


def pause_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    port = free_port()
    stack.enter_context(load.Worker(load.bulk_server, (LOOPBACK, port)))
    for contender in bench.contenders():
        chain = contender.chain_between(f"{LOOPBACK}:{port}")
        group = bench.start(stack, contender, chain)
        if group is not None:
            client = stack.enter_context(load.Worker(watching_client, chain.entry))
            yield Case(PAUSE_ROW, contender.name, partial(measure_pause, group, client),
                       bench.plan.pick(KILLS, QUICK_KILLS))


def watching_client(_worker: load.Worker, control, address: load.Address) -> None:
    """Reads bytes without end; each command is answered with the longest time without one since then, in ms, or with
    what the connection ended by. Command: for how long to look."""
    sock = load.connect(address)
    sock.send(load.SERVER_SENDS)
    buffer = bytearray(load.BULK_CALL_BYTES)
    control.send("ready")
    poller = select.poll()
    for each in (sock, control):
        poller.register(each, select.POLLIN)
    until, longest, last, over = 0.0, 0.0, 0.0, ""
    while True:
        ready = {fd for fd, _events in poller.poll(50)}
        now = time.monotonic()
        if sock.fileno() in ready and not over:
            over = _read(sock, buffer)
            longest, last = max(longest, now - last), now
            if over:
                poller.unregister(sock)
        if control.fileno() in ready:
            until, longest, last = now + control.recv()[0], 0.0, now
        if until and (now >= until or over):
            control.send(over or max(longest, now - last) * 1000)
            until = 0.0


def _read(sock, buffer: bytearray) -> str:
    """What the connection ended by; empty: it goes on."""
    try:
        return "" if sock.recv_into(buffer) else "its end"
    except OSError as error:
        return os.strerror(error.errno or 0)


def measure_pause(group: Group, client: load.Worker) -> dict[str, float]:
    time.sleep(OF_AGE_SECONDS - WATCHED_SECONDS)
    client.control.send((WATCHED_SECONDS,))
    kill_server(group)
    outcome = client.answer()
    if isinstance(outcome, str):
        raise MeasureError(CUT)
    return {"pause ms": outcome}


def kill_server(group: Group) -> None:
    """Kill what serves connections in the last proxy of the row: its worker, where it has one."""
    pid = group.processes[-1].pid
    os.kill((descendants(pid) or [pid])[-1], signal.SIGKILL)


def crowd_cases(bench: Bench, stack: ExitStack, row: str,
                measure: Callable[[Group, load.Worker, load.Worker], dict[str, float]]) -> Iterator[Case]:
    """Cases of a row that is measured with STREAMS connections open."""
    for contender in bench.contenders():
        port = free_port()
        server = stack.enter_context(load.Worker(crowd_server, (LOOPBACK, port)))
        chain = contender.chain_between(f"{LOOPBACK}:{port}")
        group = bench.start_or_raise(stack, contender, chain)
        client = stack.enter_context(load.Worker(crowd_client, chain.entry))
        _order(client, "open", STREAMS)
        yield Case(row, contender.name, partial(measure, group, server, client),
                   bench.plan.pick(STREAM_KILLS, QUICK_KILLS))


def stream_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    return crowd_cases(bench, stack, STREAMS_ROW, measure_streams)


def measure_streams(group: Group, server: load.Worker, client: load.Worker) -> dict[str, float]:
    """Milliseconds from the kill to the first and to the last stream's bytes."""
    time.sleep(OF_AGE_SECONDS)
    client.control.send(("collect", TOKEN_BYTES, 20.0))
    begun_ns = time.monotonic_ns()
    kill_server(group)
    server.ask("send", TOKEN_BYTES)
    outcome, detail = client.answer()
    if outcome != "done":
        raise MeasureError(detail)
    first, last = ((at_ns - begun_ns) / 1e6 for at_ns in detail)
    return {"first byte ms": first, "last byte ms": last}


def upgrade_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    return crowd_cases(bench, stack, UPGRADE_ROW, measure_upgrade)


def measure_upgrade(group: Group, server: load.Worker, *clients: load.Worker) -> dict[str, float]:
    """Milliseconds of the longest round while another build takes over, and of the median."""
    rounds = []
    os.kill(group.processes[-1].pid, signal.SIGUSR2)
    until = time.monotonic() + UPGRADE_SECONDS
    while time.monotonic() < until:
        for client in clients:
            client.control.send(("collect", TOKEN_BYTES, 20.0))
        begun_ns = time.monotonic_ns()
        server.ask("send", TOKEN_BYTES)
        last_ns = 0
        for client in clients:
            outcome, detail = client.answer()
            if outcome != "done":
                raise MeasureError(detail)
            last_ns = max(last_ns, detail[1])
        rounds.append((last_ns - begun_ns) / 1e6)
    return {"longest ms": max(rounds), "ordinary ms": statistics.median(rounds)}


def workers_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    """The same of an sproxy with several workers, and a cproxy for each session."""
    for contender in bench.contenders():
        daemon, port = free_port(), free_port()
        server = stack.enter_context(load.Worker(crowd_server, (LOOPBACK, daemon)))
        carrier = "datagram" if contender.name == MPROXY_DATAGRAM else "tcp"
        group = Group([])
        bench.latest[contender.name] = group
        stack.callback(group.stop)
        group.processes.append(start_proxy(bench, Hop(LOOPBACK, port, f"{LOOPBACK}:{daemon}", is_last=True), [
            str(REPOSITORY / "sproxy"), "--workers", str(WORKERS), "--bind", LOOPBACK, str(port),
            f"{LOOPBACK}:{daemon}"]))
        clients = []
        for _ in range(SESSIONS):
            entry = free_port()
            group.processes.insert(0, start_proxy(bench, Hop(LOOPBACK, entry, f"{LOOPBACK}:{port}"), [
                str(REPOSITORY / "cproxy"), "--carrier", carrier, "--bind", LOOPBACK, str(entry), LOOPBACK,
                str(port)]))
            clients.append(stack.enter_context(load.Worker(crowd_client, (LOOPBACK, entry))))
            _order(clients[-1], "open", STREAMS // SESSIONS)
        yield Case(WORKERS_ROW, contender.name, partial(measure_upgrade, group, server, *clients),
                   bench.plan.pick(STREAM_KILLS, QUICK_KILLS))


def start_proxy(bench: Bench, hop: Hop, command: list[str]) -> Process:
    """With a state directory of its own."""
    state = str(bench.plan.work / f"state-{hop.port}")
    return started([command[0], "--state-dir", state, *command[1:]], hop, bench.plan.work)


def _order(client: load.Worker, *command) -> None:
    outcome, detail = client.ask(*command)
    if outcome != "done":
        raise MeasureError(detail)


def keeper_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    port = free_port()
    stack.enter_context(load.Worker(load.bulk_server, (LOOPBACK, port)))
    for contender in bench.contenders():
        chain = contender.chain_between(f"{LOOPBACK}:{port}")
        group = bench.start_or_raise(stack, contender, chain)
        yield Case(KEEPER_ROW, contender.name, partial(measure_keeper, group, chain.entry), 1)


def measure_keeper(group: Group, entry: load.Address) -> dict[str, float]:
    """The larger one of the two."""
    with load.Worker(load.bulk_client, entry, load.SERVER_SENDS, 1):
        time.sleep(1.0)
        return {"USS MB": max(own_bytes(process.pid) for process in group.processes) / 1e6}


def own_bytes(pid: int) -> int:
    """Memory that no other process has, too."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


_KEPT = (MPROXY, MPROXY_TLS, MPROXY_DATAGRAM)
_BESIDE = (MPROXY, MPROXY_UNKEPT)

WORKLOADS = (
    Workload("kill", "The serving process is killed", pause_cases, (*_KEPT, HAPROXY, NGINX, SSH), _KEPT),
    Workload("kill1000", "The same, with 1,000 streams", stream_cases, _KEPT, _KEPT),
    Workload("upgrade", "Another build takes over", upgrade_cases, _KEPT, _KEPT),
    Workload("upgrade-workers", "Another build takes over from two workers", workers_cases,
             (MPROXY_TLS, MPROXY_DATAGRAM), (MPROXY_TLS, MPROXY_DATAGRAM)),
    Workload("keeper", "Memory of the keeper", keeper_cases, _KEPT, _KEPT),
    Workload("kept-bulk", "Bulk, with a keeper and without", partial(bulk.cases, bulk.ONE_STREAM[:2]), _BESIDE, _BESIDE,
             peer=MPROXY_UNKEPT),
    Workload("kept-http", "HTTP, with a keeper and without", partial(http.cases, http.KEEP_ALIVE[1:2]), _BESIDE,
             _BESIDE, peer=MPROXY_UNKEPT),
    Workload("kept-memory", "Idle streams, with a keeper and without", memory.cases, _BESIDE, _BESIDE,
             peer=MPROXY_UNKEPT),
)
