"""What the user sees while the server is away: a line on the terminal, and desktop notifications."""

import contextlib
import os
import pty
import re
import subprocess
import tty

from lab import until
from program import Output
from proxies import PYTHON
from traffic import read_exactly

LINE = r"mproxy: \S+ away for \d+s, 5 B waiting, trying again"
# Runs a program by its Python, so that it needs no PATH.
WITHOUT_PATH = ("import os, sys; os.execve(sys.executable, [sys.executable, *sys.argv[1:]],"
                " {**os.environ, 'PATH': '/no'})")
RESTORED = "\0337\033[B\033[K\0338"  # cursor kept, the line below erased


@contextlib.contextmanager
def terminal():
    """(descriptor for a program, what appears there)."""
    screen, end = pty.openpty()
    tty.setraw(screen)
    output = Output(os.dup(screen))
    try:
        yield end, output
    finally:
        os.close(end)
        os.close(screen)


def expect(output, pattern, within=30):
    found = output.wait(lambda: re.search(pattern, output.text), within)
    assert found, output.text
    return found


def test_stdio_on_a_terminal_draws_a_line_and_takes_it_away(pair):
    """Goal: it shows for how long, how much waits and when the next try is; the cursor stays, and the line vanishes."""
    pair.echo()
    pair.start_sproxy()
    with terminal() as (end, screen):
        program = pair.start_stdio(stdin=subprocess.PIPE, stderr=end)
        program.process.stdin.write(b"hello")
        program.process.stdin.flush()
        program.expect("hello")
        assert screen.text == ""
        pair.lab.wifi.cut()
        program.process.stdin.write(b"again")
        program.process.stdin.flush()
        first = expect(screen, LINE)[0]
        expect(screen, rf"(?s)away for.*{LINE}")  # it counts
        drawn = screen.text[:screen.text.rindex("trying")]
        assert drawn.count("\033D\033[A") >= 1 and "\n" not in drawn[drawn.index(first):drawn.index(first) + len(first)]
        pair.lab.wifi.mend()
        program.expect("helloagain")
        expect(screen, "resumed")
        rest = screen.text[screen.text.rindex("away for"):]
        assert RESTORED in rest, repr(rest)
        program.process.stdin.close()
        program.wait()
        assert screen.text.rindex("\0338") > screen.text.rindex("away for")


def test_without_a_terminal_there_is_no_line(pair):
    pair.echo()
    pair.start_sproxy()
    program = pair.start_stdio(stdin=subprocess.PIPE)
    program.process.stdin.write(b"hello")
    program.process.stdin.flush()
    program.expect("hello")
    pair.lab.wifi.cut()
    program.event("lost")
    pair.lab.wifi.mend()
    program.event("resumed")
    assert "\033" not in program.log.text and "away for" not in program.log.text


def test_notifications(pair):
    """Goal: one when the server has been away for a while, one when it is back; neither delays anything."""
    said = pair.lab.client.home / "said"
    tools = pair.lab.client.home / "tools"
    tools.mkdir()
    notifier = tools / "notify-send"
    notifier.write_text(f"#!/bin/sh\necho \"$@\" >> {said}\n")
    notifier.chmod(0o755)
    pair.echo()
    pair.start_sproxy()
    pair.start_cproxy("--notify", env={"PATH": f"{tools}:{os.environ['PATH']}"})
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    pair.lab.wifi.cut()
    pair.cproxy.event("lost")
    away = wait_for_line(said, 1)
    assert "is away" in away and "mproxy" in away
    pair.lab.wifi.mend()
    pair.cproxy.event("resumed")
    assert "is back" in wait_for_line(said, 2)


def wait_for_line(path, count):
    return until(lambda: path.exists() and len(lines := path.read_text().splitlines()) >= count and lines[-1], 30,
                 f"{count} notifications")


def test_without_notify_send_it_is_said(pair):
    pair.start_sproxy()
    pair.start_cproxy("--notify", prefix=(PYTHON, "-c", WITHOUT_PATH))
    assert "notify-send" in pair.cproxy.event("no-notifications")["why"]
