"""Workload 10: from starting `cproxy --stdio` to the daemon's first byte on its standard output.

Goal: as an ssh ProxyCommand it must not be felt.
Method: sproxy runs with a daemon that greets at once. The clock starts before the program is spawned and
stops when the first byte of the greeting is read from its pipe. Ten starts make one figure (their median).
socat, which does nothing but dial, is the floor; `ssh -W` through a running sshd shows what a secure tunnel
takes.
Limits: warm page cache; the spawn itself (fork and exec) is in all figures.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import load, peers
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Hop
from harness.contenders import MPROXY, MPROXY_TLS, PLAINTEXT, REPOSITORY, SOCAT, SSH, started
from harness.places import LOOPBACK, free_port

ROW = "start of --stdio"
FULL_STARTS, QUICK_STARTS = 10, 5
FIRST_BYTE_LIMIT_SECONDS = 10.0


def greeter(_worker: load.Worker, control, address: load.Address) -> None:
    """Sends one line to whoever connects, and waits for the end."""
    listener = load.listen(address)
    control.send("ready")
    kept = []
    while True:
        sock, _peer = listener.accept()
        sock.send(b"hello\n")
        kept = [*kept[-50:], sock]  # dropped, and so closed, long after they were measured


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    port = free_port()
    stack.enter_context(load.Worker(greeter, (LOOPBACK, port)))
    commands = {
        MPROXY: partial(mproxy_command, [PLAINTEXT]),
        MPROXY_TLS: partial(mproxy_command, []),
        SOCAT: socat_command,
        SSH: ssh_command,
    }
    for contender in bench.contenders():
        command = commands[contender.name](bench, stack, port)
        yield Case(ROW, contender.name, partial(measure, command, bench.plan.pick(FULL_STARTS, QUICK_STARTS)))


def mproxy_command(options: list[str], bench: Bench, stack: ExitStack, daemon_port: int) -> list[str]:
    hop = Hop(LOOPBACK, free_port(), f"{LOOPBACK}:{daemon_port}", is_last=True)
    state = ["--state-dir", str(Path(bench.plan.work) / "state-stdio")]
    server = [str(REPOSITORY / "sproxy"), *options, *state, "--bind", LOOPBACK, str(hop.port), hop.target]
    stack.callback(started(server, hop, bench.plan.work).stop)
    return [str(REPOSITORY / "cproxy"), *options, *state, "--stdio", LOOPBACK, str(hop.port)]


def socat_command(_bench: Bench, _stack: ExitStack, daemon_port: int) -> list[str]:
    return ["socat", "-", f"TCP:{LOOPBACK}:{daemon_port}"]


def ssh_command(bench: Bench, stack: ExitStack, daemon_port: int) -> list[str]:
    work = bench.plan.work
    hop = Hop(LOOPBACK, free_port(), f"{LOOPBACK}:{daemon_port}", is_last=True)
    stack.callback(started(peers.sshd(hop, work), hop, work).stop)
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    address = ["-p", str(hop.port), "-i", str(peers.ssh_key(work)), "-W", hop.target, LOOPBACK]
    return ["ssh", "-F", "none", *options, *address]


def measure(command: list[str], starts: int) -> dict[str, float]:
    return {"first byte ms": statistics.median(one_start_ms(command) for _ in range(starts))}


def one_start_ms(command: list[str]) -> float:
    begun_at = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    try:
        ready, _, _ = select.select([process.stdout], [], [], FIRST_BYTE_LIMIT_SECONDS)
        if not ready or not os.read(process.stdout.fileno(), 1):
            raise MeasureError(f"{command[0]} gave no first byte")
        return (time.perf_counter() - begun_at) * 1e3
    finally:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        _reap(process)


def _reap(process: subprocess.Popen) -> None:
    try:
        process.wait(3.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


WORKLOAD = Workload("stdio", "Start of --stdio", cases, (MPROXY, SOCAT, SSH), (MPROXY, SOCAT))
