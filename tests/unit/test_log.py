"""The log: both formats, protection against forged lines, and descriptors that fail."""

import errno
import json
import os
import pty
import subprocess
import sys
import time
import tty

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.ground.config import LOG_FORMATS, LOG_LEVELS
from mproxy.programs.common import say_seconds
from mproxy.service import log as log_module
from mproxy.service.log import Log, quote

# 2026-11-21 08:00:00.123 in UTC
NOW = 1795248000.1237


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Pipe:
    """A log that writes to a pipe, and what has come out of the pipe so far."""

    def __init__(self, level="debug", style="text"):
        self.read_fd, self.write_fd = os.pipe()
        self.log = Log(level, style, self.write_fd, lambda: NOW)

    def read(self):
        os.set_blocking(self.read_fd, False)
        try:
            return os.read(self.read_fd, 1 << 20).decode("ascii")
        except BlockingIOError:
            return ""

    def close(self):
        for fd in (self.read_fd, self.write_fd):
            try:
                os.close(fd)
            except OSError:
                pass


@pytest.fixture
def text():
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def json_lines():
    pipe = Pipe(style="json")
    yield pipe
    pipe.close()


# --- formats ---

def test_a_text_line(text):
    text.log.info("connected", session="4f2a91c0", peer="10.0.0.1:6200", local="[fe80::1%eth0]:40000")
    assert text.read() == ("2026-11-21T08:00:00.123+00:00 info connected session=4f2a91c0 peer=10.0.0.1:6200"
                           " local=[fe80::1%eth0]:40000\n")


def test_a_json_line(json_lines):
    json_lines.log.warning(
        "refused", why='bad "magic"', peer="::1", bytes=12, share=0.5, eager=True, none=None)
    assert json.loads(json_lines.read()) == {
        "time": "2026-11-21T08:00:00.123+00:00", "level": "warning", "event": "refused", "why": 'bad "magic"',
        "peer": "::1", "bytes": 12, "share": 0.5, "eager": True}


@pytest.mark.parametrize("zone, clock, offset", [
    ("XXX-1", "2026-11-21T09:00:00.123", "+01:00"), ("XXX+3:30", "2026-11-21T04:30:00.123", "-03:30"),
])
def test_times_are_local(monkeypatch, text, json_lines, zone, clock, offset):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    text.log.info("stopping")
    json_lines.log.info("stopping")
    assert text.read() == f"{clock}{offset} info stopping\n"
    assert json.loads(json_lines.read())["time"] == clock + offset


@pytest.mark.parametrize("value, shown", [
    ("plain", "plain"), ("", '""'), ("a b", '"a b"'), ('say "x"', r'"say \"x\""'), ("a=b", '"a=b"'),
    ("back\\slash", r'"back\\slash"'), (7, "7"), (1.5, "1.5"), (True, "true"), (False, "false"),
    ("a\nb", r'"a\nb"'), ("\x1b[2J", r'"\u001b[2J"'), ("\x7f\x9b", r'"\u007f\u009b"'), ("é", r'"\u00e9"'),
    ("\u202e", r'"\u202e"'), ("😀", r'"\ud83d\ude00"'), ("\udcff", r'"\udcff"'),
    (OSError(2, "gone"), '"[Errno 2] gone"'),
])
def test_values_in_text(text, value, shown):
    text.log.info("x", why=value)
    assert text.read() == f"2026-11-21T08:00:00.123+00:00 info x why={shown}\n"


def test_fields_without_a_value_are_left_out(text):
    text.log.info("lost", session=None, why="timeout", peer=None)
    assert text.read().endswith(" info lost why=timeout\n")


def test_a_duration_is_a_number_in_json(text, json_lines):
    for pipe in (text, json_lines):
        pipe.log.info("resumed", after=say_seconds(6_213_400))
    assert text.read().endswith(" after=6.213s\n")
    text.log.info("resumed", after=say_seconds(3 * 3600_000_000 + 425_000_000))
    assert text.read().endswith(" after=3h7m\n")
    assert json.loads(json_lines.read())["after"] == 6.213


def test_lines_suit_a_raw_terminal():
    """Goal: lines that ssh's ProxyCommand writes begin in the first column."""
    screen, terminal = pty.openpty()
    tty.setraw(screen)
    log = Log("info", "text", terminal, lambda: NOW)
    log.info("one")
    log.info("two")
    shown = b""
    while shown.count(b"\n") < 2:
        shown += os.read(screen, 4096)
    assert shown == b"2026-11-21T08:00:00.123+00:00 info one\r\n2026-11-21T08:00:00.123+00:00 info two\r\n"
    os.close(screen)
    os.close(terminal)


class Timer:
    """Stands for the loop: what was to be called later, and when."""

    def __init__(self):
        self.calls = []

    def call_later(self, delay_us, function):
        self.calls.append((delay_us, function))


def test_repetitions_are_held_back_and_told(text):
    """Goal: 3,000 refusals at once give five lines, and one more that counts the rest."""
    clock, timer = [NOW], Timer()
    log = Log("info", "text", text.write_fd, lambda: clock[0])
    log.restrain(timer.call_later)
    for stream in range(3000):
        log.warning("stream-reset", session="4f2a91c0", stream=stream, why="the daemon refused the connection")
    assert text.read().count("\n") == 5 and len(timer.calls) == 1
    while timer.calls:
        delay_us, function = timer.calls.pop()
        clock[0] += delay_us / 1e6
        function()
    line, = text.read().splitlines()
    assert line.endswith(' stream=2999 why="the daemon refused the connection" more=2994')
    assert clock[0] - NOW == 60


def test_what_is_held_at_the_end_is_told(text):
    log = Log("info", "text", text.write_fd, lambda: NOW)
    log.restrain(Timer().call_later)
    for _ in range(9):
        log.warning("refused", peer="10.0.0.1:1", why="no")
    log.tell_rest()
    assert text.read().splitlines()[-1].endswith(" peer=10.0.0.1:1 why=no more=3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_word_for_these_numbers(json_lines, value):
    json_lines.log.info("x", share=value)
    assert json.loads(json_lines.read())["share"] == str(value)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_value_forges_a_line(value):
    for style in LOG_FORMATS:
        pipe = Pipe(style=style)
        pipe.log.info("refused", why=value, peer="p")
        line = pipe.read()
        pipe.close()
        assert line.isascii() and line[:-1].isprintable() and line.endswith("\n") and line.count("\n") == 1
        if style == "json":
            assert list(json.loads(line)) == ["time", "level", "event", "why", "peer"]
        else:
            assert line.endswith(" peer=p\n")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_quoted_text_reads_back_as_json(value):
    assert json.loads(quote(value)) == value


@settings(deadline=None)
@given(st.text(min_size=1), st.integers(20, 100))
def test_quoted_text_is_cut_to_its_limit(value, limit):
    quoted = quote(value * 20, limit)
    assert len(quoted) <= limit
    assert json.loads(quoted).endswith("...") or json.loads(quoted) == value * 20


@pytest.mark.parametrize("style", LOG_FORMATS)
@pytest.mark.parametrize("fields", [1, 8, 40])
def test_a_line_fits_into_one_pipe_write(style, fields):
    pipe = Pipe(style=style)
    pipe.log.info("refused", **{f"field{number}": "\x00" * 5000 for number in range(fields)})
    line = pipe.read()
    pipe.close()
    assert len(line) <= 4096 and line.endswith("\n") and "..." in line


# --- levels ---

@pytest.mark.parametrize("lowest", LOG_LEVELS)
def test_levels_below_the_lowest_are_silent(lowest):
    pipe = Pipe(level=lowest)
    for level in LOG_LEVELS:
        getattr(pipe.log, level)("event")
    shown = [line.split()[1] for line in pipe.read().splitlines()]
    pipe.close()
    assert shown == list(LOG_LEVELS[LOG_LEVELS.index(lowest):])


# --- failing descriptors ---

class Disk:
    """A scripted write_now: each entry is an error to raise or a number of bytes to take."""

    def __init__(self, monkeypatch, *script):
        self.script = list(script)
        self.written = b""
        monkeypatch.setattr(log_module, "write_now", self.write)

    def write(self, fd, data):
        step = self.script.pop(0) if self.script else len(data)
        if isinstance(step, OSError):
            raise step
        self.written += data[:step]
        return min(step, len(data))

    def events(self):
        return [line.split(" ", 2)[2] for line in self.written.decode().splitlines()]


@pytest.fixture
def quiet_log():
    fd = os.open("/dev/null", os.O_WRONLY)
    yield Log("info", "text", fd, lambda: NOW)
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EBADF, errno.EAGAIN, errno.EIO])
def test_a_failing_write_is_counted_and_the_next_line_tries_again(monkeypatch, quiet_log, number):
    failure = OSError(number, os.strerror(number))
    disk = Disk(monkeypatch, failure, failure, failure)
    for event in ("one", "two", "three", "four", "five"):
        quiet_log.info(event)
    assert disk.events() == ["lines-lost count=3", "four", "five"]


def test_a_line_lost_right_after_the_report_is_counted_anew(monkeypatch, quiet_log):
    full = OSError(errno.ENOSPC, "full")
    disk = Disk(monkeypatch, full, 1000, full)
    for event in ("one", "two", "three"):
        quiet_log.info(event)
    assert disk.events() == ["lines-lost count=1", "lines-lost count=1", "three"]


def test_a_line_taken_in_part_is_finished_before_the_next_one(monkeypatch, quiet_log):
    disk = Disk(monkeypatch, 10, OSError(errno.ENOSPC, "full"))
    for event in ("one", "two", "three"):
        quiet_log.info(event)
    assert disk.events() == ["one", "lines-lost count=1", "three"]


def test_a_full_pipe_is_not_waited_for(text):
    os.set_blocking(text.read_fd, False)
    for _ in range(2000):
        text.log.info("flood", filler="x" * 300)
    assert text.read().count("\n") > 100
    text.log.info("after")
    lines = []
    while piece := text.read():
        lines += piece.splitlines()
    assert "lines-lost count=" in lines[-2] and lines[-1].endswith(" info after")


def test_a_full_disk_and_a_gone_reader_and_a_closed_descriptor_do_not_raise():
    full = os.open("/dev/full", os.O_WRONLY)
    Log("info", "text", full, lambda: NOW).info("x")
    os.close(full)
    Log("info", "json", full, lambda: NOW).info("x")
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    Log("info", "text", write_fd, lambda: NOW).info("x")
    os.close(write_fd)
    Log("info", "text", -1, lambda: NOW).info("x")


def test_with_standard_error_closed_a_socket_never_gets_its_number():
    program = (
        "import os, socket, sys\n"
        "from mproxy.service.log import Log\n"
        "log = Log()\n"
        "one, other = socket.socketpair()\n"
        "log.info('secret')\n"
        "other.setblocking(False)\n"
        "sys.stdout = None\n"
        "try: os._exit(1 if other.recv(100) else 2)\n"
        "except BlockingIOError: os._exit(0 if min(one.fileno(), other.fileno()) > 2 else 3)\n")
    command = 'exec "$1" -c "$0" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", command, program, sys.executable], timeout=30, check=False).returncode == 0
