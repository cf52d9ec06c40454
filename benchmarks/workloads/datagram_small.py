"""Workload: a directory of small files over loopback, nothing lost.

Goal: what each file costs besides its bytes: messages, threads, and the disk's calls that make it durable.
Method: files and copies lie in memory, so fsync is for nothing. `mproxy send` and `recv`, sealed, against `rsync
--fsync` to its daemon, both ends of each on this machine. Seconds from the start of the sender to its end, when all
files are there; CPU time of the sender from exec to exit, and of the receiver meanwhile.
Limits: rsync neither seals nor reads again what it has written, and its daemon is here already as ours is. On a disk
where fsync takes milliseconds both wait for that.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import transfer
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import MPROXY, RSYNC
from harness.places import LOOPBACK, free_port
from harness.process import Process, cpu_seconds, descendants

from workloads.datagram_path import own_directory

ROW = "5,000 files of 200 B, loopback"
SECONDS, COST = "s", "CPU s"
FILES, FILE_BYTES, FILES_A_DIRECTORY = 5000, 200, 500
PAGE_BYTES = 4096  # that a file takes in memory
LIMIT_SECONDS, LEAVE_SECONDS = 120.0, 5.0

RSYNC_CONFIG = """\
use chroot = no
reverse lookup = no
address = {address}
[to]
path = {target}
read only = no
uid = {uid}
gid = {gid}
"""


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    directory = own_directory(stack, bench.plan.work, FILES * PAGE_BYTES)
    source = make_tree(directory)
    for contender in bench.contenders():
        yield Case(ROW, contender.name, partial(measure, contender.name, source, directory / "to"))


def make_tree(directory: Path) -> Path:
    """Files of random bytes in directories of directories."""
    source = directory / "tree"
    for number in range(FILES):
        inner = source / str(number // FILES_A_DIRECTORY)
        inner.mkdir(parents=True, exist_ok=True)
        (inner / str(number)).write_bytes(os.urandom(FILE_BYTES))
    return source


def measure(contender: str, source: Path, target: Path) -> dict[str, float]:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    port = free_port()
    receiver_command, sender_command = COMMANDS[contender](source, target, port)
    receiver = Process(receiver_command, target.parent / "receiver.log")
    try:
        receiver.wait_listening(port, udp=contender == MPROXY)
        begun_cpu, begun_at = cpu_seconds(receiver.pid), time.monotonic()
        sender = transfer.Ends([Process(sender_command, target.parent / "sender.log")])
        sender.wait(LIMIT_SECONDS)
        seconds = time.monotonic() - begun_at
        wait_for_children(receiver)
        cost = sender.cpu_s + cpu_seconds(receiver.pid) - begun_cpu
    finally:
        receiver.stop()
    check_copy(source, target / source.name)
    return {SECONDS: seconds, COST: cost}


def wait_for_children(receiver: Process) -> None:
    """rsync's daemon has one for each sender, whose CPU time is its own once that one has ended."""
    deadline_at = time.monotonic() + LEAVE_SECONDS
    while descendants(receiver.pid):
        if time.monotonic() > deadline_at:
            raise MeasureError(f"{receiver.command[0]} has not done with its sender after {LEAVE_SECONDS:g} s")
        time.sleep(transfer.LOOK_SECONDS)


def check_copy(source: Path, copy: Path) -> None:
    """MeasureError when a file is missing, or is another."""
    for inner in source.iterdir():
        names = [path.name for path in inner.iterdir()]
        _same, others, missing = filecmp.cmpfiles(inner, copy / inner.name, names, shallow=False)
        if others or missing:
            raise MeasureError(f"{len(others)} files differ, {len(missing)} are missing")


def mproxy_commands(source: Path, target: Path, port: int) -> tuple[list[str], list[str]]:
    key = target.parent / "key"
    key.write_text("5eed" * 16 + "\n")
    key.chmod(0o600)
    receiver = ["recv", "--key", str(key), "--bind", LOOPBACK, "-o", str(target), str(port)]
    sender = ["send", "--key", str(key), "--quiet", "--log-level", "warning", str(source), LOOPBACK, str(port)]
    return [transfer.MPROXY_PROGRAM, *receiver], [transfer.MPROXY_PROGRAM, *sender]


def rsync_commands(source: Path, target: Path, port: int) -> tuple[list[str], list[str]]:
    config = target.parent / "rsyncd.conf"
    config.write_text(RSYNC_CONFIG.format(address=LOOPBACK, target=target, uid=os.getuid(), gid=os.getgid()))
    receiver = ["rsync", "--daemon", "--no-detach", "--config", str(config), "--port", str(port)]
    sender = ["rsync", "-r", "-t", "--fsync", "--port", str(port), str(source), f"rsync://{LOOPBACK}/to/"]
    return receiver, sender


COMMANDS = {MPROXY: mproxy_commands, RSYNC: rsync_commands}

WORKLOAD = Workload(
    "dgsmall",
    "Small files over loopback",
    cases,
    (MPROXY, RSYNC),
    (MPROXY, RSYNC),
    peer=RSYNC,
)
