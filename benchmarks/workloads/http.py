"""Workloads 3 and 4: HTTP through wrk, keep-alive with 1, 32 and 256 clients, and Connection: close with 32.

Goal: what a small request and its answer cost (keep-alive), and what a whole connection costs (close).
Method: wrk with one thread against an nginx that answers `return 200` from one worker, through two proxies;
the figure is wrk's own requests per second. CPU per request is read from the proxies around the whole wrk
run.
Limits: on two cores wrk and nginx take their share; without a proxy they reach the figure of the direct row,
which bounds all others. wrk measures in whole seconds; its figures differ from run to run by a tenth, so the rows with
a promise have more rounds. A contender with failed or non-2xx requests gets no
figure.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from harness import peers
from harness.bench import MANY, Bench, Case, MeasureError, Workload
from harness.contenders import DIRECT, HAPROXY, MPROXY, MPROXY_PLAIN, NGINX, SOCAT, SSH, STUNNEL
from harness.load import Address
from harness.places import LOOPBACK, free_port
from harness.process import Group, Process

SECONDS = 1  # the shortest that wrk takes
HEADLINE_CLIENTS = 32  # the row with a promise; the others get one turn in a quick run
HEADLINE_ONLY = (SSH, STUNNEL)  # not measured with other numbers of clients
NOTE = f"runs of {SECONDS} s; with {HEADLINE_CLIENTS} clients {MANY} times the rounds."
KEEP_ALIVE = tuple(
    (f"keep-alive, {clients} client{'s' * (clients > 1)}", clients, False) for clients in (1, 32, 256)
)
CLOSE = (("connection: close, 32 clients", 32, True),)

_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_COUNT = re.compile(r"(\d+) requests in")
_TROUBLE = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)|Non-2xx.*")


def cases(rows: tuple[tuple[str, int, bool], ...], bench: Bench, stack: ExitStack) -> Iterator[Case]:
    port = free_port()
    target = f"{LOOPBACK}:{port}"
    work = bench.plan.work
    origin = Process(peers.nginx_origin(target, work), work / "origin.log")
    stack.callback(origin.stop)
    origin.wait_listening(port)
    for contender in bench.contenders():
        chain = contender.chain_between(target)
        group = bench.start(stack, contender, chain)
        if group is None:
            continue
        for row, clients, close in rows:
            if contender.name in HEADLINE_ONLY and clients != HEADLINE_CLIENTS:
                continue
            rounds = bench.plan.many_rounds if clients == HEADLINE_CLIENTS else bench.plan.pick(None, 1)
            yield Case(row, contender.name, partial(measure, group, chain.entry, clients, close), rounds)


def measure(group: Group, entry: Address, clients: int, close: bool) -> dict[str, float]:
    """Requests (or connections) per second, and CPU microseconds each in the proxies."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s"]
    command += ["-H", "Connection: close"] if close else []
    cpu = group.cpu_seconds()
    result = subprocess.run([*command, f"http://{entry[0]}:{entry[1]}/"], capture_output=True, text=True)
    cpu = group.cpu_seconds() - cpu
    rate, count = _RATE.search(result.stdout), _COUNT.search(result.stdout)
    trouble = _TROUBLE.search(result.stdout)
    if result.returncode or not rate:
        raise MeasureError(f"wrk: {(result.stderr or result.stdout).strip()[-200:]}")
    if not int(count[1]):
        raise MeasureError("wrk: not one request was answered")
    if trouble:
        raise MeasureError(f"wrk: {trouble[0]}")
    figures = {"conn/s" if close else "req/s": float(rate[1])}
    return {"CPU us each": cpu / int(count[1]) * 1e6, **figures} if group.processes else figures


_FULL = (DIRECT, MPROXY, MPROXY_PLAIN, HAPROXY, NGINX, SSH, STUNNEL)
_QUICK = (DIRECT, MPROXY, HAPROXY)

WORKLOADS = (
    Workload("keepalive", "HTTP, keep-alive", partial(cases, KEEP_ALIVE), _FULL, _QUICK, note=NOTE),
    Workload("close", "HTTP, Connection: close", partial(cases, CLOSE), (*_FULL[:-2], SOCAT), _QUICK, note=NOTE),
)
