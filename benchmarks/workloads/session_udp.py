"""Datagrams through two programs in a row: `cproxy --udp` and sproxy beside plain UDP relays, which do not encrypt.

Goal: what a datagram costs that a session carries.
Method: as one UDP relay (relay_udp): a busy client that sends packet by packet to a server that takes them one by one,
here of 1,200 bytes, as QUIC and tunnels send; and 1,000 clients with 64 bytes that each wait for the echo, a packet in
each direction. The CPU seconds are those of both programs. `datagram` and `tcp` say what carries the session.
Limits: those of relay_udp. Half as many packets are on the way, as a session drops what waits beyond 512 KiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness.bench import Bench, Case, Workload
from harness.contenders import MPROXY_UDP_TWO, SESSION_UDP, SESSION_UDP_TCP, SOCAT_UDP_TWO
from harness.places import LOOPBACK, free_port

from workloads import relay_udp

PACKET_BYTES, ON_THE_WAY = 1200, 256
ROW, CROWD = "UDP 1200 B, two programs", "UDP 64 B, 1,000 clients, two programs"


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    seconds = bench.plan.pick(relay_udp.FULL_SECONDS, relay_udp.QUICK_SECONDS)
    server = (LOOPBACK, free_port())
    for contender in bench.contenders():
        chain = contender.chain_between(f"{LOOPBACK}:{server[1]}")
        group = bench.start(stack, contender, chain)
        if group is None:
            continue
        measure = partial(relay_udp.busy, group, chain.entry, server, relay_udp.NO_TRAINS, seconds,
                          size=PACKET_BYTES, on_the_way=ON_THE_WAY)
        yield Case(ROW, contender.name, measure, bench.plan.many_rounds)
        if contender.name != SOCAT_UDP_TWO:  # which would be two thousand processes
            yield Case(CROWD, contender.name, partial(relay_udp.crowd, group, chain.entry, server, seconds, ON_THE_WAY))


WORKLOAD = Workload(
    "session-udp",
    "Datagrams through two programs",
    cases,
    (SESSION_UDP, SESSION_UDP_TCP, SOCAT_UDP_TWO, MPROXY_UDP_TWO),
    (SESSION_UDP, SOCAT_UDP_TWO),
    peer=SOCAT_UDP_TWO,
)
