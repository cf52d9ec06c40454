"""Workload: one large file over loopback, nothing lost.

Goal: sealing, acks and hashing must not cost what makes people copy files over TCP instead.
Method: file and copy lie in memory. Each program carries the file to its own counterpart, ours sealed and hashed end to
end, srt-file-transmit neither; aioquic, which is Python, a smaller file. Rate from the start of the sender to the whole
file, CPU time of both programs from exec to exit.
Limits: loopback takes packets of 64 KiB, and only ours use them; so there is a second row with loopback's MTU set to
1500, as on a real wire. Four ends' worth of work shares two cores with nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import places, transfer
from harness.bench import Bench, Case, Workload
from harness.contenders import AIOQUIC, MPROXY, SRT
from harness.places import free_port

from workloads.datagram_path import own_directory

WIDE_ROW, WIRE_ROW = "1 GB file, loopback", "1 GB file, loopback of MTU 1500"
MTUS = {WIDE_ROW: 65536, WIRE_ROW: 1500}
RATE, COST = "Gbit/s", "CPU s/GB"
FULL_BYTES, QUICK_BYTES = 1_000_000_000, 200_000_000
QUIC_BYTES = 25_000_000  # some 70 Mbit/s: three seconds
LIMIT_SECONDS = 120.0
QUICK_ROUNDS = 1


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    size = bench.plan.pick(FULL_BYTES, QUICK_BYTES)
    directory = own_directory(stack, bench.plan.work, size)
    sources = {AIOQUIC: transfer.make_source(directory, QUIC_BYTES)}
    usual = transfer.make_source(directory, size)
    names = [contender.name for contender in bench.contenders()]
    for row in MTUS:
        for name in names:
            if row == WIRE_ROW and name == AIOQUIC:
                continue  # its packets are of 1,200 bytes in any case
            job = (sources.get(name, usual), directory / "to")
            yield Case(row, name, partial(measure, row, name, *job), bench.plan.pick(None, QUICK_ROUNDS))


def measure(row: str, contender: str, source, directory) -> dict[str, float]:
    port = free_port()
    with places.loopback_mtu(MTUS[row]):
        outcome = transfer.carry(contender, transfer.Job(source, directory, port, port, LIMIT_SECONDS))
    return {RATE: outcome.mbit_s / 1000, COST: outcome.cpu_s_per_gb}


WORKLOAD = Workload(
    "dgbulk",
    "A file over loopback",
    cases,
    (MPROXY, SRT, AIOQUIC),
    (MPROXY, SRT, AIOQUIC),
    needs_root=True,
    peer=SRT,
    note=f"aioquic sends a file of {QUIC_BYTES // 10**6} MB.",
)
