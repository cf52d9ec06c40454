"""The relay in user space: the current rules, their listeners, names and keys, and the workers that do the relaying.

A reload goes in this order, so that it is all or nothing, and no caller is lost:

1. Every new listener is bound. If one cannot be, those bound so far are closed, the old rules stay: ListenError.
2. Workers get the new rules, then the changes of rules whose listener stays, then the names of those that go.
3. Listeners that go are closed, by now only here; existing connections are not touched.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError
from mproxy.ground.words import counted
from mproxy.policy.name_cache import NameCache
from mproxy.relay.access_log import AccessFile
from mproxy.relay.circles import find_circles, is_own_address, refuse_circles
from mproxy.relay.counters import Counters, add_up
from mproxy.relay.datapath import Datapath
from mproxy.relay.engines import UDP_SHARE
from mproxy.relay.rule_file import ListenError
from mproxy.relay.rule_health import RuleHealth
from mproxy.relay.rule_sockets import open_listener, take_given
from mproxy.relay.worker_channel import MOST_FDS
from mproxy.relay.worker_messages import pack_rule
from mproxy.relay.worker_pool import RUNNING, WorkerPool, WorkerPoolObserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import TypeVar

    from mproxy.ground.shapes import Address, ListenAddress, Logger
    from mproxy.io._loop import Loop
    from mproxy.relay.datapath import Facts
    from mproxy.relay.relay_config import RelayConfig
    from mproxy.relay.rule_sockets import RuleSockets
    from mproxy.relay.rules import Rule
    from mproxy.relay.worker_messages import Down, Report
    from mproxy.relay.worker_pool import WorkerProcess
    SentTarget = tuple[str, list[Address], int | None, list[int]]  # as in worker.py
    Given = dict[ListenAddress, list[socket.socket]]
    Value = TypeVar("Value")

# Descriptors of a process besides its listeners and connections: log, channels, loop, files.
OTHER_FDS = 64

# From one look whether the access log was moved away to the next.
ACCESS_LOOK_US = 1_000_000

# Addresses of a name that are used: as many as a Target holds.
MOST_ADDRESSES = 8

# Rules in one message to a worker: far below its limits of bytes and descriptors, even with 64 targets each.
RULES_A_MESSAGE = 20

# Most listeners, and names looked up, that the log names one by one.
LOGGED_ONE_BY_ONE = 200

# How long `status` waits for workers that do not answer.
REPORT_PATIENCE_US = 1_000_000

# How long a start or a reload waits for workers that do not answer: less than `reload` waits for us.
FOLLOW_PATIENCE_US = 10_000_000

# How long the start waits for the first answer to every name, so that the first caller finds a target.
NAMES_PATIENCE_US = 2_000_000
LOOK_US = 5_000


class ActiveRule:
    """A current rule: its key for the workers, and its listener."""

    __slots__ = ("key", "rule", "listener")

    def __init__(self, key: int, rule: Rule, listener: RuleSockets) -> None:
        self.key = key
        self.rule = rule
        self.listener = listener


class Supervisor(Datapath, WorkerPoolObserver):
    """config: `workers`, `max_connections`, `name` of the rule file for messages. `given`: see rule_sockets.take_given.
    `prepare()` is called first in each worker's process."""

    def __init__(self, config: RelayConfig, log: Logger, loop: Loop, given: Given | None = None,
                 prepare: Callable[[], object] = lambda: None) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._given = given or {}
        self._entries: dict[ListenAddress, ActiveRule] = {}
        self._by_key: dict[int, ActiveRule] = {}
        self._users: dict[str, set[int]] = {}   # keys of the rules that a host is a target of
        self._ports: set[tuple[str, int]] = set()  # (protocol, port) that rules listen on
        # By key: (host, address) that are left out, because they would lead back to this relay.
        self._circles: dict[int, set[tuple[str, str]]] = {}
        # By key of a removed rule: its protocol, and the workers whose last report on it is still to come.
        self._going: dict[int, tuple[str, set[int]]] = {}
        self._next_key = 1
        self._counters = Counters()
        self._down: dict[int, Down] = {}  # by worker
        self._health = RuleHealth(loop, log, self._addresses, self._send_targets)
        self._names = NameCache(loop, self._on_name_changed, self._on_name_failed)
        self._pool = WorkerPool(loop, log, self, config.workers, config.keeper, prepare)
        self._failed_names = 0
        self._access: AccessFile | None = None
        self._access_failed = False
        self._log_fd: int | None = None  # once it was reopened
        # By number: the workers that have not answered, and whom to call when all have.
        self._questions: dict[int, tuple[set[int], Callable[[], object]]] = {}
        self._next_question = 1
        self._on_ended: Callable[[], object] | None = None

    # ---- commands

    def start(self, rules: Sequence[Rule], on_ready: Callable[[], object],
              _on_failed: Callable[[MproxyError], object]) -> None:
        """Bind everything, fork the workers; `on_ready()` when all of them serve. ListenError if a listener fails."""
        refuse_circles(rules, self._config.origin)
        opened = self._open(rules, {})
        self.reopen_access()
        if self._access is not None:
            self._follow_access()
        self._take_over(rules, opened)
        for name, sockets in self._given.items():
            self._log.warning("socket-unused", why="no rule listens on it", address=":".join(map(str, name)))
            for sock in sockets:
                sock.close()
        self._given = {}
        self._log_capacity()
        self._pool.start(self._config.max_connections)
        self._await_ready(self._loop.now() + NAMES_PATIENCE_US, on_ready)

    def apply(self, rules: Sequence[Rule]) -> tuple[int, int, int]:
        refuse_circles(rules, self._config.origin)
        names = {rule.listener for rule in rules}
        gone = {name: entry for name, entry in self._entries.items() if name not in names}
        opened = self._open([rule for rule in rules if rule.listener not in self._entries], gone)
        changed = [rule for rule in rules
                   if rule.listener in self._entries and not rule.same(self._entries[rule.listener].rule)]
        added = self._take_over(rules, opened)
        for worker in self._pool.alive:
            self._send_rules(worker, added)
            for rule in changed:
                self._send_update(worker, self._entries[rule.listener])
        self._remove(gone)
        return len(added), len(changed), len(gone)

    def status(self, callback: Callable[[Facts], object]) -> None:
        """Ask the workers, then call `callback(facts)`: {"workers": [...], "rules": [...], "totals": {...}}."""
        self._ask(REPORT_PATIENCE_US, lambda: callback(self._facts()))

    def when_followed(self, callback: Callable[[], object]) -> None:
        self._ask(FOLLOW_PATIENCE_US, callback)

    def _ask(self, patience_us: int, callback: Callable[[], object]) -> None:
        """Call back when every worker has answered; by then it has done all that it was told before."""
        asked = {worker.number for worker in self._pool.alive if worker.state == RUNNING}
        number = self._next_question
        self._next_question += 1
        self._questions[number] = asked, callback
        self._pool.send("report", number)
        self._loop.call_later(patience_us, lambda: self._answered(number, None))
        self._answered(number, None if not asked else -1)

    def listening_fds(self) -> list[int]:
        return [sock.fileno() for entry in self._entries.values() for sock in entry.listener.sockets]

    def stop(self, patience_us: int, on_ended: Callable[[], object]) -> None:
        self._on_ended = on_ended
        self._names.close()
        self._health.close()
        self._entries = {}
        self._by_key = {}
        self._pool.drain(patience_us)

    def stop_at_once(self) -> None:
        """Kill all workers at once."""
        self._pool.kill()

    def reopen_access(self) -> None:
        if self._config.access_log:
            self._access = AccessFile(self._config.access_log)
            for worker in self._pool.alive:
                self._send_access(worker)

    def _send_access(self, worker: WorkerProcess) -> None:
        if self._access is not None:
            worker.send("access", fds=[self._access.fileno()], owner=self._access)

    def _follow_access(self) -> None:
        """Open the access log again when it was moved away."""
        if self._access is not None and self._access.was_moved():
            try:
                self.reopen_access()
            except MproxyError as error:
                if not self._access_failed:
                    self._log.error("access-log-failed", why=f"{error}; the previous file stays in use")
                self._access_failed = True
            else:
                self._access_failed = False
        self._loop.call_later(ACCESS_LOOK_US, self._follow_access)

    def reopen_log(self, fd: int) -> None:
        self._log_fd = fd
        for worker in self._pool.alive:
            worker.send("log", fds=[fd])

    # ---- listeners

    def _open(self, rules: Sequence[Rule], gone: dict[ListenAddress, ActiveRule]) -> dict[ListenAddress, RuleSockets]:
        """{rule.listener: RuleSockets} of new rules; all or none. `gone`: entries whose port may be taken over."""
        self._check_descriptors(rules)
        opened, wrong = {}, []
        leaving: dict[tuple[str, int], list[socket.socket]] = {}
        for (protocol, _, port), entry in gone.items():
            leaving.setdefault((protocol, port), []).extend(entry.listener.sockets)
        for rule in rules:
            try:
                opened[rule.listener] = open_listener(
                    rule, self._config.workers, take_given(rule, self._given),
                    leaving.get((rule.protocol, rule.listen_port), ()), self._config.wait_addresses)
            except MproxyError as error:
                wrong.append((rule.number, str(error)))
        if wrong:
            raise ListenError(self._config.origin, wrong)
        return opened

    def _check_descriptors(self, rules: Sequence[Rule]) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        have = sum(len(entry.listener.sockets) for entry in self._entries.values())
        need = have + sum(1 if rule.protocol == "tcp" else self._config.workers for rule in rules) + OTHER_FDS
        need += self._health.most_descriptors
        if need > limit:
            raise MproxyError(
                f"{counted(len(rules), 'rule')} would need {need} descriptors, but this process may have only {limit}:"
                " raise the limit (ulimit -Hn, LimitNOFILE=), or use fewer workers")

    def _log_capacity(self) -> None:
        """How many connections there can be: each takes two descriptors in its worker, and some are kept for UDP."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        mine = max((len(entry.listener.fds(0)) for entry in self._entries.values()), default=0)
        kept = limit // UDP_SHARE if any(entry.rule.protocol == "udp" for entry in self._entries.values()) else 0
        free = max(0, limit - OTHER_FDS - mine * len(self._entries) - kept)
        self._log.info("capacity", descriptors=limit, workers=self._config.workers, rules=len(self._entries),
                       connections=free // 2 * self._config.workers)

    def _take_over(self, rules: Iterable[Rule], opened: dict[ListenAddress, RuleSockets]) -> list[ActiveRule]:
        """Make `rules` the current ones, besides those that go; returns the new entries."""
        added = []
        for rule in rules:
            entry = self._entries.get(rule.listener)
            if entry is None:
                entry = ActiveRule(self._next_key, rule, opened[rule.listener])
                self._next_key += 1
                self._entries[rule.listener] = self._by_key[entry.key] = entry
                added.append(entry)
            entry.rule = rule
        self._log_listening("listening", added)
        if self._config.wait_addresses:
            self._log_missing(added)
        self._find_users()
        return added

    def _log_missing(self, entries: Iterable[ActiveRule]) -> None:
        for entry in entries:
            if entry.rule.listen_host and not is_own_address(entry.rule.listen_host):
                self._log.warning("address-missing", protocol=entry.rule.protocol, address=entry.rule.listen_host,
                                  port=entry.listener.port, why="served as soon as this host has the address")

    def _log_listening(self, event: str, entries: Sequence[ActiveRule]) -> None:
        """Log a line for each, or only how many there are."""
        if len(entries) > LOGGED_ONE_BY_ONE:
            self._log.info(event, rules=len(entries))
            return
        for entry in entries:
            self._log.info(event, protocol=entry.rule.protocol, address=entry.rule.listen_host or "*",
                           port=entry.listener.port, target=entry.rule.targets_text)

    def _remove(self, gone: dict[ListenAddress, ActiveRule]) -> None:
        keys = [entry.key for entry in gone.values()]
        alive = {worker.number for worker in self._pool.alive}
        for name, entry in gone.items():
            self._going[entry.key] = entry.rule.protocol, set(alive)
            del self._entries[name], self._by_key[entry.key]
        self._log_listening("closed", list(gone.values()))
        for start in range(0, len(keys), 1000):
            self._pool.send("remove", keys[start:start + 1000])
        self._find_users()

    # ---- names

    def _find_users(self) -> None:
        self._users = {}
        for entry in self._entries.values():
            for host, _ in entry.rule.targets:
                self._users.setdefault(host, set()).add(entry.key)
        self._ports = {(entry.rule.protocol, entry.rule.listen_port) for entry in self._entries.values()}
        self._names.want(self._users)
        changed = self._look_for_circles()
        self._health.follow({key: entry.rule for key, entry in self._by_key.items()})
        self._send_targets(changed)

    def _addresses(self, key: int, host: str, port: int) -> list[Address]:
        """The addresses of a rule's target that the workers may use."""
        left_out = self._circles.get(key, ())
        return [address for address in self._names.addresses(host, port)
                if (host, address[1][0]) not in left_out][:MOST_ADDRESSES]

    def _targets(self, entry: ActiveRule) -> list[SentTarget]:
        weights = entry.rule.options.weights or (None,) * len(entry.rule.targets)
        return [self._target(entry, host, port, weight)
                for (host, port), weight in zip(entry.rule.targets, weights, strict=True)]

    def _target(self, entry: ActiveRule, host: str, port: int, weight: int | None) -> SentTarget:
        addresses = self._addresses(entry.key, host, port)
        return format_host_port(host, port), addresses, weight, self._health.failing(entry.rule, addresses)

    def _look_for_circles(self) -> list[int]:
        """Find addresses of names that lead back to this relay; returns the keys of rules where that has changed."""
        found: dict[int, set[tuple[str, str]]] = {}
        for step in find_circles([entry.rule for entry in self._entries.values()], self._known, is_own_address):
            found.setdefault(self._entries[step.rule.listener].key, set()).add((step.host, step.address))
        former, self._circles = self._circles, found
        changed = [key for key in former.keys() | found.keys()
                   if key in self._by_key and former.get(key) != found.get(key)]
        for key in changed:
            for host, address in sorted(found.get(key, set()) - former.get(key, set())):
                self._log.warning("circle", rule=self._by_key[key].rule, name=host, address=address,
                                  why="leads back to this relay: the address is not used")
        return changed

    def _known(self, host: str) -> list[str]:
        return [address for _, (address, *_) in self._names.addresses(host, 0)]

    def _may_circle(self, key: int) -> bool:
        """Whether a rule leads to a port that a rule listens on: rarely, and looking closer takes time."""
        rule = self._by_key[key].rule
        return any((rule.protocol, port) in self._ports for _, port in rule.targets)

    def _on_name_changed(self, host: str) -> None:
        keys = set(self._users.get(host, ()))
        if any(map(self._may_circle, keys)):
            keys.update(self._look_for_circles())
        self._health.addresses_changed()
        addresses = ", ".join(address for _, (address, *_) in self._names.addresses(host, 0))
        level = self._log.info if len(self._users) <= LOGGED_ONE_BY_ONE else self._log.debug
        level("resolved", name=host, addresses=addresses, rules=len(keys))
        self._send_targets(sorted(keys))

    def _send_targets(self, keys: Sequence[int]) -> None:
        for start in range(0, len(keys), RULES_A_MESSAGE):
            self._pool.send("targets", [(key, self._targets(self._by_key[key]))
                                        for key in keys[start:start + RULES_A_MESSAGE]])

    def _on_name_failed(self, host: str, why: str) -> None:
        self._failed_names += 1
        if self._failed_names <= LOGGED_ONE_BY_ONE:
            self._log.warning("not-resolved", name=host, why=why)
        elif self._failed_names == LOGGED_ONE_BY_ONE + 1:
            self._log.warning("not-resolved", name="and more", why="'mproxy relay status' lists them all")

    # ---- workers

    def on_started(self, worker: WorkerProcess) -> None:
        """Tell the new process everything: the one before may have died without hearing it."""
        if self._log_fd is not None:
            worker.send("log", fds=[self._log_fd])
        self._send_access(worker)
        self._send_rules(worker, list(self._entries.values()))

    def _send_rules(self, worker: WorkerProcess, entries: Iterable[ActiveRule]) -> None:
        batch: list[tuple[ActiveRule, int]] = []
        fds: list[int] = []
        for entry in entries:
            mine = entry.listener.fds(worker.number)
            if batch and (len(batch) == RULES_A_MESSAGE or len(fds) + len(mine) > MOST_FDS):
                self._send_batch(worker, batch, fds)
                batch, fds = [], []
            batch.append((entry, len(mine)))
            fds += mine
        if batch:
            self._send_batch(worker, batch, fds)

    def _send_batch(self, worker: WorkerProcess, batch: list[tuple[ActiveRule, int]], fds: list[int]) -> None:
        entries = [(entry.key, pack_rule(self._share(entry.rule, worker)), self._targets(entry), count)
                   for entry, count in batch]
        worker.send("add", entries, fds=fds, owner=[entry.listener for entry, _ in batch])

    def _send_update(self, worker: WorkerProcess, entry: ActiveRule) -> None:
        worker.send("update", entry.key, pack_rule(self._share(entry.rule, worker)))
        worker.send("targets", [(entry.key, self._targets(entry))])

    def _share(self, rule: Rule, worker: WorkerProcess) -> Rule:
        """The rule with that worker's part of `per-source=` for UDP; other limits hold for all workers together."""
        if rule.protocol == "tcp":
            return rule
        options = rule.options.share(worker.number, self._config.workers)
        return rule if options is rule.options else replace(rule, options=options)

    def on_message(self, worker: WorkerProcess, message: Report) -> None:
        if message[0] == "counters":
            _, number, changed, worker.connections, worker.flows = message
            self._counters.told(worker.number, self._of_rules(changed))
            if number:
                self._answered(number, worker.number)
        elif message[0] == "down":
            self._down.setdefault(worker.number, {}).update(self._of_rules(message[1]))
        elif message[0] == "removed":
            self._counters.told(worker.number, self._of_rules(message[1]))
            self._last_word(worker, message[1])
        elif message[0] == "crowded":
            for other in self._pool.alive:
                for key in message[1] if other is not worker else ():
                    other.send("shrink", key)

    def _of_rules(self, changed: dict[int, Value]) -> dict[int, Value]:
        """The reports that are about existing rules."""
        return {key: values for key, values in changed.items() if key in self._by_key or key in self._going}

    def on_died(self, worker: WorkerProcess) -> None:
        """Its counts are kept, and nobody waits for its answers any more."""
        self._counters.worker_gone(worker.number)
        self._down.pop(worker.number, None)
        self._last_word(worker, list(self._going))
        for number in list(self._questions):
            self._answered(number, worker.number)

    def _last_word(self, worker: WorkerProcess, keys: Iterable[int]) -> None:
        """That worker will report no more on these rules."""
        for key in keys:
            if key not in self._going:
                continue
            protocol, workers = self._going[key]
            workers.discard(worker.number)
            if not workers:
                del self._going[key]
                self._counters.retire(key, protocol)
                for down in self._down.values():
                    down.pop(key, None)

    def on_all_ended(self) -> None:
        if self._on_ended:
            self._on_ended()

    def _await_ready(self, patience_until: int, on_ready: Callable[[], object]) -> None:
        late = self._loop.now() >= patience_until
        if all(worker.state == RUNNING for worker in self._pool.workers) and (late or not self._names.waiting):
            self.when_followed(on_ready)
        else:
            self._loop.call_later(LOOK_US, lambda: self._await_ready(patience_until, on_ready))

    # ---- status

    def _answered(self, number: int, worker: int | None) -> None:
        """Worker number `worker` has answered question `number`; None: the time is up."""
        if number not in self._questions:
            return
        asked, callback = self._questions[number]
        if worker is not None:
            asked.discard(worker)
        if worker is None or not asked:
            del self._questions[number]
            callback()

    def _facts(self) -> Facts:
        rules = [self._rule_facts(entry) for entry in self._entries.values()]
        totals = {protocol: add_up([self._counters.retired(protocol),
                                    *(facts["counters"] for facts in rules if facts["protocol"] == protocol)])
                  for protocol in ("tcp", "udp")}
        workers = self._pool.workers
        totals["tcp"]["connections"] = sum(worker.connections for worker in workers)
        totals["udp"]["sessions"] = sum(worker.flows for worker in workers)
        return {"workers": [self._worker_facts(worker) for worker in workers], "rules": rules, "totals": totals,
                **self._health.totals(), "unresolved": self._names.unresolved(), "circles": self._circle_facts()}

    def _circle_facts(self) -> dict[str, list[str]]:
        """{rule: addresses that are left out}, as text."""
        return {str(self._by_key[key].rule): sorted(address for _, address in left_out)
                for key, left_out in self._circles.items()}

    def _rule_facts(self, entry: ActiveRule) -> Facts:
        rule = entry.rule
        return {"line": rule.number, "protocol": rule.protocol, "address": rule.listen_host,
                "port": entry.listener.port,
                "targets": [format_host_port(host, port) for host, port in rule.targets],
                **self._health.facts(entry.key), "down": self._down_facts(entry.key),
                "counters": self._counters.of_rule(entry.key, rule.protocol)}

    def _down_facts(self, key: int) -> dict[str, str]:
        """{HOST:PORT: why} of the addresses that any worker leaves out."""
        found = {text: os.strerror(error) for down in self._down.values() for text, error in down.get(key, ())}
        return found | self._health.down(key)

    def _worker_facts(self, worker: WorkerProcess) -> Facts:
        uptime_us = self._loop.now() - worker.started_at if worker.pid else 0
        return {"worker": worker.number, "pid": worker.pid, "state": worker.state, "deaths": worker.deaths,
                "uptime_s": uptime_us // 1_000_000, "connections": worker.connections, "sessions": worker.flows,
                "counters": self._counters.of_worker(worker.number)}
