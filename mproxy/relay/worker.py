"""A worker: one process with one loop, which relays what the supervisor tells it to.

It is cloned by its keeper (worker_keeper.py), which has given up its rights if there is a --user, takes over what the
worker before it has left, and does what it is told over the channel (rules as in worker_messages.py):

    add      [(key, rule, targets, count of descriptors), ...]   with the listening sockets
    update   key, rule                                           other options, same listener
    targets  [(key, targets), ...]                               after a name was looked up
    take_over                                                    all rules are there: go on with what is left
    remove   [key, ...]                                          established connections go on
    shrink   key                                                 another worker needs room for its part of a UDP rule
    report   number                                              answered by `counters`, with everything that changed
    drain    microseconds                                        accept nobody, end when the last connection has ended
    log      with the descriptor of a reopened log file
    access   with the descriptor of the access log

`targets` is [(text, [(family, sockaddr), ...], weight, failing), ...], one entry for each target of the rule: `weight`
is None without weights, `failing` has the numbers of the addresses whose health check fails. The worker reports:

    ready                                                        once, when the loop runs
    counters number, [(key, {name: value}), ...], connections, flows
                                                                 number 0: unasked, so that little is lost with a worker
    down     [(key, [(HOST:PORT, errno), ...]), ...]             addresses that are left out now, where that changed
    removed  [(key, {name: value}), ...]                         the last report on removed rules
    crowded  [key, ...]                                          UDP rules of which others have more than their part
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.relay.access_log import AccessLog
from mproxy.relay.engines import Engines
from mproxy.relay.inheritance import Inheritance
from mproxy.relay.relay_observer import RelayObserver
from mproxy.relay.rules import share
from mproxy.relay.worker_channel import WorkerChannel
from mproxy.relay.worker_messages import pack_counters, unpack_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, NoReturn

    from mproxy.ground.shapes import Address, Logger
    from mproxy.relay._tally import Tally
    from mproxy.relay.counters import Values
    from mproxy.relay.relay_observer import Account
    from mproxy.relay.rules import Rule
    from mproxy.relay.worker_messages import Down
    PackedTarget = tuple[str, list[Address], int | None, list[int]]

# From one unasked report to the next; and how many times as long as a report takes, at least, so that reporting costs
# 1 % of one CPU however many rules there are.
REPORT_US = 1_000_000
REPORT_SHARE = 100

# Rules in one message of counters: well below its greatest size.
COUNTERS_A_MESSAGE = 200

# Rules in one message of addresses: each may have hundreds.
DOWN_A_MESSAGE = 20

# From the first newcomer beyond a rule's `max=` to the message about it: a flood needs few of them.
CROWDED_US = 1_000

# While draining: from one look at what is left to the next.
LOOK_US = 20_000

# How long to wait for the answer to a last datagram: UDP flows do not end by themselves.
LAST_ANSWER_US = 1_000_000

# How long connections may go on when the supervisor was killed.
ORPHAN_US = 5_000_000

# Clearer than the system's own words.
WHY = {0: "no address known"} | dict.fromkeys(
    (errno.EADDRINUSE, errno.EAGAIN), "no port is left here: all are in use, or rest (net.ipv4.ip_local_port_range)")

# The same unreachable target is logged once in this time; and how many of them are remembered.
REPEAT_US = 10_000_000
MOST_REMEMBERED = 10_000


def run(loop: Loop, sock: socket.socket, kept: set[int], condemned: set[int], log: Logger, number: int,
        max_connections: int, tally: Tally) -> NoReturn:
    """Serve until drained, or until the supervisor ends; never returns. `kept`, `condemned`: see Inheritance."""
    status = 1
    try:
        tally.be(number)
        Worker(loop, sock, Inheritance(kept, condemned), log, number, max_connections, tally).run()
        log.tell_rest()
        status = 0
    except BaseException as error:
        log.error("worker-failed", worker=number, why=f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


class Worker:
    """Observer of the engines; carries out in this process what the supervisor asks for."""

    def __init__(self, loop: Loop, sock: socket.socket, inheritance: Inheritance, log: Logger, number: int,
                 max_connections: int, tally: Tally) -> None:
        self._log = log
        self._number = number
        self._loop = loop
        self._inheritance = inheritance
        self._loop.on_error = self._on_error
        log.restrain(self._loop.call_later)
        self._access = AccessLog(self._loop, log, number)
        watcher = Watcher(log, self._loop, number, self._say_rule, self._note, self._note_crowded)
        self._engines = Engines(self._loop, watcher, max_connections, share(max_connections, number, tally.workers),
                                tally)
        self._tally = tally
        self._channel = WorkerChannel(self._loop, sock, self._on_message, self._on_orphaned)
        self._rules: dict[int, Rule] = {}  # key -> Rule, for the log
        self._former: dict[int, Rule] = {}  # removed ones, whose connections go on: the last of them
        self._told: dict[int, Values] = {}  # key -> counters as last reported
        self._down: Down = {}  # key -> addresses that are down, as last reported
        self._drain_at = 0  # once draining
        self._crowded: set[int] = set()  # rules that the supervisor is about to hear of
        self._handlers: dict[str, Callable[..., None]] = {
            "add": self._add, "update": self._update, "targets": self._set_targets, "remove": self._remove,
            "shrink": self._engines.shrink, "take_over": self._take_over, "report": self._report,
            "drain": self._drain, "log": self._take_log, "access": self._take_access}

    def run(self) -> None:
        """Run the loop until everything is done."""
        self._channel.send("ready")
        self._loop.call_later(REPORT_US, self._report_unasked)
        self._loop.run()

    def _on_error(self, error: BaseException) -> None:
        self._log.error("internal-error", worker=self._number, why=f"{type(error).__name__}: {error}")

    def _say_rule(self, key: int) -> Rule | int:
        return self._rules.get(key, key)

    def _on_message(self, message: list[Any], fds: list[int]) -> None:
        name, *arguments = message
        try:
            if name in ("add", "log", "access"):
                arguments.append(fds)
            self._handlers[name](*arguments)
        finally:
            for fd in fds:
                os.close(fd)

    # ---- rules

    def _add(self, entries: list[tuple[int, list[Any], list[PackedTarget], int]], fds: list[int]) -> None:
        for key, packed, targets, count in entries:
            rule = unpack_rule(packed)
            mine, fds = fds[:count], fds[count:]
            try:
                self._engines.add(key, rule, mine)
            except OSError as error:
                self._log.error("listener-failed", worker=self._number, line=rule.number, rule=rule, why=error.strerror)
                continue
            self._rules[key] = rule
            self._aim(key, targets)
            self._engines.take_flows(self._inheritance, key)

    def _update(self, key: int, packed: list[Any]) -> None:
        self._rules[key] = rule = unpack_rule(packed)
        self._engines.update(key, rule)

    def _set_targets(self, entries: list[tuple[int, list[PackedTarget]]]) -> None:
        for key, targets in entries:
            self._aim(key, targets)

    def _aim(self, key: int, targets: list[PackedTarget]) -> None:
        weights = [weight for _, _, weight, _ in targets if weight is not None]
        self._engines.set_targets(key, [Target(text, addresses) for text, addresses, _, _ in targets], weights or None,
                                  [failing for _, _, _, failing in targets])

    def _take_over(self) -> None:
        """Go on with what the worker before this one has left, now that all rules are here."""
        connections, flows, lost = self._engines.take_over(self._inheritance)
        self._tally.settled()
        if connections or flows or lost:
            self._log.info("taken-over", worker=self._number, connections=connections, flows=flows or None,
                           lost=lost or None)

    def _remove(self, keys: list[int]) -> None:
        for start in range(0, len(keys), COUNTERS_A_MESSAGE):
            some = keys[start:start + COUNTERS_A_MESSAGE]
            self._channel.send("removed", pack_counters({key: self._engines.stats(key) for key in some}))
        for key in keys:
            self._engines.remove(key)
            self._forget(key)
            self._told.pop(key, None)
            self._down.pop(key, None)

    def _forget(self, key: int) -> None:
        rule = self._rules.pop(key, None)
        if rule is not None:
            self._former[key] = rule
            if len(self._former) > MOST_REMEMBERED:
                del self._former[next(iter(self._former))]

    def _note_crowded(self, key: int) -> None:
        if not self._crowded:
            self._loop.call_later(CROWDED_US, self._tell_crowded)
        self._crowded.add(key)

    def _tell_crowded(self) -> None:
        keys, self._crowded = list(self._crowded), set()
        for start in range(0, len(keys), COUNTERS_A_MESSAGE):
            self._channel.send("crowded", keys[start:start + COUNTERS_A_MESSAGE])

    # ---- counters

    def _report_unasked(self) -> None:
        started = time.monotonic_ns()
        self._report(0)
        took_us = (time.monotonic_ns() - started) // 1000
        self._loop.call_later(max(REPORT_US, REPORT_SHARE * took_us), self._report_unasked)

    def _report(self, number: int) -> None:
        """Report what has changed since the last time, in as many messages as it takes; the last one has the number."""
        self._report_down()
        changed = {}
        for key in self._engines.keys:
            now = self._engines.stats(key)
            if now != self._told.get(key):
                self._told[key] = now
                changed[key] = now
                if len(changed) == COUNTERS_A_MESSAGE:
                    self._tell(0, changed)
                    changed = {}
        self._tell(number, changed)

    def _report_down(self) -> None:
        now = {key: down for key in self._engines.keys if (down := self._engines.down(key))}
        keys = [key for key in now.keys() | self._down.keys() if now.get(key) != self._down.get(key)]
        self._down = now
        for start in range(0, len(keys), DOWN_A_MESSAGE):
            self._channel.send("down", [(key, now.get(key, [])) for key in keys[start:start + DOWN_A_MESSAGE]])

    def _tell(self, number: int, changed: dict[int, Values]) -> None:
        self._channel.send("counters", number, pack_counters(changed), *self._engines.counts())

    # ---- the end

    def _drain(self, patience_us: int) -> None:
        """Accept nobody, and wait for the existing connections."""
        self._remove(list(self._engines.keys))
        now = self._loop.now()
        self._drain_at = now + patience_us
        self._look(now + min(patience_us, LAST_ANSWER_US))

    def _look(self, last_answer_at: int) -> None:
        now = self._loop.now()
        if now >= last_answer_at:
            self._engines.end_flows()
        connections, flows = self._engines.counts()
        if now < self._drain_at and (connections or flows):
            self._loop.call_later(LOOK_US, lambda: self._look(last_answer_at))
            return
        if connections:
            self._log.warning("connections-cut", worker=self._number, connections=connections)
        self._engines.close()
        self._access.close()
        self._loop.stop()

    def _on_orphaned(self) -> None:
        """The supervisor died: end, so that its ports are free for the next one."""
        if not self._drain_at:
            self._drain(ORPHAN_US)
            self._log.error("supervisor-lost", worker=self._number)  # whoever reads this may bind the ports

    def _take_log(self, fds: list[int]) -> None:
        os.dup2(fds[0], 2)

    def _take_access(self, fds: list[int]) -> None:
        self._access.use(fds[0])
        self._engines.keep_accounts()

    def _note(self, key: int, account: Account) -> None:
        rule = self._rules.get(key) or self._former.get(key)
        if rule is not None:
            self._access.note(rule, account)


class Watcher(RelayObserver):
    """Logs what happens to rules, and the same thing not too often."""

    def __init__(self, log: Logger, loop: Loop, worker: int, say_rule: Callable[[int], object],
                 note: Callable[[int, Account], None], crowded: Callable[[int], None]) -> None:
        self._log = log
        self._loop = loop
        self._worker = worker
        self._say_rule = say_rule
        self._note = note
        self._note_crowded = crowded
        # By target and reason: time of the last line, connections since.
        self._unreachable: dict[tuple[str, str], tuple[int, int]] = {}

    def on_accept_paused(self, why: str) -> None:
        self._log.warning("accept-paused", worker=self._worker, why=why)

    def on_accept_resumed(self) -> None:
        self._log.info("accept-resumed", worker=self._worker)

    def on_refused(self, key: int, target: str, error: int) -> None:
        why = WHY.get(error) or os.strerror(error)
        now = self._loop.now()
        said_at, connections = self._unreachable.get((target, why), (now - REPEAT_US, 0))
        connections += 1
        if now - said_at >= REPEAT_US:
            self._log.warning("target-unreachable", worker=self._worker, target=target, why=why,
                              connections=connections)
            said_at, connections = now, 0
        self._unreachable[target, why] = said_at, connections
        if len(self._unreachable) > MOST_REMEMBERED:
            self._unreachable.clear()

    def on_circle(self, key: int) -> None:
        self._log.error("circle", worker=self._worker, rule=self._say_rule(key),
                        why="what is sent to it comes back to this relay: connections are reset, datagrams dropped")

    def on_limited(self, key: int, source: str, count: int) -> None:
        self._log.warning("source-limited", worker=self._worker, rule=self._say_rule(key), source=source, refused=count)

    def on_crowded(self, key: int) -> None:
        self._note_crowded(key)

    def on_ended(self, key: int, account: Account) -> None:
        self._note(key, account)

    def on_target_down(self, key: int, target: str, error: int) -> None:
        self._log.warning("target-down", worker=self._worker, target=target, why=os.strerror(error))

    def on_target_up(self, key: int, target: str) -> None:
        self._log.info("target-up", worker=self._worker, target=target)
