"""What the workloads over a bad path share: the path, which is `mproxy impair`, and a file carried over it.

The path has a rate, a delay, packets of at most 1,500 bytes, a queue of about bandwidth times round trip, and loses
packets in both directions; a round has its own seed, the same for every contender. Its rate counts whole IP packets.
`path` in the tables is what one way of it delivers of a flood of UDP packets at 1.05 times the rate: rate x (1 - loss),
if the box keeps what it promises, headers counted. A transfer of which only the file's bytes count can't reach it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness import load, transfer
from harness.bench import Bench, MeasureError
from harness.contenders import PATH
from harness.places import LOOPBACK, free_port
from harness.process import Process
from harness.udp_load import BATCH, Messages, udp_sink, udp_socket

HEADER_BYTES = 28
MTU = 1500
FLOOD = 1.05  # times the path's rate
FLOOD_WARM_UP_SECONDS, FLOOD_SECONDS = 0.5, 2.0
RATE = "Mbit/s"
COST = "CPU s/GB"


@dataclass(frozen=True)
class BadPath:
    """A path by its numbers; `loss` in percent of the packets of each direction."""

    mbit_s: int
    round_trip_ms: int
    loss: float = 0.0

    @property
    def queue_kib(self) -> int:
        """About what the path holds in flight."""
        return max(64, round(self.mbit_s * 1e3 * self.round_trip_ms / 8 / 1024))

    @property
    def packets(self) -> int:
        """Of the largest size, under way when the path is full and its queue empty."""
        return round(self.mbit_s * 1e3 * self.round_trip_ms / 8 / MTU)

    def command(self, port: int, to_port: int, seed: int) -> list[str]:
        return [
            transfer.MPROXY_PROGRAM, "impair", "--bind", LOOPBACK, "--seed", str(seed), "--mtu", str(MTU), "--loss",
            f"{self.loss:g}", "--delay", f"{self.round_trip_ms * 500}us", "--rate", f"{self.mbit_s}Mbit",
            "--queue", f"{self.queue_kib}KiB", "--json", str(port), LOOPBACK, str(to_port),
        ]  # fmt: skip

    def start(self, work: Path, to_port: int, seed: int) -> tuple[Process, int]:
        """A running path that leads to `to_port`, and the port where it begins."""
        port = free_port()
        process = Process(self.command(port, to_port, seed), work / f"impair-{port}.log")
        try:
            process.wait_listening(port, udp=True)
        except BaseException:
            process.stop()
            raise
        return process, port


@dataclass(frozen=True)
class Load:
    """A file, and how long it may take; `may_stop`: what arrived by then makes the rate. `options`: of mproxy."""

    source: Path
    limit_s: float
    may_stop: bool = False
    options: tuple[str, ...] = ()


def own_directory(stack: ExitStack, work: Path, size: int) -> Path:
    """A directory for a file of that size and its copies, gone when the stack unwinds."""
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=transfer.memory_directory(work, size)))
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    return path


class PathRuns:
    """Runs of one workload: gives every contender's n-th turn on a row the same seed."""

    def __init__(self, bench: Bench, directory: Path):
        self._work, self._directory = bench.plan.work, directory
        self._turns: dict[tuple[str, str], int] = defaultdict(int)

    def measure(self, row: str, contender: str, path: BadPath, file: Load) -> dict[str, float]:
        self._turns[row, contender] += 1
        seed = self._turns[row, contender]
        if contender == PATH:
            return {RATE: flood(self._work, path, seed)}
        port = free_port()
        process, entry = path.start(self._work, port, seed)
        try:
            where = file.source, self._directory / "to", port, entry
            job = transfer.Job(*where, file.limit_s, file.may_stop, file.options)
            outcome = transfer.carry(contender, job)
        finally:
            process.stop()
        return {RATE: outcome.mbit_s, COST: outcome.cpu_s_per_gb}


def paced_flood(_worker: load.Worker, control, address: load.Address, size: int, rate: int) -> None:
    """Sends `rate` packets of `size` bytes a second, in batches."""
    sock = udp_socket()
    sock.connect(address)
    messages = Messages(BATCH, size)
    control.send("ready")
    begun_at, sent = time.monotonic(), 0
    while True:
        ahead = sent / rate - (time.monotonic() - begun_at)
        if ahead > 0:
            time.sleep(ahead)
        messages.send(sock.fileno())
        sent += BATCH


def flood(work: Path, path: BadPath, seed: int) -> float:
    """Mbit/s of IP packets that arrive out of more than the path can take."""
    port, size = free_port(), MTU - HEADER_BYTES
    process, entry = path.start(work, port, seed)
    rate = int(FLOOD * path.mbit_s * 1e6 / 8 / MTU)
    try:
        with load.Worker(udp_sink, (LOOPBACK, port), False) as sink, load.Worker(
            paced_flood, (LOOPBACK, entry), size, rate
        ):
            time.sleep(FLOOD_WARM_UP_SECONDS + path.round_trip_ms / 1000)
            begun_at, begun = time.monotonic(), sink.counters[0]
            time.sleep(FLOOD_SECONDS)
            arrived = sink.counters[0] - begun
            seconds = time.monotonic() - begun_at
    finally:
        process.stop()
    if not arrived:
        raise MeasureError(f"no packet came through the path: {process.tail()}")
    return arrived / size * MTU * 8 / seconds / 1e6
