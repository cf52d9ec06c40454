"""Workload 22: a path that loses packets, is long, is left for another network, or lets no UDP pass; and what an idle
session costs.

Goal: datagrams are worth having where TCP suffers, and cost nothing where they do not pass.
Method: two namespaces with a bad path between them (harness/tun_path.py).
* Roam: the server sends eight bytes every 5 ms over a path of 200 ms; the client's address changes at once (the
  new one is added, then the old one is taken away), and what was under way to it is lost. The figure is the longest
  time between two bytes at the client, in round trips.
* Key stroke: 60 ms, 5 % of all packets lost in each direction, 50 Mbit/s. A byte is sent, its echo awaited, and 10 ms
  later the next one sent, while another stream copies (with mosh nothing does). In round trips of the path.
* Bulk: 100 ms, 2 % lost in each direction, 50 Mbit/s; share of the rate that one stream's bytes reach, after 4 s.
* UDP blocked: time from an application's connection to its first byte, each time with a new cproxy.
* Idle: bytes on the wire in both directions while nothing moves, as MB a day; TLS and UDP with --idle-heartbeat 25s.
Limits: the path is a Python process that shares the processors with what it measures.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import load
from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import MOSH, MPROXY_AUTO, MPROXY_DATAGRAM, MPROXY_TLS, MPROXY_TLS_BBR, SSH, TABLE
from harness.places import LOOPBACK, free_port, run
from harness.tun_path import DEVICE, BadPath, TunHosts

from workloads import mosh

ROAM, KEYS, BULK = "roam, 200 ms", "key stroke beside a copy, 60 ms, 5 % loss", "bulk, 100 ms, 2 % loss, 50 Mbit/s"
BLOCKED, IDLE = "first byte where UDP is blocked", "idle, heartbeat 25 s"
SILENCE, P50, P99, SHARE = "silence, round trips", "p50 round trips", "p99 round trips", "share of the path"
FIRST, DAILY = "first byte s", "MB a day"
RATE = 50e6 / 8
TICK_SECONDS = 0.005
DAY_SECONDS = 86400


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    # name, path, who, what is measured
    rows = (
        (ROAM, BadPath(0.1), (MPROXY_DATAGRAM, MPROXY_TLS), measure_roam, bench.plan.pick(7, 3)),
        (ROAM, BadPath(0.1), (MOSH,), measure_mosh_roam, bench.plan.pick(7, 3)),
        (KEYS, BadPath(0.03, 0.05, RATE), (MPROXY_DATAGRAM, MPROXY_TLS, SSH), measure_keys, bench.plan.pick(3, 1)),
        (KEYS, BadPath(0.03, 0.05, RATE), (MOSH,), measure_mosh_keys, bench.plan.pick(3, 1)),
        (BULK, BadPath(0.05, 0.02, RATE), (MPROXY_DATAGRAM, MPROXY_TLS, MPROXY_TLS_BBR, SSH), measure_bulk,
         bench.plan.pick(3, 1)),
        (BLOCKED, BadPath(0.01), (MPROXY_AUTO, MPROXY_TLS), measure_blocked, bench.plan.pick(5, 2)),
        (IDLE, BadPath(0.03), (MPROXY_DATAGRAM, MPROXY_TLS), measure_idle, 1),
    )
    here = {contender.name for contender in bench.contenders()}
    for row, path, names, measure, rounds in rows:
        for name in names:
            if name in here:
                yield Case(row, name, partial(measure, bench, name, path), rounds)


class Joined:
    """Context manager: one contender across one path, with a daemon behind it; applications connect to `entry`."""

    def __init__(self, bench: Bench, name: str, path: BadPath, server, *options: str):
        self._stack = ExitStack()
        congestion = "bbr" if name == MPROXY_TLS_BBR else None
        self.hosts = self._stack.enter_context(TunHosts("bad", path, congestion))
        port = free_port()
        self.server = self._stack.enter_context(load.Worker(server, (LOOPBACK, port), netns=self.hosts.b))
        contender = TABLE[name]
        if options:
            contender = contender.with_client_options(*options)
        self._chain = contender.chain_across(self.hosts, f"{LOOPBACK}:{port}")
        self._start = partial(bench.start_or_raise, self._stack, contender, self._chain)
        self.entry = self._chain.entry

    def start(self) -> None:
        """Start the contender."""
        self._start()

    def worker(self, work, *arguments) -> load.Worker:
        """A load generator beside the first proxy."""
        return self._stack.enter_context(load.Worker(work, self.entry, *arguments, netns=self.hosts.a))

    def __enter__(self) -> Joined:
        return self

    def __exit__(self, *_exc) -> None:
        self._stack.close()


# ---- roam

def ticker(_worker: load.Worker, control, address: load.Address) -> None:
    """Sends eight bytes every TICK_SECONDS to whoever connects."""
    with load.listen(address) as listener:
        control.send("ready")
        while True:
            sock = listener.accept()[0]
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while True:
                    sock.send(bytes(8))
                    time.sleep(TICK_SECONDS)
            except OSError:
                sock.close()


def gap_watcher(_worker: load.Worker, control, address: load.Address) -> None:
    """Answers (seconds,) with the longest time between two arrivals within so long."""
    sock = load.connect(address)
    sock.recv(4096)
    control.send("ready")
    while True:
        end = time.monotonic() + control.recv()[0]
        longest, last = 0.0, time.monotonic()
        while (now := time.monotonic()) < end:
            if select.select([sock], [], [], end - now)[0]:
                if not sock.recv(1 << 16):
                    raise ConnectionError("the stream has ended")
                now = time.monotonic()
                longest, last = max(longest, now - last), now
        control.send(max(longest, end - last))


def measure_roam(bench: Bench, name: str, path: BadPath) -> dict[str, float]:
    with Joined(bench, name, path, ticker) as joined:
        joined.start()
        watcher = joined.worker(gap_watcher)
        watcher.ask(2.0)
        return {SILENCE: _silence_of_a_roam(joined.hosts, watcher) / (2 * path.one_way_s)}


def measure_mosh_roam(_bench: Bench, _name: str, path: BadPath) -> dict[str, float]:
    with mosh.mosh_across(path, mosh.TICKS, mosh.gap_watcher) as (hosts, watcher):
        watcher.ask(2.0)
        return {SILENCE: _silence_of_a_roam(hosts, watcher) / (2 * path.one_way_s)}


def _silence_of_a_roam(hosts: TunHosts, watcher: load.Worker) -> float:
    """Seconds; the address of host a changes at once."""
    watcher.control.send((4.0,))
    time.sleep(0.5)
    run("ip", "netns", "exec", hosts.a, "sh", "-c",
        f"ip addr add {hosts.subnet}.77/24 dev {DEVICE} && ip addr del {hosts.address_a}/24 dev {DEVICE}"
        f" && ip addr replace {hosts.subnet}.77/24 dev {DEVICE}")
    return watcher.answer()


# ---- keys and bulk

def measure_keys(bench: Bench, name: str, path: BadPath) -> dict[str, float]:
    with Joined(bench, name, path, load.bulk_server) as joined:
        joined.start()
        typist = joined.worker(load.typist)
        joined.worker(load.bulk_client, load.SERVER_RECEIVES, 1)
        time.sleep(2.0)
        before, begun = joined.server.counters[0], time.monotonic()
        times = sorted(typist.ask(1, bench.plan.pick(20.0, 10.0), 0.01, timeout_s=90.0))
        rate = (joined.server.counters[0] - before) * 8 / (time.monotonic() - begun) / 1e6
    return {**_key_figures(times, path), "copy Mbit/s": rate}


def measure_mosh_keys(bench: Bench, _name: str, path: BadPath) -> dict[str, float]:
    with mosh.mosh_across(path, mosh.ECHO, mosh.typist) as (_hosts, typist):
        return _key_figures(sorted(typist.ask(bench.plan.pick(20.0, 10.0), 0.01, timeout_s=90.0)), path)


def _key_figures(times: list[int], path: BadPath) -> dict[str, float]:
    """`times`: sorted, in ns."""
    if not times:
        raise MeasureError("no key stroke came back")
    trip_ns = 2 * path.one_way_s * 1e9
    return {P50: load.percentile(times, 0.5) / trip_ns, P99: load.percentile(times, 0.99) / trip_ns}


def measure_bulk(bench: Bench, name: str, path: BadPath) -> dict[str, float]:
    with Joined(bench, name, path, load.bulk_server) as joined:
        joined.start()
        joined.worker(load.bulk_client, load.SERVER_RECEIVES, 1)
        time.sleep(4.0)
        before, begun = joined.server.counters[0], time.monotonic()
        time.sleep(bench.plan.pick(10.0, 6.0))
        arrived = joined.server.counters[0] - before
        return {SHARE: arrived / (time.monotonic() - begun) / path.bytes_per_s}


# ---- UDP blocked, idle

def measure_blocked(bench: Bench, name: str, path: BadPath) -> dict[str, float]:
    with Joined(bench, name, path, load.echo_server) as joined:
        run("ip", "netns", "exec", joined.hosts.a, "nft",
            "table inet block { chain out { type filter hook output priority 0; meta l4proto udp drop; }; }")
        joined.start()
        begun = time.monotonic()
        joined.worker(load.typist)  # it is ready when it has been echoed
        return {FIRST: time.monotonic() - begun}


def measure_idle(bench: Bench, name: str, path: BadPath) -> dict[str, float]:
    with Joined(bench, name, path, load.echo_server, "--idle-heartbeat", "25s") as joined:
        joined.start()
        typist = joined.worker(load.typist)
        typist.ask(1, 0.1, 0.01)
        time.sleep(15.0)  # ten heartbeats, and what follows the last byte
        seconds = 25.0 * bench.plan.pick(4, 2)
        before = joined.hosts.carried_bytes()
        time.sleep(seconds)
        return {DAILY: (joined.hosts.carried_bytes() - before) / seconds * DAY_SECONDS / 1e6}


_CONTENDERS = MPROXY_DATAGRAM, MPROXY_TLS, MPROXY_TLS_BBR, MPROXY_AUTO, SSH, MOSH

WORKLOAD = Workload("bad-path", "Paths that are long, lose packets, change, or let no UDP pass", cases, _CONTENDERS,
                    _CONTENDERS, needs_root=True, peer=MPROXY_TLS)
