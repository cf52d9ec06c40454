"""Load generators: forked Python processes that do nothing per byte, only big system calls.

Measured on two cores: one bulk stream without a proxy runs at 14 to 40 Gbit/s, so the generators do not hold
a proxy back that reaches 10. Their CPU time is never counted; only the processes of a contender's group are.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable

from harness.places import enter_namespace
from harness.process import die_with_parent

Address = tuple[str, int]

BULK_CALL_BYTES = 256 * 1024
ANSWER_TIMEOUT_SECONDS = 5.0  # a byte that takes longer to come back is not coming
BACKLOG = 16384
MOST_DESCRIPTORS = 1 << 20
# First byte of a bulk connection: what the server is to do on it.
SERVER_SENDS, SERVER_RECEIVES, SERVER_DOES_BOTH = b"D", b"U", b"B"
SERVER_ECHOES = b"k"

_fork = multiprocessing.get_context("fork")


def raise_descriptor_limit() -> int:
    """As many descriptors as this host allows a process; children and started programs inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Worker:
    """A function in a process of its own, on a given host; ready once it has said so through `tell_ready`.

    `counters` are 64-bit numbers in shared memory: written by the worker, read at any moment by the bench.
    `control` is a socket pair for commands and answers between the two.
    """

    def __init__(self, work: Callable, *arguments, netns: str | None = None, counters: int = 1):
        self.counters = _fork.RawArray(ctypes.c_uint64, counters)
        self.control, inner = _fork.Pipe()
        self._process = _fork.Process(target=self._run, args=(work, inner, netns, arguments), daemon=True)
        self._process.start()
        inner.close()
        if self.answer(30.0) != "ready":
            raise RuntimeError(f"load generator {work.__name__} did not start")

    def _run(self, work: Callable, inner, netns: str | None, arguments: tuple) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        self.control.close()
        enter_namespace(netns)
        try:
            work(self, inner, *arguments)
        except OSError as error:
            inner.send(error)

    def ask(self, *command, timeout_s: float = 60.0):
        """Send one command to the worker and return its answer; what ended the worker is raised here."""
        self.control.send(command)
        return self.answer(timeout_s)

    def answer(self, timeout_s: float = 60.0):
        if not self.control.poll(timeout_s):
            raise TimeoutError(f"no answer from the load generator within {timeout_s:g} s")
        answer = self.control.recv()
        if isinstance(answer, OSError):
            raise answer
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.control.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exc) -> None:
        self.stop()


def listen(address: Address) -> socket.socket:
    return socket.create_server(address, backlog=BACKLOG)


def connect(address: Address) -> socket.socket:
    sock = socket.create_connection(address, timeout=10.0)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Pump:
    """Sends and receives on many sockets as fast as they take and give; counts received bytes in one
    counter."""

    def __init__(self, counters, slot: int):
        self._counters = counters
        self._slot = slot
        self._poller = select.epoll()
        self._streams: dict[int, socket.socket] = {}
        self._outgoing = bytes(BULK_CALL_BYTES)
        self._incoming = bytearray(BULK_CALL_BYTES)

    def add(self, sock: socket.socket, sends: bool, receives: bool) -> None:
        sock.setblocking(False)
        self._streams[sock.fileno()] = sock
        wanted = (select.EPOLLIN if receives else 0) | (select.EPOLLOUT if sends else 0)
        self._poller.register(sock.fileno(), wanted)

    def register_listener(self, listener: socket.socket) -> None:
        self._poller.register(listener.fileno(), select.EPOLLIN)

    def turn(self, timeout_s: float | None = None) -> list[int]:
        """One pass over what is ready; returns the fds that are not streams of this pump."""
        others = []
        for fd, events in self._poller.poll(timeout_s):
            sock = self._streams.get(fd)
            if sock is None:
                others.append(fd)
            elif not self._serve(sock, events):
                del self._streams[fd]
                sock.close()
        return others

    def _serve(self, sock: socket.socket, events: int) -> bool:
        try:
            if events & select.EPOLLIN:
                received = sock.recv_into(self._incoming)
                if not received:
                    return False
                self._counters[self._slot] += received
            if events & select.EPOLLOUT:
                sock.send(self._outgoing)
            return not events & (select.EPOLLERR | select.EPOLLHUP)
        except BlockingIOError:
            return True
        except OSError:
            return False


def bulk_server(worker: Worker, control, address: Address) -> None:
    """Accepts for ever; each connection's first byte says which way its bytes are to run. Counter 0:
    received."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    pump = Pump(worker.counters, 0)
    listener = listen(address)
    pump.register_listener(listener)
    control.send("ready")
    while True:
        for _ in pump.turn():
            sock, _peer = listener.accept()
            sock.settimeout(10.0)
            mode = sock.recv(1)
            if mode in (b"", SERVER_ECHOES):
                _echo_aside(sock, mode)
                continue
            pump.add(sock, mode != SERVER_RECEIVES, mode != SERVER_SENDS)


def bulk_client(worker: Worker, control, address: Address, mode: bytes, streams: int) -> None:
    """Opens the streams and runs until it is stopped. Counter 0: received."""
    pump = Pump(worker.counters, 0)
    for _ in range(streams):
        sock = connect(address)
        sock.send(mode)
        pump.add(sock, mode != SERVER_SENDS, mode != SERVER_RECEIVES)
    control.send("ready")
    while True:
        pump.turn()


def echo_server(_worker: Worker, control, address: Address) -> None:
    """Echoes each connection in a process of its own, with blocking calls: the least a wake-up can cost."""
    listener = listen(address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.send("ready")
    while True:
        sock, _peer = listener.accept()
        _echo_aside(sock)


def _echo_aside(sock: socket.socket, already_read: bytes = b"") -> None:
    """Echo this connection in a child; `already_read` is echoed first."""
    if os.fork():
        sock.close()
        return
    die_with_parent()
    # A copy of another connection's socket in here would keep that connection from ending.
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, MOST_DESCRIPTORS)
    sock.settimeout(None)
    sock.sendall(already_read)
    _echo(sock)
    os._exit(0)


def _echo(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while data := sock.recv(65536):
            sock.sendall(data)
    except OSError:
        pass


def typist(_worker: Worker, control, address: Address) -> None:
    """One connection; each command (size, seconds, interval_s) is answered with the round trips' times in
    ns."""
    sock = connect(address)
    sock.settimeout(ANSWER_TIMEOUT_SECONDS)
    round_trip_times_ns(sock, 1, 0.05)
    control.send("ready")
    while True:
        control.send(round_trip_times_ns(sock, *control.recv()))


def round_trip_times_ns(sock: socket.socket, size: int, seconds: float, interval_s: float = 0.0) -> list[int]:
    """Send `size` bytes, wait until they have all come back, note the time; for so long, at that interval."""
    message = SERVER_ECHOES * size
    incoming = bytearray(size)
    clock = time.perf_counter_ns
    times = []
    end_at = clock() + int(seconds * 1e9)
    while (begun := clock()) < end_at:
        sock.send(message)
        missing = size
        while missing:
            got = sock.recv_into(incoming, missing)
            if not got:
                raise ConnectionError("closed in the middle of a round trip")
            missing -= got
        times.append(clock() - begun)
        if interval_s:
            time.sleep(interval_s)
    return times


def percentile(sorted_values: list, share: float):
    """The smallest value that at least `share` of all values do not exceed (nearest rank)."""
    rank = max(0, min(len(sorted_values) - 1, int(len(sorted_values) * share)))
    return sorted_values[rank]
