"""Programs that carry one file from here to there over UDP: mproxy, srt-file-transmit, kcptun, aioquic.

The clock starts with the sending program (after the receiving one is bound to its port) and stops when the whole file
is there under its name; then every byte is compared. CPU time is that of both programs from exec to exit, as wait4(2)
gives it: their start, handshake and hashing are in it.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.bench import MeasureError
from harness.contenders import (
    AIOQUIC,
    KCPTUN_BARE,
    KCPTUN_DEFAULT,
    MPROXY,
    MPROXY_CUBIC,
    MPROXY_GBN,
    REPOSITORY,
    SRT,
)
from harness.load import connect, listen
from harness.places import LOOPBACK, free_port
from harness.process import Process, cpu_seconds

LOOK_SECONDS = 0.002
LEAVE_SECONDS = 15.0  # that a program may take to end after its work; SRT closes its connection slowly
BLOCK_BYTES = 1 << 20
_BROKEN_OFF = re.compile(r" broken-off .*\bbytes=(\d+)")
QUIC_SCRIPT = Path(__file__).with_name("quic_bulk.py")
MPROXY_PROGRAM = str(REPOSITORY / "bin" / "mproxy")
# 48 MB each way: more than any path here holds.
SRT_OPTIONS = "fc=40000&sndbuf=48000000&rcvbuf=48000000"
# Windows for 100 Mbit/s at 100 ms, which its page says to choose by oneself; random bytes can't be compressed.
KCPTUN_OPTIONS = ("--nocomp", "--sndwnd", "1024", "--rcvwnd", "1024", "--mode", "fast")


@dataclass(frozen=True)
class Job:
    """A file to be carried: where it is, an empty directory for it and the logs, the port where the receiver listens
    and the one the sender sends to (that of the path between them, or the same), and how many seconds it may take."""

    source: Path
    directory: Path
    port: int
    to_port: int
    limit_s: float
    may_stop: bool = False  # at the limit what has arrived by then counts, instead of an error
    options: tuple[str, ...] = ()  # more of them, for both ends of mproxy

    @property
    def size(self) -> int:
        return self.source.stat().st_size

    @property
    def target(self) -> Path:
        return self.directory / self.source.name  # srt-file-transmit gives no choice

    def log(self, name: str) -> Path:
        return self.directory.parent / f"{self.directory.name}-{name}.log"


@dataclass
class Outcome:
    """Of one transfer: payload bytes that arrived, seconds, CPU seconds of both ends."""

    size: int
    seconds: float
    cpu_s: float

    @property
    def mbit_s(self) -> float:
        return self.size * 8 / self.seconds / 1e6

    @property
    def cpu_s_per_gb(self) -> float:
        return self.cpu_s / self.size * 1e9


def make_source(directory: Path, size: int) -> Path:
    """A file of `size` random bytes: nobody gains by compressing it."""
    source = directory / f"source-{size}"
    with open(source, "wb") as file:
        for begin in range(0, size, BLOCK_BYTES):
            file.write(os.urandom(min(BLOCK_BYTES, size - begin)))
    return source


def memory_directory(work: Path, size: int) -> Path:
    """Where a file and its copy lie in memory, so that no disk is measured; `work` where there is no room."""
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free > 3 * size:
        return shared
    return work


def carry(contender: str, job: Job) -> Outcome:
    """Carry the file; MeasureError when it does not arrive as it was."""
    shutil.rmtree(job.directory, ignore_errors=True)
    job.directory.mkdir(parents=True)
    try:
        outcome = CARRIERS[contender](job)
        if outcome.size == job.size and not filecmp.cmp(job.source, job.target, False):
            raise MeasureError("what arrived is not what was sent")
        return outcome
    finally:
        shutil.rmtree(job.directory, ignore_errors=True)


def mproxy_pair(*options: str) -> Callable[[Job], Outcome]:
    """`mproxy send` and `mproxy recv`, every packet sealed."""

    def run(job: Job) -> Outcome:
        key = job.directory / "key"
        key.write_text("5eed" * 16 + "\n")
        key.chmod(0o600)
        common = [*options, *job.options, "--key", str(key), "--json"]
        receiver = [MPROXY_PROGRAM, "recv", *common, "--once", "--bind", LOOPBACK, "-o", str(job.target), str(job.port)]
        sender = [MPROXY_PROGRAM, "send", *common, "--quiet", str(job.source), LOOPBACK, str(job.to_port)]
        return _run_pair(job, receiver, sender)

    return run


def srt_pair(job: Job) -> Outcome:
    """srt-file-transmit in file mode, not encrypted. The sender names the file, except when that name gets lost."""
    receiver = ["srt-file-transmit", "-q", f"srt://{LOOPBACK}:{job.port}?mode=listener&{SRT_OPTIONS}",
                f"file://{job.target}"]  # fmt: skip
    sender = ["srt-file-transmit", "-q", f"file://{job.source}",
              f"srt://{LOOPBACK}:{job.to_port}?mode=caller&{SRT_OPTIONS}"]  # fmt: skip
    return _run_pair(job, receiver, sender)


def quic_pair(job: Job) -> Outcome:
    """aioquic, both ends in harness/quic_bulk.py."""
    certificate = job.directory / "certificate.pem"
    common = [sys.executable, str(QUIC_SCRIPT)]
    receiver = [*common, "receive", str(job.port), str(certificate), str(job.target)]
    sender = [*common, "send", str(job.to_port), str(certificate), str(job.source)]
    return _run_pair(job, receiver, sender)


def kcptun_pair(*options: str) -> Callable[[Job], Outcome]:
    """One TCP connection into kcptun-client, over KCP to kcptun-server, and out of there again."""

    def run(job: Job) -> Outcome:
        entry, exit_ = free_port(), free_port()
        sink = listen((LOOPBACK, exit_))
        server = ["kcptun-server", "-l", f"{LOOPBACK}:{job.port}", "-t", f"{LOOPBACK}:{exit_}", *options]
        client = ["kcptun-client", "-l", f"{LOOPBACK}:{entry}", "-r", f"{LOOPBACK}:{job.to_port}", *options]
        processes = [Process(server, job.log("receiver"))]
        try:
            processes[0].wait_listening(job.port, udp=True)
            processes.append(Process(client, job.log("sender")))
            processes[1].wait_listening(entry)
            return _through_tcp(job, entry, sink, processes)
        finally:
            sink.close()
            for process in processes:
                process.stop()

    return run


def _through_tcp(job: Job, entry: int, sink, processes: list[Process]) -> Outcome:
    """Feed the file to `entry` in a child process, take it from `sink` in this one."""
    begun_cpu = sum(cpu_seconds(process.pid) for process in processes)
    begun_at = time.monotonic()
    child = os.fork()
    if not child:
        _feed((LOOPBACK, entry), job.source)
    try:
        sink.settimeout(job.limit_s)
        arriving, _peer = sink.accept()
        arrived = 0
        with arriving, open(job.target, "wb") as file:
            arriving.settimeout(job.limit_s)
            while arrived < job.size and (data := arriving.recv(BLOCK_BYTES)):
                arrived += len(data)
                file.write(data)
                if time.monotonic() - begun_at > job.limit_s:
                    break
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    seconds = time.monotonic() - begun_at
    if arrived < job.size and not (job.may_stop and arrived):
        raise MeasureError(f"{arrived:,} of {job.size:,} bytes arrived in {seconds:.0f} s")
    return Outcome(arrived, seconds, sum(cpu_seconds(process.pid) for process in processes) - begun_cpu)


def _feed(entry: tuple[str, int], source: Path) -> None:
    """The child: sends the file and waits to be killed. Never returns."""
    try:
        with connect(entry) as sock, open(source, "rb") as file:
            sock.sendfile(file)
            signal.pause()
    finally:
        os._exit(1)


CARRIERS: dict[str, Callable[[Job], Outcome]] = {
    MPROXY: mproxy_pair(),
    MPROXY_CUBIC: mproxy_pair("--congestion", "cubic"),
    MPROXY_GBN: mproxy_pair("--recovery", "gbn"),
    SRT: srt_pair,
    KCPTUN_BARE: kcptun_pair(*KCPTUN_OPTIONS, "--datashard", "0", "--parityshard", "0"),
    KCPTUN_DEFAULT: kcptun_pair(),
    AIOQUIC: quic_pair,
}


def _run_pair(job: Job, receiver_command: list[str], sender_command: list[str]) -> Outcome:
    """Start both programs, wait for the file and then for their end."""
    receiver = Process(receiver_command, job.log("receiver"))
    sender = None
    try:
        receiver.wait_listening(job.port, udp=True)
        begun_at = time.monotonic()
        sender = Process(sender_command, job.log("sender"))
        ends = Ends([sender, receiver])
        size = _wait_for_file(job, ends, begun_at)
        seconds = time.monotonic() - begun_at
        if size < job.size:
            cpu_s = sum(cpu_seconds(process.pid) for process in (sender, receiver))
            size = _bytes_so_far(job, receiver)
            if not job.may_stop or not size:
                raise MeasureError(f"{size:,} of {job.size:,} bytes arrived in {seconds:.0f} s")
            return Outcome(size, seconds, cpu_s)
        ends.wait(LEAVE_SECONDS)
        return Outcome(size, seconds, ends.cpu_s)
    except MeasureError as error:
        logs = "; ".join(process.tail() for process in (sender, receiver) if process and process.tail())
        raise MeasureError(f"{error} ({logs})" if logs else str(error)) from None
    finally:
        for process in filter(None, (sender, receiver)):
            process.stop()


def _wait_for_file(job: Job, ends: Ends, begun_at: float) -> int:
    """Bytes of the file if all of them are there, 0 at the limit."""
    while True:
        have_ended = ends.over()
        with contextlib.suppress(FileNotFoundError):
            if job.target.stat().st_size >= job.size:
                return job.size
        if have_ended:
            raise MeasureError("both programs have ended, and the file is not there")
        if time.monotonic() - begun_at > job.limit_s:
            return 0
        time.sleep(LOOK_SECONDS)


def _bytes_so_far(job: Job, receiver: Process) -> int:
    """What an unfinished transfer has brought: ours says so when it is ended (its file has its full size from the
    start), the others write what comes."""
    if receiver.command[0] != MPROXY_PROGRAM:
        return job.target.stat().st_size if job.target.exists() else 0
    receiver.stop()
    found = _BROKEN_OFF.search(receiver.log.read_text())
    return int(found[1]) if found else 0


class Ends:
    """Processes of which the exit and the CPU time are of interest."""

    def __init__(self, processes: list[Process]):
        self._running = list(processes)
        self.cpu_s = 0.0

    def over(self) -> bool:
        """Whether all have ended; collects those that have."""
        for process in list(self._running):
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.popen.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_s += usage.ru_utime + usage.ru_stime
                self._running.remove(process)
                if process.popen.returncode:
                    raise MeasureError(f"{Path(process.command[0]).name} ended with {process.popen.returncode}")
        return not self._running

    def wait(self, seconds: float) -> None:
        deadline_at = time.monotonic() + seconds
        while not self.over():
            if time.monotonic() > deadline_at:
                names = ", ".join(Path(process.command[0]).name for process in self._running)
                raise MeasureError(f"the file is there, but after {seconds:g} s still running: {names}")
            time.sleep(LOOK_SECONDS)
