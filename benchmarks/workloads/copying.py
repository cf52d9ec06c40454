"""Workload: files copied to another host that ssh reaches, as a person does it: one command, from nothing to its end.

Goal: what people use scp and rsync for must not be slower with `mproxy copy`, and should be faster where TCP is slow.
Method: an sshd of the bench's own, in a network namespace of its own; source and copy lie in memory. Each program runs
as one command with all that belongs to it: ssh's login, the start of the other end, the copy, the end. Every copy is
compared. The 100 ms are those of a tun device that leads back to this host (harness.long_way), with packets of 1,500
bytes.
Limits: the loopback takes packets of 64 KiB. Both ends share two cores. ssh, scp and rsync write without fsync; `mproxy
copy` waits until a file is on the disk, which is memory here, and reads it again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import peers, transfer
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Hop
from harness.contenders import MPROXY, RSYNC_SSH, SCP
from harness.long_way import LongWay
from harness.places import LOOPBACK, free_port
from harness.process import Process

from workloads.datagram_path import own_directory

SECONDS = "s"
LARGE_ROW, SMALL_ROW = "300 MB, loopback", "1 KB, loopback"
MANY_ROW, FAR_ROW = "50,000 files of 1 KB, loopback", "50,000 files of 1 KB, 100 ms"
LARGE_BYTES, FILES, FILE_BYTES, FILES_A_DIRECTORY = 300_000_000, 50_000, 1000, 500
QUICK_FILES = 5000
PAGE_BYTES = 4096  # that a file takes in memory
ONE_WAY_S = 0.05
LIMIT_SECONDS = 300
QUICK_ROUNDS = 1


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    files = bench.plan.pick(FILES, QUICK_FILES)
    directory = own_directory(stack, bench.plan.work, LARGE_BYTES + files * PAGE_BYTES)
    ssh = start_sshd(stack, bench.plan.work)
    large, small = transfer.make_source(directory, LARGE_BYTES), transfer.make_source(directory, FILE_BYTES)
    tree = make_tree(directory / "tree", files)
    for row, source, far in ((LARGE_ROW, large, False), (SMALL_ROW, small, False), (MANY_ROW, tree, False),
                             (FAR_ROW, tree, True)):
        for contender in bench.contenders():
            if contender.name == SCP and source is tree:
                continue  # at 100 ms hours
            rounds = bench.plan.many_rounds if row == SMALL_ROW else bench.plan.pick(None, QUICK_ROUNDS)
            yield Case(row, contender.name, partial(measure, contender.name, ssh, source, directory / "to", far),
                       rounds)


def start_sshd(stack: ExitStack, work: Path) -> list[str]:
    """The ssh command that reaches it."""
    hop = Hop("0.0.0.0", free_port(), "")
    daemon = Process(peers.sshd(hop, work), work / "sshd.log")
    stack.callback(daemon.stop)
    daemon.wait_listening(hop.port)
    return ["ssh", "-F", "none", "-i", str(peers.ssh_key(work)), "-p", str(hop.port), "-o", "LogLevel=ERROR",
            "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]


def make_tree(directory: Path, files: int) -> Path:
    """Files of random bytes in directories of directories."""
    for number in range(files):
        inner = directory / str(number // FILES_A_DIRECTORY)
        if number % FILES_A_DIRECTORY == 0:
            inner.mkdir(parents=True)
        (inner / str(number)).write_bytes(os.urandom(FILE_BYTES))
    return directory


def measure(contender: str, ssh: list[str], source: Path, target: Path, far: bool) -> dict[str, float]:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with LongWay(ONE_WAY_S) if far else ExitStack():
        host = LongWay.FAR if far else LOOPBACK
        command = COMMANDS[contender](ssh, source, f"{host}:{target}/")
        begun_at = time.monotonic()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              text=True, timeout=LIMIT_SECONDS, check=False)
        seconds = time.monotonic() - begun_at
    if done.returncode != 0:
        raise MeasureError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}")
    if subprocess.run(["diff", "-r", "-q", source, target / source.name], check=False).returncode:
        raise MeasureError("what arrived is not what was sent")
    shutil.rmtree(target)
    return {SECONDS: seconds}


def copy_command(ssh: list[str], source: Path, target: str) -> list[str]:
    mproxy = transfer.MPROXY_PROGRAM
    return [mproxy, "copy", "--quiet", "--ssh", " ".join(ssh), "--remote-mproxy", mproxy, str(source), target]


def scp_command(ssh: list[str], source: Path, target: str) -> list[str]:
    options = [{"-p": "-P"}.get(word, word) for word in ssh[1:]]
    return ["scp", "-q", "-p", *options, str(source), target]


def rsync_command(ssh: list[str], source: Path, target: str) -> list[str]:
    return ["rsync", "-a", "-e", " ".join(ssh), str(source), target]


COMMANDS = {MPROXY: copy_command, SCP: scp_command, RSYNC_SSH: rsync_command}

WORKLOAD = Workload(
    "copy",
    "Copies through ssh's login",
    cases,
    (MPROXY, SCP, RSYNC_SSH),
    (MPROXY, SCP, RSYNC_SSH),
    needs_root=True,
    peer=RSYNC_SSH,
)
