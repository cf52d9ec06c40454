"""The last check of `mproxy doctor --session`: a cproxy of our own begins a session, and shows what the daemon says."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time

from mproxy.ground.errors import MproxyError
from mproxy.ground.words import counted, format_proxy, printable
from mproxy.programs.findings import FAULT, NOTE, OK, WARNING, CheckResult
from mproxy.service import control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mproxy.ground.config import CproxyConfig

# How long a daemon may take to say its first words; many wait for the client's instead.
BANNER_S = 3.0

# An idle session is looked at for so long.
LONG_S = 60.0

# What the session may need to end in order.
END_S = 5.0

# Characters of the daemon's first words.
SHOWN = 100


def try_session(config: CproxyConfig, long: bool) -> Iterator[CheckResult]:
    """A session, its daemon, and whether it survives a minute in which nobody speaks."""
    with Trial(config) as trial:
        trial.watch(config.connect_timeout_us / 1e6, "connected")
        if not trial.count("connected"):
            why = trial.why("dial-failed") or "no session within that time"
            yield CheckResult("session", FAULT, f"no session: {why}", "'cproxy --log-level debug' says more")
            return
        yield CheckResult("session", OK, "a session began" + _say_round_trip(trial.status()))
        trial.watch(BANNER_S, "stream-reset", until_output=True)
        yield _judge_daemon(trial)
        if long and trial.count("connected") and trial.process.poll() is None:
            yield from _stay(trial)


def _judge_daemon(trial: Trial) -> CheckResult:
    reset = trial.why("stream-reset") or trial.why("ended")
    if trial.output:
        first = trial.output.split(b"\n")[0].decode(errors="replace").strip("\r")
        return CheckResult("daemon", OK, f"the daemon says: {printable(first[:SHOWN])}", banner=first[:SHOWN])
    if reset:
        return CheckResult("daemon", WARNING, f"there is a session, but no connection to the daemon: {reset}",
                           "is the daemon running on sproxy's host? sproxy's command line names its address")
    if trial.process.poll() is not None:
        return CheckResult("daemon", WARNING, "the daemon ended the connection without a word",
                           "try it with 'telnet' on sproxy's host")
    return CheckResult("daemon", NOTE, f"the daemon accepted and has said nothing for {BANNER_S:g} s: many wait for"
                       " the client")


def _stay(trial: Trial) -> Iterator[CheckResult]:
    began = time.monotonic()
    trial.watch(LONG_S)
    lasted_s = time.monotonic() - began
    lost, why = trial.count("lost"), trial.why("lost")
    facts: dict[str, Any] = {"lost": lost, "lasted_s": round(lasted_s, 1)}
    if trial.process.poll() is not None:
        yield CheckResult("idle", NOTE, f"the daemon ended the connection after {lasted_s:.0f} s; the path could not be"
                          " watched for longer", **facts)
    elif lost:
        text = f"an idle session lost its connection {counted(lost, 'time')} in {lasted_s:.0f} s: {why}"
        yield CheckResult("idle", WARNING, text, (
            "sessions survive that, with pauses; 'cproxy --log-level debug' shows when. A shorter --heartbeat keeps"
            " entries of a NAT alive"), **facts)
    else:
        text = f"an idle session kept its connection for {lasted_s:.0f} s"
        yield CheckResult("idle", OK, text + _say_round_trip(trial.status()), **facts)


def _say_round_trip(session: dict[str, Any]) -> str:
    milliseconds = session.get("round_trip_ms")
    return f"; round trip in it {milliseconds:.1f} ms" if isinstance(milliseconds, float) else ""


class Trial:
    """A `cproxy --stdio` to talk through; its log, and what the daemon says."""

    def __init__(self, config: CproxyConfig) -> None:
        above = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # the package
        self.process = subprocess.Popen(
            [sys.executable, "-PS", "-m", "mproxy.programs.cproxy", *words_of(config)],
            env={**os.environ, "PYTHONPATH": above}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.output = b""
        self._log = b""

    def __enter__(self) -> Trial:
        """From here on Ctrl-C and SIGTERM unwind, so that the session ends with us."""
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
        return self

    def __exit__(self, *_exception: object) -> None:
        """Its end is in order: the daemon is told, and sproxy."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def watch(self, patience_s: float, event: str = "", until_output: bool = False) -> None:
        """Take what it says until that event is logged, or it ends, or the time is over."""
        assert self.process.stdout is not None and self.process.stderr is not None
        output, log = self.process.stdout.fileno(), self.process.stderr.fileno()
        ends_at = time.monotonic() + patience_s
        open_fds = {output, log}
        while open_fds and (left_s := ends_at - time.monotonic()) > 0:
            for fd in select.select(list(open_fds), [], [], left_s)[0]:
                data = os.read(fd, 65536)
                if not data:
                    open_fds.discard(fd)
                elif fd == output:
                    self.output += data if len(self.output) < 65536 else b""
                else:
                    self._log += data
            if self.count(event) or self.count("dial-failed") or (until_output and self.output):
                return
        if not open_fds:
            self.process.wait(END_S)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log about that."""
        found = []
        for line in self._log.split(b"\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("event") == name:
                found.append(entry)
        return found

    def count(self, name: str) -> int:
        """How often that was logged."""
        return len(self.events(name))

    def why(self, name: str) -> str:
        """What the last of these said; empty when there is none."""
        events = self.events(name)
        return str(events[-1].get("why", "")) if events else ""

    def status(self) -> dict[str, Any]:
        """Facts of its session, as far as they can be had."""
        try:
            answer = control.ask(control.find_socket("cproxy", self.process.pid), "status")
            session: dict[str, Any] = answer["sessions"][0]
            return session
        except (MproxyError, LookupError):
            return {}


def words_of(config: CproxyConfig) -> list[str]:
    """The command line of a cproxy with this configuration; over TCP, since it is a connection that is watched."""
    words = ["--stdio", "--carrier", "tcp", "--log-format", "json", "--log-level", "info", "--connect-timeout",
             f"{config.connect_timeout_us}us"]
    files = (("--key", config.key), ("--known-hosts", config.known_hosts), ("--state-dir", config.state_dir))
    for option, value in files:
        words += [option, value] if value and not config.plaintext else []
    for fingerprint in config.host_fingerprint:
        words += ["--host-fingerprint", fingerprint]
    words += ["--plaintext"] if config.plaintext else []
    if config.proxy is not None:
        words += ["--proxy", format_proxy(config.proxy)]
    if config.via is not None:
        words += ["--via", config.via, *(["--name", config.name] if config.name else [])]
    return [*words, "--", *([config.sproxy_host, str(config.sproxy_port)] if config.sproxy_port else [])]
