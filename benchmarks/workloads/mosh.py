"""mosh beside the paths of `bad_path`: keys of its own, nothing else, since it carries a terminal and no connection.

Method: mosh-server runs at host b, mosh-client in a pseudo-terminal at host a. What the far program prints are letters
that no control sequence of a terminal contains, so that the arrival of one is what a person would see. Guessing of
echoes is off: a guess is shown before anything has travelled.
Limits: mosh sends screens, at most every half round trip, and not what was printed between two of them.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness import load
from harness.bench import MeasureError
from harness.places import free_port
from harness.tun_path import BadPath, TunHosts

LETTERS = "qwxyz"
LOCALE = {"LC_ALL": "C.UTF-8"}
ECHO = "stty raw -echo; exec cat"
TICKS = f"stty raw -echo; while :; do for letter in {' '.join(LETTERS)}; do printf $letter; sleep 0.005; done; done"
START_SECONDS = 10.0


@contextmanager
def mosh_across(path: BadPath, command: str, terminal, *arguments) -> Iterator[tuple[TunHosts, load.Worker]]:
    """mosh-server runs `command` at host b; `terminal(worker, control, screen, *arguments)` has its screen."""
    with TunHosts("mosh", path) as hosts:
        words = ["ip", "netns", "exec", hosts.b, "mosh-server", "new", "-i", hosts.address_b, "-p", str(free_port()),
                 "--", "sh", "-c", command]
        told = subprocess.run(words, env={**os.environ, **LOCALE}, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=START_SECONDS)
        place = re.search(r"MOSH CONNECT (\d+) (\S+)", told.stdout)
        server = re.search(r"pid = (\d+)", told.stderr)
        if place is None or server is None:
            raise MeasureError(f"mosh-server did not start: {told.stderr.strip()}")
        try:
            with load.Worker(_client, hosts.address_b, *place.groups(), terminal, *arguments, netns=hosts.a) as worker:
                yield hosts, worker
        finally:
            os.kill(int(server[1]), signal.SIGTERM)


def _client(worker: load.Worker, control, address: str, port: str, key: str, terminal, *arguments) -> None:
    child, screen = pty.fork()
    if child == 0:
        termios.tcsetwinsize(0, (24, 80))  # with none mosh-client ends
        environment = {**os.environ, **LOCALE, "MOSH_KEY": key, "MOSH_PREDICTION_DISPLAY": "never", "TERM": "xterm"}
        os.execvpe("mosh-client", ["mosh-client", address, port], environment)
    terminal(worker, control, screen, *arguments)


def letters_in(screen: int, timeout_s: float) -> str:
    """The letters that arrive next; empty when none do in time."""
    end = time.monotonic() + timeout_s
    while (left := end - time.monotonic()) > 0 and select.select([screen], [], [], left)[0]:
        text = os.read(screen, 1 << 16).decode(errors="replace")
        if letters := "".join(letter for letter in text if letter in LETTERS):
            return letters
    return ""


def typist(_worker: load.Worker, control, screen: int) -> None:
    """As load.typist, with keys of a terminal."""
    _type(screen, LETTERS[-1])
    control.send("ready")
    while True:
        seconds, interval_s = control.recv()
        times, end, count = [], time.monotonic() + seconds, 0
        while time.monotonic() < end:
            times.append(_type(screen, LETTERS[count % len(LETTERS)]))
            count += 1
            time.sleep(interval_s)
        control.send(times)


def _type(screen: int, letter: str) -> int:
    """Nanoseconds until the letter is on the screen."""
    begun = time.perf_counter_ns()
    os.write(screen, letter.encode())
    while True:
        shown = letters_in(screen, load.ANSWER_TIMEOUT_SECONDS)
        if not shown:
            raise OSError("mosh shows no key stroke")
        if letter in shown:
            return time.perf_counter_ns() - begun


def gap_watcher(_worker: load.Worker, control, screen: int) -> None:
    """Answers (seconds,) with the longest time between two arrivals within so long."""
    if not letters_in(screen, START_SECONDS):
        raise OSError("mosh shows nothing")
    control.send("ready")
    while True:
        last = time.monotonic()
        end, longest = last + control.recv()[0], 0.0
        while (now := time.monotonic()) < end:
            if letters_in(screen, end - now):
                now = time.monotonic()
                longest, last = max(longest, now - last), now
        control.send(max(longest, end - last))
