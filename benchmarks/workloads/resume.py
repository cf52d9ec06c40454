"""Workload 9: the address is gone and comes back changed: time to the first byte, to the last, and detection.

Goal: a change of address is over before anybody notices, with one stream or ten thousand; a silent death of
the path is noticed in time.
Method: two hosts and a switch in namespaces. With N streams open, host a loses its address; during the outage
the daemon sends 64 bytes on every stream; host a gets another address. The clock starts when `address add` is
handed to a waiting `ip -batch`. First byte and last byte are seen by the client; bytes resent are what both
proxies log. For detection the switch goes down with both cables left up: no reset, no event; the clock stops
when a proxy logs `lost`.
Limits: of all contenders only mproxy survives this, so it stands alone here. Reading 10,000 streams costs the
Python client some tens of milliseconds, which are in the figure. The path dies at any point of a heartbeat
interval, so detection may take up to one interval less than misses x heartbeat.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import MPROXY, PLAINTEXT, TABLE, Contender, mproxy_pair
from harness.crowd import crowd_client, crowd_server
from harness.places import LOOPBACK, AddressSwitch, TwoHosts, free_port
from harness.process import Group, Process

TOKEN_BYTES = 64
# streams, changes in a full run, changes in a quick run
SIZES = ((1, 20, 3), (1_000, 5, 1), (10_000, 5, 1))
FULL_OUTAGE_SECONDS, QUICK_OUTAGE_SECONDS = 1.5, 1.0
SEND_AFTER_SECONDS = 0.2  # into the outage, so that the tokens can't slip through before it
SETTLE_SECONDS = 0.5
OF_USE_SECONDS = 4.0  # carriers that die younger than the silence that ends one are granted more of it each time
HEARTBEATS = (("1s", "black hole, heartbeat 1 s"), ("100ms", "black hole, heartbeat 100 ms"))
DETECTION_LIMIT_SECONDS = 15.0

_RESENT = re.compile(r" resumed .*\bresent=(\d+)")


def resume_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    for contender in bench.contenders():
        for count, full, quick in SIZES:
            row = f"resume, {count:,} stream{'s' * (count > 1)}"
            run = Outage(bench, stack, contender, count)
            yield Case(row, contender.name, run.measure, bench.plan.pick(full, quick))


class Outage:
    """One pair of hosts with a session of so many streams across them, and the changes of address it goes
    through."""

    def __init__(self, bench: Bench, stack: ExitStack, contender: Contender, count: int):
        self._seconds = bench.plan.pick(FULL_OUTAGE_SECONDS, QUICK_OUTAGE_SECONDS)
        hosts = stack.enter_context(TwoHosts(f"r{count}"))
        port = free_port()
        self._server = stack.enter_context(load.Worker(crowd_server, (LOOPBACK, port), netns=hosts.b))
        chain = contender.chain_across(hosts, f"{LOOPBACK}:{port}")
        self._group = bench.start_or_raise(stack, contender, chain)
        self._client = stack.enter_context(load.Worker(crowd_client, chain.entry, netns=hosts.a))
        outcome, detail = self._client.ask("open", count)
        if outcome != "done":
            raise MeasureError(detail)
        self._switch = AddressSwitch(hosts)
        stack.callback(self._switch.close)

    def measure(self) -> dict[str, float]:
        """Milliseconds from the new address to the first and to the last byte, KB resent by both proxies."""
        resent = resent_bytes(self._group)
        self._switch.take_away()
        time.sleep(SEND_AFTER_SECONDS)
        self._server.ask("send", TOKEN_BYTES)
        self._client.control.send(("collect", TOKEN_BYTES, self._seconds + 20.0))
        time.sleep(self._seconds - SEND_AFTER_SECONDS)
        begun_ns = time.monotonic_ns()
        self._switch.give_next()
        outcome, detail = self._client.answer()
        if outcome != "done":
            raise MeasureError(detail)
        time.sleep(SETTLE_SECONDS)
        first, last = ((at_ns - begun_ns) / 1e6 for at_ns in detail)
        if first < 0:
            raise MeasureError("a byte came before the address did")
        return {
            "first byte ms": first,
            "last byte ms": last,
            "resent KB": (resent_bytes(self._group) - resent) / 1e3,
        }


def resent_bytes(group: Group) -> int:
    """Sum over all `resumed` lines both proxies have logged."""
    return sum(
        int(found) for process in group.processes for found in _RESENT.findall(process.log.read_text())
    )


def black_hole_cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    if MPROXY not in {contender.name for contender in bench.contenders()}:
        return
    for heartbeat, row in HEARTBEATS:
        hosts = stack.enter_context(TwoHosts(f"hole{heartbeat}"))
        port = free_port()
        stack.enter_context(load.Worker(crowd_server, (LOOPBACK, port), netns=hosts.b))
        contender = Contender(MPROXY, partial(mproxy_pair, (PLAINTEXT, "--heartbeat", heartbeat)), TABLE[MPROXY].needs)
        chain = contender.chain_across(hosts, f"{LOOPBACK}:{port}")
        group = bench.start_or_raise(stack, contender, chain)
        client = stack.enter_context(load.Worker(crowd_client, chain.entry, netns=hosts.a))
        client.ask("open", 1)
        yield Case(row, MPROXY, partial(measure_detection, hosts, group), bench.plan.pick(5, 1))


def measure_detection(hosts: TwoHosts, group: Group) -> dict[str, float]:
    """Seconds until each side says that the carrier is lost; then the path is mended and the session
    resumed."""
    seen = [process.log.stat().st_size for process in group.processes]
    resumed = _count(group.processes[0], "resumed")
    begun_at = time.monotonic()
    hosts.set_black_hole(True)
    try:
        noticed = _wait_for_loss(group, seen, begun_at)
    finally:
        hosts.set_black_hole(False)
    _wait_for_resume(group.processes[0], resumed)
    time.sleep(OF_USE_SECONDS)
    return dict(zip(("cproxy s", "sproxy s"), noticed, strict=True))


def _wait_for_loss(group: Group, seen: list[int], begun_at: float) -> list[float]:
    noticed: dict[Path, float] = {}
    while len(noticed) < len(group.processes):
        now = time.monotonic()
        if now - begun_at > DETECTION_LIMIT_SECONDS:
            raise MeasureError(f"the black hole was not noticed within {DETECTION_LIMIT_SECONDS:g} s")
        for process, offset in zip(group.processes, seen, strict=True):
            if process.log not in noticed and b" lost " in process.log.read_bytes()[offset:]:
                noticed[process.log] = now - begun_at
        time.sleep(0.002)
    return [noticed[process.log] for process in group.processes]


def _wait_for_resume(process: Process, before: int) -> None:
    deadline_at = time.monotonic() + 30.0
    while _count(process, "resumed") == before:
        if time.monotonic() > deadline_at:
            raise MeasureError("the session did not come back after the black hole")
        time.sleep(0.02)
    time.sleep(SETTLE_SECONDS)


def _count(process: Process, event: str) -> int:
    return process.log.read_text().count(f" {event} ")


WORKLOADS = (
    Workload("resume", "Another address", resume_cases, (MPROXY,), (MPROXY,), needs_root=True),
    Workload(
        "blackhole", "Silent death of the path", black_hole_cases, (MPROXY,), (MPROXY,), needs_root=True
    ),
)
