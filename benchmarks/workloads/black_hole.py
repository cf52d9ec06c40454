"""Workload 21: a path begins to swallow packets above 1,280 bytes, and says nothing, in the middle of a copy.

Goal: the copy goes on after seconds; nobody has to know what MTU a tunnel on the way has.
Method: three network namespaces (harness/three_hosts.py), the one in the middle forwards. While a stream of bytes runs,
its MTU becomes 1,280 in the stream's direction and its ICMP messages are dropped. The clock runs from then until 4 MiB
more have arrived than could have been on their way. Each round begins with new processes and a path in order.
tcp_mtu_probing is off, as Linux has it unless somebody turns it on.
Limits: a round trip takes no time; on a path of 100 ms three repetitions of a packet take 0.7 s longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Chain, Hop
from harness.contenders import MPROXY, MPROXY_DATAGRAM, MPROXY_TLS, SSH, TABLE
from harness.places import LOOPBACK, free_port, run
from harness.three_hosts import ThreeHosts

ROWS = ("PMTU black hole at 1280, up", "PMTU black hole at 1280, down")
METRIC = "bulk goes on after s"
MTU = 1280
NEVER_SECONDS = 30.0
MORE_BYTES = 4 << 20
ON_THEIR_WAY_BYTES = 16 << 20  # windows and sockets of the whole chain
NO_ICMP = ("table inet hole { chain out { type filter hook output priority 0;"
           " icmp type destination-unreachable drop; }; }")


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    hosts = stack.enter_context(ThreeHosts("hole"))
    run("ip", "netns", "exec", hosts.relay, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    run("ip", "netns", "exec", hosts.relay, "nft", NO_ICMP)
    for host in (hosts.client, hosts.server):
        run("ip", "netns", "exec", host, "sysctl", "-qw", "net.ipv4.tcp_mtu_probing=0")
    port = free_port()
    server = stack.enter_context(load.Worker(load.bulk_server, (LOOPBACK, port), netns=hosts.server))
    for contender in bench.contenders():
        for row, mode, device in zip(ROWS, (load.SERVER_RECEIVES, load.SERVER_SENDS), ("port2", "port1"), strict=True):
            measured = partial(measure, bench, contender.name, hosts, server, port, mode, device)
            yield Case(row, contender.name, measured, bench.plan.pick(5, 2) if contender.name != SSH else 1)


def measure(bench: Bench, name: str, hosts: ThreeHosts, server: load.Worker, port: int, mode: bytes,
            device: str) -> dict[str, float]:
    """Seconds from the change of the path until the stream goes on."""
    set_mtu(hosts, device, 1500)
    first, last, target = free_port(), free_port(), f"{LOOPBACK}:{port}"
    onward = f"{hosts.server_address}:{last}"
    chain = Chain((Hop(LOOPBACK, first, onward, hosts.client),
                   Hop(hosts.server_address, last, target, hosts.server, is_last=True)), target)
    with ExitStack() as stack:
        bench.start_or_raise(stack, TABLE[name], chain)
        client = stack.enter_context(load.Worker(load.bulk_client, chain.entry, mode, 1, netns=hosts.client))

        def arrived() -> int:
            return int(server.counters[0] if mode == load.SERVER_RECEIVES else client.counters[0])

        await_more(arrived, ON_THEIR_WAY_BYTES, "the copy did not begin")
        set_mtu(hosts, device, MTU)
        return {METRIC: await_more(arrived, ON_THEIR_WAY_BYTES + MORE_BYTES, f"not within {NEVER_SECONDS:g} s")}


def await_more(arrived: Callable[[], int], count: int, otherwise: str) -> float:
    """Seconds until so many bytes more have arrived."""
    begun, before = time.monotonic(), arrived()
    while arrived() - before <= count:
        if time.monotonic() - begun > NEVER_SECONDS:
            raise MeasureError(otherwise)
        time.sleep(0.005)
    return time.monotonic() - begun


def set_mtu(hosts: ThreeHosts, device: str, mtu: int) -> None:
    """Of one port of the host in the middle."""
    for port in ("port1", "port2"):
        run("ip", "-n", hosts.relay, "link", "set", port, "mtu", str(mtu if port == device else 1500))


_CONTENDERS = MPROXY, MPROXY_TLS, MPROXY_DATAGRAM, SSH

WORKLOAD = Workload("black-hole", "A path begins to swallow full packets", cases, _CONTENDERS, _CONTENDERS[:3],
                    needs_root=True, peer=SSH)
