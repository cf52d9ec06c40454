"""Workload: ten thousand encrypted sessions on one sproxy: what they cost at rest, and how they all come back at once.

Goal: an sproxy for ten thousand people. At rest, each with an idle connection to the daemon, they cost memory and one
heartbeat a second; when the uplink was cut and is back they all dial in the same moment, and whoever was not cut off
types on.
Method: sproxy with its default heartbeat, keeper and log on host b; on host a, behind a switch, 10,000 cproxies in four
processes (harness.cproxies) with 240 source addresses. At rest: memory of keeper and worker (RSS and what is theirs
alone, less that of the empty sproxy), the kernel's memory for all TCP sockets of host b, CPU time over 40 s, after the
time in which sproxy asks all to rest. Then the switch goes down until each session has lost its carrier, and five
seconds more, comes up, and the time until the last session has a carrier is taken; meanwhile a key is typed a hundred
times a second on 20 sessions from host b itself, which were not cut off.
Limits: cproxies, daemon and sproxy share the processors of one machine: in the storm the dialling side takes about as
much of them as sproxy. Loopback and virtual cables cost sproxy what a network card's interrupts would do elsewhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Hop
from harness.contenders import MPROXY_DATAGRAM, MPROXY_TLS, REPOSITORY, started
from harness.cproxies import crowd_of_cproxies
from harness.crowd import crowd_server
from harness.places import LOOPBACK, TwoHosts, free_port, run
from harness.process import Group, cpu_seconds

SESSIONS, QUICK_SESSIONS = 10_000, 1_000
CROWDS = 4       # processes of cproxies
LIVING = 20      # sessions that are not cut off
KEYS_A_SECOND = 100
SOURCES = range(10, 250)
QUIET_SECONDS = 40.0  # until all have heard how far apart their heartbeats should be
REST_SECONDS = 40.0
CUT_SECONDS = 5.0  # after the last session has lost its carrier,
MOST_CUT_SECONDS = 120.0  # which takes three intervals between heartbeats: with so many sessions these are long
STORM_SECONDS = 60.0  # for the last to be back
KEY_SECONDS = 15.0
LOOK_SECONDS = 0.02
PAGE_KIB = 4

REST_ROW = "10,000 sessions at rest"
STORM_ROW = "10,000 sessions come back at once"
OWN, RESIDENT, KERNEL, KEEPER, CPU = "own KiB each", "RSS KiB each", "kernel KiB each", "keeper MB", "CPU %"
LAST, MEDIAN, TYPED, COST = "last s", "half s", "key p99 ms", "sproxy CPU s"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    for contender in bench.contenders():
        count = bench.plan.pick(SESSIONS, QUICK_SESSIONS)
        standing = Standing(bench, stack, count, contender.name)
        rest, storm = (row.replace(f"{SESSIONS:,}", f"{count:,}") for row in (REST_ROW, STORM_ROW))
        yield Case(rest, contender.name, standing.measure_rest, 1)
        yield Case(storm, contender.name, standing.measure_storm, bench.plan.pick(3, 1))


class Standing:
    """An sproxy, and so many sessions on it."""

    def __init__(self, bench: Bench, stack: ExitStack, count: int, name: str):
        self._count = count
        carrier = "datagram" if name == MPROXY_DATAGRAM else "tcp"
        self._hosts = hosts = stack.enter_context(TwoHosts("many"))
        sources = [f"{hosts.subnet}.{last}" for last in SOURCES]
        for source in sources:
            run("ip", "-n", hosts.a, "address", "add", f"{source}/24", "dev", "eth0")
        daemon, port = free_port(), free_port()
        stack.enter_context(load.Worker(crowd_server, (LOOPBACK, daemon), netns=hosts.b))
        hop = Hop("0.0.0.0", port, f"{LOOPBACK}:{daemon}", hosts.b, is_last=True)
        self._sproxy = started([
            str(REPOSITORY / "sproxy"), "--state-dir", str(bench.plan.work / "many"), "--bind", hop.listen_address,
            "--max-sessions", str(count + LIVING), "--memory-limit", "4GiB", str(port), hop.target], hop,
            bench.plan.work)
        group = Group([self._sproxy])
        bench.latest[name] = group
        stack.callback(group.stop)
        self._empty = self._memory()
        self._empty_kernel = kernel_kib(self._sproxy.pid)
        self._crowds = [stack.enter_context(load.Worker(
            crowd_of_cproxies, (hosts.address_b, port), sources, carrier, netns=hosts.a, counters=2))
            for _ in range(CROWDS)]
        self._living = stack.enter_context(load.Worker(
            crowd_of_cproxies, (LOOPBACK, port), (), carrier, netns=hosts.b, counters=2))
        self._living.ask("open", LIVING)
        for crowd in self._crowds:
            crowd.control.send(("open", count // CROWDS))
        for crowd in self._crowds:
            crowd.answer(300.0)

    def _memory(self) -> list[dict[str, int]]:
        """KiB of keeper and worker, in this order."""
        return [memory_kib(pid) for pid in self._sproxy.family()]

    def measure_rest(self) -> dict[str, float]:
        time.sleep(QUIET_SECONDS)
        before, begun_at = self._cpu(), time.monotonic()
        time.sleep(REST_SECONDS)
        share = (self._cpu() - before) / (time.monotonic() - begun_at)
        if sum(crowd.counters[0] for crowd in self._crowds) < self._count:
            raise MeasureError("some sessions are without a carrier")
        memory, sessions = self._memory(), self._count + LIVING
        grown = {kind: sum(now[kind] for now in memory) - sum(then[kind] for then in self._empty)
                 for kind in ("own", "resident")}
        return {OWN: grown["own"] / sessions, RESIDENT: grown["resident"] / sessions,
                KERNEL: (kernel_kib(self._sproxy.pid) - self._empty_kernel) / sessions,
                KEEPER: memory[0]["own"] / 1000, CPU: 100 * share}

    def _cpu(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._sproxy.family())

    def measure_storm(self) -> dict[str, float]:
        """Seconds from the return of the path to the last session's carrier, and to half of them."""
        self._hosts.set_black_hole(True)
        cut_at = time.monotonic()
        while sum(crowd.counters[0] for crowd in self._crowds):
            if time.monotonic() - cut_at > MOST_CUT_SECONDS:
                raise MeasureError("some sessions survived the cut")
            time.sleep(LOOK_SECONDS)
        time.sleep(CUT_SECONDS)
        before = self._cpu()
        self._living.control.send(("type", KEY_SECONDS, KEYS_A_SECOND))
        self._hosts.set_black_hole(False)
        begun_at, half = time.monotonic(), math.nan
        while (back := sum(crowd.counters[0] for crowd in self._crowds)) < self._count:
            now = time.monotonic() - begun_at
            if now > STORM_SECONDS:
                raise MeasureError(f"only {back} of {self._count} sessions are back after {STORM_SECONDS:g} s")
            if math.isnan(half) and 2 * back >= self._count:
                half = now
            time.sleep(LOOK_SECONDS)
        last, cost = time.monotonic() - begun_at, self._cpu() - before
        return {LAST: last, MEDIAN: half, COST: cost,
                TYPED: load.percentile(sorted(self._living.answer(KEY_SECONDS + 30)), 0.99)}


def memory_kib(pid: int) -> dict[str, int]:
    """Memory of a process: what is its own alone, and all that is resident."""
    sizes = {name: int(rest.split()[0]) for name, _, rest in (
        line.partition(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])}
    return {"own": sizes["Private_Clean"] + sizes["Private_Dirty"], "resident": sizes["Rss"]}


def kernel_kib(pid: int) -> int:
    """What the kernel holds in buffers of all TCP sockets, wherever they are: it counts them together."""
    words = next(line for line in Path(f"/proc/{pid}/net/sockstat").read_text().splitlines()
                 if line.startswith("TCP:")).split()
    return int(words[words.index("mem") + 1]) * PAGE_KIB


TCP = Workload("many-sessions", "Ten thousand sessions on one sproxy", cases, (MPROXY_TLS,), (MPROXY_TLS,),
               needs_root=True)
UDP = Workload("many-sessions-udp", "The same over UDP", cases, (MPROXY_DATAGRAM,), (MPROXY_DATAGRAM,),
               needs_root=True)
