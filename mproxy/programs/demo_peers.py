"""Who takes part in the demo: a daemon that counts, a client that reads, the two proxies; and the loop for all of them.

Everything happens in one thread, in handlers that `Reactor.run` calls. The network of a new socket or process depends
on the state of the thread that makes it (network_namespaces(7)), and with one thread the story alone decides that.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import mproxy
from mproxy.ground.errors import MproxyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO
    File = socket.socket | IO[bytes]

# Seconds between two lines of the daemon.
COUNT_S = 0.1

# Seconds that a proxy has to start to listen, and to end.
_START_S = 15
_STOP_S = 3

# Why a client's connection ended, if it ended in order.
END_OF_STREAM = "end of stream"

_READ_BYTES = 1 << 16

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


class Reactor:
    """Calls a handler when its file has input, and others at intervals."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: dict[Callable[[], object], tuple[float, float]] = {}  # callback -> (interval_s, due_at)

    def add(self, file: File, handler: Callable[[], object]) -> None:
        """Call `handler()` whenever `file` can be read."""
        self._selector.register(file, selectors.EVENT_READ, (file, handler))

    def remove(self, file: File) -> None:
        """Forget `file` and close it; a second time does nothing."""
        if file in self._selector.get_map():
            self._selector.unregister(file)
        file.close()

    def every(self, interval_s: float, callback: Callable[[], object]) -> None:
        """Call `callback()` every `interval_s` seconds, for the first time after one interval."""
        self._timers[callback] = (interval_s, time.monotonic() + interval_s)

    def cancel(self, callback: Callable[[], object]) -> None:
        """End what `every` began."""
        self._timers.pop(callback, None)

    def run(self, seconds: float, enough: Callable[[], object] = lambda: False) -> bool:
        """Wait and call handlers for `seconds`, or until `enough()`; returns whether it was enough."""
        end = time.monotonic() + seconds
        while not enough():
            now = time.monotonic()
            if now >= end:
                return False
            self._call_timers(now)
            due_at = min([end, *(due_at for _, due_at in self._timers.values())])
            for key, _ in self._selector.select(max(0, due_at - time.monotonic())):
                if key.fileobj in self._selector.get_map():  # an earlier handler may have removed it
                    _file, handler = key.data
                    handler()
        return True

    def close(self) -> None:
        """Close every file that is still waited for."""
        for key in list(self._selector.get_map().values()):
            self.remove(key.data[0])
        self._selector.close()

    def _call_timers(self, now: float) -> None:
        for callback, (interval_s, due_at) in list(self._timers.items()):
            if due_at <= now:
                # Counted from the due time, so that the pace does not depend on how long the handlers take.
                self._timers[callback] = (interval_s, due_at + interval_s)
                callback()


class CountingDaemon:
    """Writes numbered lines with the time, as ping does, to the one who connects, until that one has had enough.

    `sent` are the lines so far, `connections` how many clients there have been.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.sent: list[str] = []
        self.connections = 0
        self._reactor = reactor
        self._connection: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        reactor.add(self._listener, self._accept)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self.connections += 1
        if self._connection is not None:
            connection.close()  # the verdict will tell that the first one did not last
            return
        self._connection = connection
        self._reactor.add(connection, partial(self._on_input, connection))
        self._reactor.every(COUNT_S, self._count)

    def _count(self) -> None:
        if self._connection is None:
            return
        line = f"{len(self.sent) + 1} {time.strftime('%H:%M:%S')}.{time.time_ns() // 1_000_000 % 1000:03}"
        self.sent.append(line)
        try:
            self._connection.sendall(line.encode() + b"\n")
        except OSError:
            self._finish()

    def _on_input(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._finish()

    def _finish(self) -> None:
        self._reactor.cancel(self._count)
        if self._connection is not None:
            self._reactor.remove(self._connection)


class DemoClient:
    """Reads lines from cproxy and hands them to `on_lines`.

    `received` are the lines so far, `heard_at` the clock at the last of them, `ended` why no more will come.
    """

    def __init__(self, reactor: Reactor, port: int, on_lines: Callable[[list[str]], object]) -> None:
        self.received: list[str] = []
        self.heard_at = time.monotonic()
        self.ended: str | None = None
        self._reactor = reactor
        self._on_lines = on_lines
        self._partial = b""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_START_S)
        reactor.add(self._socket, self._on_input)

    def finish(self) -> None:
        """Tell the daemon that this was enough. It answers with the end of its own stream, after its last line."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the connection is dead, and `ended` says so

    def _on_input(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
            self.ended = None if data else END_OF_STREAM
        except OSError as error:
            data = b""
            self.ended = error.strerror or str(error)
        *whole, self._partial = (self._partial + data).split(b"\n")
        if self.ended:
            self._reactor.remove(self._socket)
            whole += [self._partial] if self._partial else []
        if whole:
            lines = [line.decode("ascii", "replace") for line in whole]
            self.heard_at = time.monotonic()
            self.received += lines
            self._on_lines(lines)


class Proxy:
    """A cproxy or sproxy of this installation, in the network that the thread is in now.

    `on_event(name, record)` gets each event of its log but `listening`. Whatever ends the demo ends the proxy too.
    """

    def __init__(self, reactor: Reactor, name: str, on_event: Callable[[str, dict[str, object]], object],
                 arguments: Iterable[object]) -> None:
        self.name = name
        self.port: int | None = None  # where it listens
        self._reactor = reactor
        self._on_event = on_event
        self._partial = b""
        self._last_words = ""
        self._state = tempfile.TemporaryDirectory(prefix="mproxy-demo-")  # its keys are for this run alone
        # Nothing is left to drain at a good end, and at a bad one nobody wants to wait. What ends here ends the demo.
        command = [sys.executable, "-P", "-m", f"mproxy.programs.{name}", "--log-format=json", "--drain=0s",
                   "--no-keeper"]
        self._process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=_environment(self._state.name), preexec_fn=_die_with_parent,
            start_new_session=True)  # the demo handles Ctrl-C
        assert self._process.stderr is not None
        self._log = self._process.stderr
        reactor.add(self._log, self._on_log)

    def wait_for_port(self) -> int:
        """Wait until it listens; returns the port."""
        self._reactor.run(_START_S, lambda: self.port)
        if self.port is None:
            raise MproxyError(f"{self.name} is not listening after {_START_S} s")
        return self.port

    def stop(self) -> None:
        """End the program, by force if necessary."""
        self._reactor.remove(self._log)
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._state.cleanup()

    def _on_log(self) -> None:
        data = os.read(self._log.fileno(), _READ_BYTES)
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode("utf-8", "replace"))
        if not data:
            raise MproxyError(f"{self.name} exited with status {self._process.wait()}:"
                              f" {self._last_words or 'no output'}")

    def _on_line(self, line: str) -> None:
        try:
            record = json.loads(line)
        except ValueError:
            self._last_words = line  # a complaint, or the last line of a traceback
            return
        if record["event"] == "listening":
            self.port = record["port"]
        else:
            self._on_event(self.name, record)


def _environment(state: str) -> dict[str, str]:
    """This process's environment, with the running package in front of any other, and a state directory."""
    paths = [str(Path(mproxy.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "XDG_STATE_HOME": state}


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
