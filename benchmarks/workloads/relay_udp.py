"""UDP relays: one busy client with packets of 1400 bytes, and 1,000 clients with small ones.

Goal: what a packet costs in the relay.
Method: a client sends over loopback as fast as packets arrive at the server, with at most 512 on the way, so that
none is lost to full queues; those that arrived, and the CPU seconds of the relay, are read at the start and at the
end of the same interval. Three rows, because it matters how the two ends
work: "trains" is a client that sends with GSO and a server that receives with GRO, as QUIC programs do; "trains in"
has a server without GRO; "plain" has a client that sends packet by packet (64 a call) to such a server. Only where
the client sends trains can a relay receive them: loopback does not coalesce; network cards and veth can.
1,000 clients: each sends 64 bytes and waits for the echo; 512 of them have a packet on the way. A packet counts once
for each direction.
Limits: clients and servers do not sleep for packets but look
every 0.3 ms, so that no relay pays for waking them, as it would not over a network. The kernel's loopback work up to
the receiving socket is done by whoever sends, the cutting of trains for a server without GRO too. Content is not
looked at (the system tests compare every byte). On whose core the scheduler puts the relay, the client's or the
server's, changes what a packet costs by a quarter: "plain" has more rounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load, udp_load
from harness.bench import MANY, Bench, Case, MeasureError, Workload
from harness.contenders import MPROXY_UDP, NGINX_UDP, NGINX_UDP_MANY, SOCAT_UDP
from harness.load import Address
from harness.places import LOOPBACK, free_port
from harness.process import Group

METRIC = "k packets / CPU s"
PACKET_BYTES, SMALL_BYTES = 1400, 64
CLIENTS, ON_THE_WAY = 1000, 512
FULL_SECONDS, QUICK_SECONDS = 1.5, 0.5
WARM_UP_SECONDS = 0.3
TRAINS, TRAINS_IN, PLAIN, CROWD = (
    "UDP 1400 B, trains",
    "UDP 1400 B, trains in",
    "UDP 1400 B, plain",
    "UDP 64 B, 1,000 clients",
)
# Client sends trains, server receives trains.
NO_TRAINS = (False, False)
BUSY = ((TRAINS, (True, True)), (TRAINS_IN, (True, False)), (PLAIN, NO_TRAINS))


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    seconds = bench.plan.pick(FULL_SECONDS, QUICK_SECONDS)
    port = free_port()
    server = (LOOPBACK, port)
    for contender in bench.contenders():
        chain = contender.chain_between(f"{LOOPBACK}:{port}")
        group = bench.start(stack, contender, chain)
        if group is None:
            continue
        for row, trains in BUSY:
            measure = partial(busy, group, chain.entry, server, trains, seconds)
            yield Case(row, contender.name, measure, bench.plan.many_rounds if row == PLAIN else None)
        if contender.name != SOCAT_UDP:  # which would be a thousand processes
            yield Case(CROWD, contender.name, partial(crowd, group, chain.entry, server, seconds))


def busy(
    group: Group,
    entry: Address,
    server: Address,
    trains: tuple[bool, bool],
    seconds: float,
    hosts: tuple[str | None, str | None] = (None, None),
    size: int = PACKET_BYTES,
    on_the_way: int = ON_THE_WAY,
) -> dict[str, float]:
    """One client that sends packets of `size` bytes without end, at most `on_the_way` at once; `hosts` are the
    namespaces of client and server."""
    gso, gro = trains
    client_host, server_host = hosts
    with (
        load.Worker(udp_load.udp_sink, server, gro, netns=server_host) as sink,
        load.Worker(udp_load.udp_flood, entry, size, gso, sink.counters, on_the_way, netns=client_host),
    ):
        return _rate(group, seconds, lambda: sink.counters[0] / size)


def crowd(
    group: Group, entry: Address, server: Address, seconds: float, on_the_way: int = ON_THE_WAY
) -> dict[str, float]:
    """Many clients that each wait for an answer."""
    with (
        load.Worker(udp_load.udp_echo, server, SMALL_BYTES),
        load.Worker(udp_load.udp_crowd, entry, CLIENTS, SMALL_BYTES, on_the_way, counters=2) as clients,
    ):
        return _rate(group, seconds, lambda: 2 * clients.counters[0])


def _rate(group: Group, seconds: float, packets) -> dict[str, float]:
    time.sleep(WARM_UP_SECONDS)
    begun_at, cpu, before = time.monotonic(), group.cpu_seconds(), packets()
    time.sleep(seconds)
    elapsed, cpu, count = time.monotonic() - begun_at, group.cpu_seconds() - cpu, packets() - before
    if not count or not cpu:
        raise MeasureError("not one packet arrived")
    return {METRIC: count / cpu / 1e3, "k packets/s": count / elapsed / 1e3}


WORKLOAD = Workload(
    "udp",
    "UDP relays",
    cases,
    (MPROXY_UDP, NGINX_UDP, NGINX_UDP_MANY, SOCAT_UDP),
    (MPROXY_UDP, NGINX_UDP),
    peer=NGINX_UDP,
    note=f"{PLAIN}: {MANY} times the rounds.",
)
