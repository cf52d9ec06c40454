"""The relay in kernel mode: bulk TCP over virtual cables, against every relay in user space.

Goal: what `--kernel` is for: more than any process can move.
Method: three hosts in namespaces, client - relay - server, joined by veth pairs; the client sends in calls of 256 KiB
through the relay's address, and bytes that arrive at the server are counted over an interval. The kernel's relay and
those in user space have hosts of their own each: nftables and connection tracking would cost the others, too.
Limits: all three hosts share the cores; veth copies nothing, so it is the relay's work, not the wire's, that is seen.
The CPU time of packets led on in the kernel is charged to whoever sends, so there is no figure per byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Hop
from harness.contenders import HAPROXY, HAPROXY_BIG, HAPROXY_SPLICE, NGINX, REPOSITORY, SOCAT
from harness.places import free_port
from harness.process import Group, Process, StartError
from harness.three_hosts import ThreeHosts

from workloads import bulk

ROW = "relay over veth, bulk up"
METRIC = "Gbit/s"
KERNEL, USER = "mproxy relay --kernel", "mproxy relay"
PEERS = (HAPROXY, HAPROXY_BIG, HAPROXY_SPLICE, NGINX, SOCAT)
FULL_SECONDS, QUICK_SECONDS = 1.0, 0.5
START_SECONDS = 10


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    seconds = bench.plan.pick(FULL_SECONDS, QUICK_SECONDS)
    for tag, contenders in (("k", [KERNEL]), ("u", [USER, *bench.contenders()])):
        hosts = stack.enter_context(ThreeHosts(tag))
        port = free_port()
        server = stack.enter_context(load.Worker(load.bulk_server, (hosts.server_address, port), netns=hosts.server))
        target = f"{hosts.server_address}:{port}"
        for contender in contenders:
            hop = Hop(hosts.relay_address, free_port(), target, hosts.relay, is_last=True)
            if contender in (KERNEL, USER):
                name, group = contender, start_ours(bench, stack, hop, contender == KERNEL)
            else:
                name, chain = contender.name, contender.chain_between(target)
                group = bench.start(stack, replace(contender, hops=1), replace(chain, hops=(hop,)))
            if group is not None:
                yield Case(ROW, name, partial(measure, hosts, server, (hosts.relay_address, hop.port), seconds))


def start_ours(bench: Bench, stack: ExitStack, hop: Hop, kernel: bool) -> Group:
    """`mproxy relay`; in kernel mode it listens on nothing, so its log tells when it serves."""
    address, _, port = hop.target.rpartition(":")
    log = bench.plan.work / f"relay-veth-{hop.port}.log"
    options = ["--drain-timeout", "0", *(["--kernel"] if kernel else [])]
    command = [str(REPOSITORY / "bin/mproxy"), "relay", *options, hop.listen, address, port]
    process = Process(command, log, hop.netns)
    stack.callback(process.stop)
    until = time.monotonic() + START_SECONDS
    while " ready " not in log.read_text():
        if time.monotonic() > until:
            raise StartError(f"mproxy relay: {process.tail()}")
        time.sleep(0.01)
    return Group([process])


def measure(hosts: ThreeHosts, server: load.Worker, entry: load.Address, seconds: float) -> dict[str, float]:
    """Gbit/s of one contender over one interval."""
    with load.Worker(load.bulk_client, entry, load.SERVER_RECEIVES, 1, netns=hosts.client):
        time.sleep(bulk.WARM_UP_SECONDS)
        begun_at, received = time.monotonic(), server.counters[0]
        time.sleep(seconds)
        elapsed, received = time.monotonic() - begun_at, server.counters[0] - received
    time.sleep(bulk.SETTLE_SECONDS)
    if not received:
        raise MeasureError("not one byte arrived")
    return {METRIC: received * 8 / elapsed / 1e9}


WORKLOAD = Workload("relay-kernel", "Kernel mode over veth", cases, PEERS, PEERS, needs_root=True, peer=USER)
