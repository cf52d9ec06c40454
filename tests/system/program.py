"""Programs under test: starts them, reads their output by lines, waits with deadlines, measures, ends them."""

import json
import os
import pty
import re
import select
import subprocess
import threading
import time
import tty
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM

from mproxy.programs.options import keeps_by_default

# How long what must happen is waited for: much longer than it takes, as the machine may be busy with something else.
PATIENCE_S = 30

# Pipes and terminals hold no more than so many reads of them bring.
MOST_READS = 32

EVENT = re.compile(r"^\S+ +(debug|info|warning|error) +([a-z][a-z-]*)(?: |$)(.*)$")
PROXIES = {"cproxy", "sproxy"}
FIELD = re.compile(r'([a-z_0-9]+)=("(?:[^"\\]|\\.)*"|\S*)')


class Event:
    """One line of a proxy's log: `event.name`, `event.level`, and its fields by `event["why"]`."""

    def __init__(self, level, name, fields, at):
        self.level, self.name, self.fields, self.at = level, name, fields, at

    @classmethod
    def parse(cls, text, at):
        match = EVENT.match(text)
        if match is None:
            return None
        fields = {key: json.loads(value) if value.startswith('"') else value
                  for key, value in FIELD.findall(match[3])}
        return cls(match[1], match[2], fields, at)

    def __getitem__(self, key):
        return self.fields[key]

    def __repr__(self):
        return f"Event({self.level} {self.name} {self.fields})"


class Output:
    """What a program writes to `fd`, as text that grows; `at` of a line is the clock when it came.

    A thread reads it, and so does every caller that asks for it: the answer then has all that the program has written,
    even if the thread did not get to run.
    """

    def __init__(self, fd=None):
        self._fd = fd
        self._parts = []
        self._lines = []
        self._partial = ""
        self.ended = fd is None
        self.changed = threading.Condition()
        self.reader = None
        if fd is not None:
            self.reader = threading.Thread(target=self._read_on, daemon=True)
            self.reader.start()

    @property
    def text(self):
        """All output so far. It is joined on demand: a program may write faster than a growing text can be copied."""
        with self.changed:
            self._take()
            return "".join(self._parts)

    @property
    def lines(self):
        """[(at, line), ...] so far."""
        with self.changed:
            self._take()
            return list(self._lines)

    def _read_on(self):
        while not self.ended:
            self._is_ready(None)
            with self.changed:
                self._take()
        os.close(self._fd)

    def _is_ready(self, within_ms):
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return poll.poll(within_ms)

    def _take(self):
        """Read what is there, but do not follow endless output; `changed` is held."""
        for _turn in range(MOST_READS):
            if self.ended or not self._is_ready(0):
                return
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # a pty whose other end is closed
                data = b""
            text = data.decode(errors="replace").replace("\r", "")
            self._parts.append(text)
            whole = (self._partial + text).split("\n")
            self._partial = whole.pop()
            if not data and self._partial:
                whole.append(self._partial)
            now = time.monotonic()
            self._lines.extend((now, line) for line in whole)
            self.ended = not data
            self.changed.notify_all()

    def wait(self, look, within):
        """The first true value of `look()`, tried at every change; None at the deadline or the output's end."""
        end = time.monotonic() + within
        with self.changed:
            while not (found := look()):
                left = end - time.monotonic()
                if left <= 0 or self.ended or not self.changed.wait(left):
                    return look() or None
            return found


def read_pipe(pipe):
    """The output that comes from a pipe of Popen; None if it goes elsewhere."""
    if pipe is None:
        return Output()
    fd = os.dup(pipe.fileno())
    pipe.close()
    return Output(fd)


def is_pending(pid, number):
    """Whether a signal waits for the process, however it was sent."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) >> (number - 1) & 1 for line in lines if line.startswith(("SigPnd", "ShdPnd")))


def last_of_line(pid):
    """The process of this name from which no other one comes: after an upgrade there are two keepers before the
    worker, which may have children of other names."""
    while found := [int(child) for child in of_process(pid, f"task/{pid}/children").split()
                    if of_process(child, "comm") == of_process(pid, "comm")]:
        pid = found[0]
    return pid


def of_process(pid, file):
    """What /proc says of a process; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return ""


class Program:
    """A process with its output. Ends by `stop` in a test or by `close` at the end of one."""

    def __init__(self, argv, env=None, stdin=subprocess.DEVNULL, stdout=None, stderr=None, **popen):
        self.argv = argv
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            argv, env=env, stdin=stdin, stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE if stderr is None else stderr, start_new_session=True, **popen)
        self.out, self.log = read_pipe(self.process.stdout), read_pipe(self.process.stderr)

    @property
    def pid(self):
        return self.process.pid

    @property
    def worker_pid(self):
        """The process that does the work: the worker of a proxy with a keeper, else the program itself."""
        if not self._is_kept():
            return self.pid
        end = time.monotonic() + PATIENCE_S
        while (found := last_of_line(self.pid)) == self.pid:
            assert time.monotonic() < end, f"no worker within {PATIENCE_S} s: {self}"
            time.sleep(0.001)
        return found

    def _is_kept(self):
        words = set(map(str, self.argv))
        if words & {"--no-keeper", "--stdio", "--plain"} or not {Path(word).name for word in words} & PROXIES:
            return False
        return "--keeper" in words or keeps_by_default()

    @property
    def running(self):
        return self.process.poll() is None

    def expect(self, pattern, within=PATIENCE_S, output=None):
        """Waits until the standard output (or `output`) matches; returns the match."""
        output = output or self.out
        found = output.wait(lambda: re.search(pattern, output.text, re.MULTILINE), within)
        assert found, f"no {pattern!r} within {within} s from {self}"
        return found

    def events(self, name=None):
        """The events logged so far, all or those of one name."""
        parsed = (Event.parse(line, at) for at, line in self.log.lines)
        return [event for event in parsed if event and name in (None, event.name)]

    def event(self, name, count=1, within=PATIENCE_S):
        """Waits until an event of that name was logged `count` times; returns the count-th."""
        found = self.log.wait(lambda: self.events(name)[count - 1:], within)
        assert found, f"no event {name!r} (number {count}) within {within} s from {self}"
        return found[0]

    def signal(self, number):
        if number in (SIGSTOP, SIGCONT) and self._is_kept():
            os.kill(self.worker_pid, number)  # no keeper can pass SIGSTOP on
        else:
            self.process.send_signal(number)

    def signal_at_once(self, *numbers):
        """Signals that have all come when the process looks."""
        self.process.send_signal(SIGSTOP)
        for number in numbers:
            self.process.send_signal(number)
        self.process.send_signal(SIGCONT)

    def wait(self, within=PATIENCE_S):
        """The exit status, negative for a signal; the output is complete afterwards."""
        try:
            status = self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {within} s: {self}") from None
        for output in (self.out, self.log):
            if output.reader is not None:
                output.reader.join(timeout=2)  # what a child of it has open may go on
        return status

    def stop(self, number=SIGTERM, within=PATIENCE_S):
        self.signal(number)
        return self.wait(within)

    def close(self):
        if self.running:
            self.process.kill()
        self.wait()
        if self.process.stdin:
            self.process.stdin.close()

    def status(self, field):
        """A kB field of /proc/PID/status, in bytes."""
        text = Path(f"/proc/{self.worker_pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024

    def anonymous_bytes(self):
        """Resident memory that is the program's own: no file pages, no kernel buffers."""
        return self.status("RssAnon")

    def cpu_seconds(self):
        """User and system time of all threads so far."""
        fields = Path(f"/proc/{self.worker_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def __str__(self):
        name = " ".join(map(str, self.argv[self.argv.index("--") + 1:])) if "--" in self.argv else str(self.argv)
        tail = "\n".join([line for _, line in self.out.lines[-20:]] + [line for _, line in self.log.lines[-30:]])
        return f"`{name}` (status {self.process.poll()}), which wrote:\n{tail}"


class PtyProgram(Program):
    """A program that talks to a person: its standard files are a terminal. `out` is the screen."""

    def __init__(self, argv, env=None):
        screen, terminal = pty.openpty()
        tty.setraw(screen)  # no echo and no line editing of our own: what comes is what the program wrote
        super().__init__(argv, env=env, stdin=terminal, stdout=terminal, stderr=terminal)
        os.close(terminal)
        self.screen = screen
        self.out = Output(os.dup(screen))

    def logged(self):
        """Lines of a log on the screen, wherever they begin."""
        return re.findall(r"\d (?:debug|info|warning|error) [a-z][a-z-]*(?: .*|$)", self.out.text, re.MULTILINE)

    def type(self, text):
        os.write(self.screen, text.encode())

    def close(self):
        super().close()
        os.close(self.screen)
