#!/usr/bin/env python3
"""What it costs to look: `mproxy status` of many streams, `mproxy top` and the page of `mproxy web` over many sessions.

    .venv/bin/python benchmarks/seeing.py [status] [top] [web]      prints figures; run it on a quiet machine

What is promised: 10,000 streams in 50 ms, with a loop that is held up for 1 ms at most; `top` over 1,000 sessions in
5 % of a core; the page's first paint after 300 ms, and 1,000 sessions that scroll smoothly. Tests check that it works,
and no times: those depend on what else the machine does.
"""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "system")]

from browser import CHROMIUM, SWITCHES  # noqa: E402
from web_client import FakeProgram, fake_session  # noqa: E402

from mproxy.service import control  # noqa: E402
from mproxy.service.answers import is_status  # noqa: E402

MPROXY = ROOT / "bin" / "mproxy"
STREAMS, SESSIONS, ROUNDS = 10_000, 1000, 9
TOP_S = 20.0
FRAMES = """async () => {
    const scroll = document.querySelector(".scroll.tall");
    const frames = [];
    const step = (scroll.scrollHeight - scroll.clientHeight) / 100;
    let last = await new Promise(requestAnimationFrame);
    for (let at = 1; at <= 100; at += 1) {
        scroll.scrollTop = at * step;
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
    }
    return frames;
}"""


class Place:
    """A home of its own for the programs of a run."""

    def __init__(self, directory: str) -> None:
        self.home = Path(directory)
        self.environment = os.environ | {"HOME": directory, "XDG_RUNTIME_DIR": f"{directory}/runtime",
                                         "XDG_STATE_HOME": f"{directory}/state", "TERM": "xterm"}
        (self.home / "runtime").mkdir(mode=0o700)

    def start(self, *words: object, **more: object) -> subprocess.Popen[str]:
        return subprocess.Popen([*map(str, words)], env=self.environment, text=True, **more)

    def socket_of(self, program: subprocess.Popen[str], name: str) -> str:
        path = self.home / "runtime" / "mproxy" / f"{name}-{program.pid}.sock"
        while not path.exists():
            time.sleep(0.05)
        return str(path)


def main() -> None:
    wanted = sys.argv[1:] or ["status", "top", "web"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="seeing-") as directory, contextlib.ExitStack() as stack:
            {"status": measure_status, "top": measure_top, "web": measure_web}[name](Place(directory), stack)


def say(what: str, values: list[float], unit: str) -> None:
    print(f"{what}: {statistics.median(values):.1f} {unit} ({min(values):.1f} to {max(values):.1f})", flush=True)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


# ---- status

def measure_status(place: Place, stack: contextlib.ExitStack) -> None:
    """Ten thousand streams of one session: the program's part, what transfer and parsing take, the whole command."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    daemon = os.fork()  # with descriptors of its own
    if not daemon:
        accept_all(listener)
    stack.callback(os.kill, daemon, signal.SIGKILL)
    ports = [free_port(), free_port()]
    quiet = {"stderr": subprocess.DEVNULL}
    sproxy = place.start(ROOT / "sproxy", "--no-keeper", ports[1], "127.0.0.1", listener.getsockname()[1], **quiet)
    stack.callback(sproxy.kill)
    cproxy = place.start(ROOT / "cproxy", "--no-keeper", ports[0], "127.0.0.1", ports[1], **quiet)
    stack.callback(cproxy.kill)
    path = place.socket_of(cproxy, "cproxy")
    apps = [connect(ports[0]) for _ in range(STREAMS)]
    while not any(each["streams"] == STREAMS for each in control.ask(path, "status")["sessions"]):
        time.sleep(0.1)
    for name, program in (("cproxy", cproxy), ("sproxy", sproxy)):
        path = place.socket_of(program, name)
        asked, checked, raw, used = [], [], [], []
        for _ in range(ROUNDS):
            began, before = time.monotonic(), cpu_seconds(program.pid)
            answer = control.ask(path, "status", streams=True)
            asked.append(1000 * (time.monotonic() - began))
            if not is_status(answer, name):
                sys.exit(f"seeing.py: the answer of {name} is refused")
            checked.append(1000 * (time.monotonic() - began))
            used.append(1000 * (cpu_seconds(program.pid) - before))
            raw.append(1000 * time_raw(path))
        say(f"{name}, {STREAMS} streams, asked", raw, "ms")
        say(f"{name}, {STREAMS} streams, asked and parsed", asked, "ms")
        say(f"{name}, {STREAMS} streams, asked, parsed and checked", checked, "ms")
        say(f"{name}, {STREAMS} streams, its processor", used, "ms")
    command = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        place.start(MPROXY, "status", "--json", "--streams", "cproxy", stdout=subprocess.DEVNULL).wait()
        command.append(1000 * (time.monotonic() - began))
    say("mproxy status --json --streams cproxy", command, "ms")
    del apps


def accept_all(listener: socket.socket) -> NoReturn:
    kept = []
    while True:
        kept.append(listener.accept())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def connect(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.05)


def time_raw(path: str) -> float:
    """Seconds until the whole answer is here, and nobody has looked at it."""
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection:
        with control.short_path(path) as short:
            connection.connect(short)
        connection.sendall(b'{"command": "status", "streams": true}\n')
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass
    return time.monotonic() - began


# ---- top and web

def measure_top(place: Place, stack: contextlib.ExitStack) -> None:
    """A thousand sessions on a terminal of 50 lines."""
    stack.callback(FakeProgram(place, [fake_session(number) for number in range(SESSIONS)]).close)
    ours, theirs = pty.openpty()
    top = place.start(MPROXY, "top", stdin=theirs, stdout=theirs, start_new_session=True)
    stack.callback(top.kill)
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(ours, 65536), b"")], daemon=True).start()
    time.sleep(2)
    before = cpu_seconds(top.pid)
    time.sleep(TOP_S)
    say(f"mproxy top, {SESSIONS} sessions", [100 * (cpu_seconds(top.pid) - before) / TOP_S], "% of a core")


def measure_web(place: Place, stack: contextlib.ExitStack) -> None:
    """A thousand sessions in a headless Chromium, without a graphics card."""
    from playwright.sync_api import expect, sync_playwright
    stack.callback(FakeProgram(place, [fake_session(number) for number in range(SESSIONS)]).close)
    web = place.start(MPROXY, "web", "--listen", "127.0.0.1:0", stdout=subprocess.PIPE)
    stack.callback(web.kill)
    url = web.stdout.readline().strip()
    playwright = stack.enter_context(sync_playwright())
    page = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES).new_page()
    paints, frames = [], []
    for _ in range(ROUNDS):
        page.goto(url if not paints else page.url)
        expect(page.locator("#programs")).to_contain_text("crowd", timeout=30_000)  # and there may be others
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        frames.append(statistics.median(page.evaluate(FRAMES)))
    say("mproxy web, first paint", paints, "ms")
    say(f"mproxy web, a frame while scrolling {SESSIONS} sessions", frames, "ms")


if __name__ == "__main__":
    main()
