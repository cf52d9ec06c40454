"""Workload 22: from calling ssh to the end of `true` on the other host, by ssh alone and by `mproxy ssh`.

Goal: that a connection survives must not be felt when it begins.
Method: three network namespaces (harness/three_hosts.py); a real sshd on the server, keys without passphrases. On one
row packets are forwarded without delay; on the other a relay in the middle (harness/delay_relay.py) holds every byte
of sshd's and sproxy's ports back for 25 ms each way. The first connection is to a host that is known to ssh and not to
mproxy: no sproxy runs there, which has no key yet. Then the session has moved to sproxy's port, and five more give the
median of the next ones. ssh alone has one figure for both.
Limits: the relay answers SYN at once, which spares both a round trip. The client has a key already; that is made once.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from harness import load, peers
from harness.bench import Bench, Case, MeasureError, Workload
from harness.chain import Hop
from harness.contenders import MPROXY_SSH, PLAIN_SSH, REPOSITORY, started
from harness.delay_relay import PathLimits, delay_relay
from harness.places import LOOPBACK, run
from harness.process import in_namespace
from harness.three_hosts import ThreeHosts

ROWS = ("ssh HOST true, no delay", "ssh HOST true, 50 ms")
NEXT, FIRST = "next ms", "first ms"
PATH = PathLimits(one_way_s=0.025, bytes_per_s=1e9 / 8, held_bytes=8 << 20)
SSHD_PORT = 2222
SPROXY_PORT = 6200  # the first that an sproxy takes which is started by ssh
FULL_TIMES, QUICK_TIMES = 5, 3
LIMIT_SECONDS = 60.0
MOVE_SECONDS = 15.0


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    hosts = stack.enter_context(ThreeHosts("ssh"))
    run("ip", "netns", "exec", hosts.relay, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    ends = Ends(bench, stack, hosts, SSHD_PORT)
    for relayed in (SSHD_PORT, SPROXY_PORT):
        addresses = (hosts.relay_address, relayed), (hosts.server_address, relayed)
        stack.enter_context(load.Worker(delay_relay, *addresses, PATH, netns=hosts.relay))
    for contender in bench.contenders():
        for row, address in zip(ROWS, (hosts.server_address, hosts.relay_address), strict=True):
            measured = ends.measure_mproxy if contender.name == MPROXY_SSH else ends.measure_ssh
            yield Case(row, contender.name, partial(measured, address))


class Ends:
    """sshd on the server, and the ways to call ssh on the client."""

    def __init__(self, bench: Bench, stack: ExitStack, hosts: ThreeHosts, port: int):
        self._hosts = hosts
        self._port = port
        self._work = bench.plan.work / "ssh-start"
        self._times = bench.plan.pick(FULL_TIMES, QUICK_TIMES)
        self._work.mkdir()
        hop = Hop(hosts.server_address, port, f"{LOOPBACK}:{port}", hosts.server, is_last=True)
        command = peers.sshd(hop, bench.plan.work)
        with open(command[-1], "a", encoding="utf-8") as config:
            there = {"PATH": f"{REPOSITORY}:/usr/bin:/bin", **self._environment("server")}
            config.write(f"SetEnv {' '.join(f'{name}={value}' for name, value in there.items())}\n")
        stack.callback(started(command, hop, bench.plan.work).stop)
        stack.callback(self._end_sproxy)
        self._options = ["-F", "none", "-i", str(peers.ssh_key(bench.plan.work)), "-p", str(port),
                         *("-o", "StrictHostKeyChecking=no"), *("-o", "UserKnownHostsFile=/dev/null"),
                         *("-o", "LogLevel=ERROR")]

    def _environment(self, end: str) -> dict[str, str]:
        place = self._work / end
        return {"HOME": str(place), "XDG_STATE_HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run")}

    def measure_ssh(self, address: str) -> dict[str, float]:
        """Milliseconds of ssh alone."""
        took = statistics.median(self._call(["ssh"], address) for _ in range(self._times))
        return {NEXT: took, FIRST: took}

    def measure_mproxy(self, address: str) -> dict[str, float]:
        """Milliseconds of the first connection, and of those after it."""
        command = [str(REPOSITORY / "bin" / "mproxy"), "ssh"]
        self._end_sproxy()
        for forgotten in (self._work / "server", self._work / "client" / "mproxy" / "hosts"):
            shutil.rmtree(forgotten, ignore_errors=True)
        first = self._call(command, address)
        self._call(command, address, "sleep 2")  # it moves to sproxy's port meanwhile
        self._wait_for_port()
        return {NEXT: statistics.median(self._call(command, address) for _ in range(self._times)), FIRST: first}

    def _call(self, ssh: list[str], address: str, remote: str = "true") -> float:
        command = in_namespace(self._hosts.client, [*ssh, *self._options, address, remote])
        begun_at = time.perf_counter()
        # What has standard error may outlive ssh by a moment.
        status = subprocess.run(command, env={**os.environ, **self._environment("client")}, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=LIMIT_SECONDS).returncode
        if status:
            raise MeasureError(f"{ssh[-1]} ended with {status}")
        return (time.perf_counter() - begun_at) * 1e3

    def _wait_for_port(self) -> None:
        """Return once the client knows that sproxy's port is open."""
        deadline_at = time.monotonic() + MOVE_SECONDS
        while not any(record.read_text().endswith(" open\n")
                      for record in (self._work / "client" / "mproxy" / "hosts").glob("*")):
            if time.monotonic() > deadline_at:
                raise MeasureError("nothing is known of sproxy's port")
            time.sleep(0.05)

    def _end_sproxy(self) -> None:
        for path in (self._work / "server").glob("mproxy/started/*/*/sproxy-*.sock"):
            process = int(path.stem.rpartition("-")[2])
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            while Path(f"/proc/{process}").exists() and path.exists():
                time.sleep(0.01)


WORKLOAD = Workload("ssh-start", "A connection by ssh begins and ends", cases, (PLAIN_SSH, MPROXY_SSH),
                    (PLAIN_SSH, MPROXY_SSH), needs_root=True, peer=PLAIN_SSH)
