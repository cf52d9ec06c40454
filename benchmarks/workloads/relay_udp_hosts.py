"""A UDP relay between hosts: one busy client that sends packets of 1400 bytes one by one, as most programs do.

Goal: what a packet costs the relay where relays stand, between two other hosts.
Method: the client of "UDP 1400 B, plain" and its server, each on a host of its own, the relay on a third; the hosts'
network devices receive as cards do (harness/three_hosts.py), so that a relay that asks for it gets runs of packets
joined, and no process pays for what another host's kernel receives. Over loopback it does both.
Limits: all three hosts and their kernel threads share the cores; what they need is counted for nobody, and more for a
relay that sends single packets than for one that sends trains. With two cores the packet rate says little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness.bench import Bench, Case, Workload
from harness.chain import Chain, Hop
from harness.contenders import MPROXY_UDP, NGINX_UDP, NGINX_UDP_MANY, SOCAT_UDP
from harness.places import free_port
from harness.three_hosts import ThreeHosts

from workloads import relay_udp

ROW = "UDP 1400 B, between hosts"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    seconds = bench.plan.pick(relay_udp.FULL_SECONDS, relay_udp.QUICK_SECONDS)
    hosts = stack.enter_context(ThreeHosts("udp"))
    hosts.plug_in_cards()
    server = (hosts.server_address, free_port())
    for contender in bench.contenders():
        target = f"{hosts.server_address}:{server[1]}"
        chain = Chain((Hop(hosts.relay_address, free_port(), target, hosts.relay, is_last=True),), target)
        group = bench.start(stack, contender, chain)
        if group is not None:
            ends = hosts.client, hosts.server
            measure = partial(relay_udp.busy, group, chain.entry, server, relay_udp.NO_TRAINS, seconds, ends)
            yield Case(ROW, contender.name, measure, bench.plan.many_rounds)


WORKLOAD = Workload(
    "udp-hosts",
    "UDP relay between hosts",
    cases,
    (MPROXY_UDP, NGINX_UDP, NGINX_UDP_MANY, SOCAT_UDP),
    (MPROXY_UDP, NGINX_UDP),
    needs_root=True,
    peer=NGINX_UDP,
)
