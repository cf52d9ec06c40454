"""Start programs under test, read what they cost, end them.

CPU time is read from /proc and covers a process, its threads, and its children, living or already waited for.
`/proc/PID/stat` counts in ticks of 10 ms; where the kernel also gives `/proc/PID/task/TID/schedstat` (ns),
the larger of the two is taken: schedstat is finer, stat still knows the threads that have ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
TCP_LISTEN = "0A"  # state column of /proc/net/tcp


PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """A contender did not come up; the text says which and what it printed."""


def die_with_parent() -> None:
    """Runs between fork and exec: a bench that is killed leaves no program behind."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def in_namespace(netns: str | None, command: list[str]) -> list[str]:
    """The command as it has to be run to live in that network namespace (nsenter execs: the pid stays)."""
    return [*(["nsenter", f"--net=/run/netns/{netns}"] if netns else []), *command]


class Process:
    """One started program with its log file; `pid` is the program itself, not a wrapper."""

    def __init__(self, command: list[str], log: Path, netns: str | None = None, env: dict | None = None):
        self.command = command
        self.log = log
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(
                in_namespace(netns, command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
                env={**os.environ, **(env or {})},
            )
        self.pid = self.popen.pid

    def wait_listening(self, port: int, timeout_s: float = 10.0, udp: bool = False) -> None:
        """Return once a TCP socket listens on `port` in this process's namespace, or a UDP socket is bound to it.

        Looked up in /proc instead of by connecting: a probe connection would be a stream, or a session, of
        its own.
        """
        deadline_at = time.monotonic() + timeout_s
        while time.monotonic() < deadline_at:
            if self.popen.poll() is not None:
                raise StartError(f"{self.command[0]} ended with {self.popen.returncode}: {self.tail()}")
            if port in (bound_udp_ports(self.pid) if udp else listening_ports(self.pid)):
                return
            time.sleep(0.01)
        raise StartError(f"{self.command[0]} does not listen on {port} after {timeout_s:g} s: {self.tail()}")

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])

    def family(self) -> list[int]:
        """This pid and all living descendants."""
        return [self.pid, *descendants(self.pid)]

    def stop(self) -> None:
        """SIGTERM, two seconds of grace, SIGKILL for whatever is left of the family."""
        family = self.family()
        for pid in family:
            _kill(pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(2.0)
        for pid in family[1:]:
            _kill(pid, signal.SIGKILL)
        self.popen.kill()
        self.popen.wait()


class Group:
    """The processes of one contender between two ports; first and last proxy are kept apart for memory."""

    def __init__(self, processes: list[Process]):
        self.processes = processes

    def cpu_seconds(self) -> float:
        return sum(family_cpu_seconds(process.family()) for process in self.processes)

    def rss_bytes(self) -> list[int]:
        """Resident memory of every proxy in the row, its children included."""
        return [sum(rss_bytes(pid) for pid in process.family()) for process in self.processes]

    def stop(self) -> None:
        for process in self.processes:
            process.stop()


def family_cpu_seconds(pids: list[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with its waited-for children; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        utime, stime, children_utime, children_stime = (int(field) for field in fields[11:15])
        fine = sum(_schedstat_ns(task) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (
        max((utime + stime) / TICKS_PER_SECOND, fine) + (children_utime + children_stime) / TICKS_PER_SECOND
    )


def _schedstat_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """All living descendants of a process, from one pass over /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def listening_ports(pid: int | str = "self") -> set[int]:
    """TCP ports somebody listens on in the network namespace of `pid`."""
    ports = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except (FileNotFoundError, ProcessLookupError, OSError):
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == TCP_LISTEN:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def bound_udp_ports(pid: int | str = "self") -> set[int]:
    """UDP ports that somebody is bound to in the network namespace of `pid`."""
    ports = set()
    for table in ("udp", "udp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in lines}
    return ports


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
