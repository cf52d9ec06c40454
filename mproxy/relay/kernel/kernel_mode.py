"""Kernel mode: the rules as an nftables table, so that packets never enter user space.

This process installs the table, follows names, answers `status`, and undoes everything at its end. There is one such
process for a network namespace, as there is one table (`namespace_lock`). A killed run leaves table and settings
behind: traffic goes on, and the next start takes both over, or in user mode takes them back.

If a rule asks for what the kernel cannot do, it is refused by name before anything is touched: `refuse_impossible`.

Table and settings belong together: without the table's guards the settings would make the host a router for everybody.
So both are watched. What another program removes is put back. If that fails the settings are restored to what they were
before, the state is `broken`, and it is tried again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.policy.name_cache import NameCache
from mproxy.policy.resolver import numeric_address
from mproxy.relay.circles import is_own_address
from mproxy.relay.counters import NAMES, add_up
from mproxy.relay.datapath import Datapath
from mproxy.relay.kernel import conntrack, nft
from mproxy.relay.kernel.kernel_settings import FORWARD4, FORWARD6, ROUTE_LOCALNET, KernelSettings
from mproxy.relay.kernel.namespace_lock import take_lock
from mproxy.relay.kernel.table_watch import TableWatch
from mproxy.relay.rule_file import ListenError, RulesError
from mproxy.relay.rule_sockets import check_free

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import ListenAddress, Logger
    from mproxy.io._loop import Loop, Timer
    from mproxy.relay.counters import Values
    from mproxy.relay.datapath import Facts
    from mproxy.relay.relay_config import RelayConfig
    from mproxy.relay.rules import Rule
    Living = dict[tuple[str, int, tuple[str, int]], int]  # connections now, by protocol, listening port, target

# Options that nftables can carry out. All others need a process that sees the bytes, or counts connections.
POSSIBLE = {"allow", "deny", "name"}

# How long the start waits for names. A rule whose name is not known yet is left out until it is.
NAMES_PATIENCE_US = 5_000_000
LOOK_US = 20_000

# News of names is gathered for this long, then the table is replaced once.
GATHER_US = 500_000

# While draining: between two looks at the kernel's table of connections.
DRAIN_LOOK_US = 200_000

# Between two looks at the settings, and between two attempts to mend what is broken.
SETTINGS_LOOK_US = 2_000_000

V4, V6 = socket.AF_INET, socket.AF_INET6


def refuse_impossible(rules: Iterable[Rule], name: str) -> None:
    """RulesError that names every rule, and what in it the kernel cannot do."""
    wrong: dict[int, str] = {}
    for rule in rules:
        reason = _impossible(rule)
        if reason is not None:
            wrong.setdefault(rule.number, f"{reason}; change the rule, or leave out --kernel")
    if wrong:
        raise RulesError(name, sorted(wrong.items()))


def _impossible(rule: Rule) -> str | None:
    options = [name for name in (word.partition("=")[0] for word in rule.options.given) if name not in POSSIBLE]
    if options:
        return f"--kernel does not support {', '.join(options)}"
    if len(rule.targets) > 1:
        return f"--kernel does not support several targets ({len(rule.targets)})"
    if rule.listen_port == 0:
        return "--kernel does not support port 0"
    host = rule.targets[0][0]
    if "::1" in (host, rule.listen_host):
        return "--kernel does not support ::1: the kernel keeps IPv6 loopback addresses on their interface"
    if "%" in rule.listen_host or "%" in host:
        return "--kernel does not support addresses with a scope (%)"
    numeric = numeric_address(host, 0)
    if numeric is None:
        return None
    if rule.listen_host and (":" in rule.listen_host) != (":" in host):
        return "--kernel cannot translate between IPv4 and IPv6"
    return None


class Kernel(Datapath):
    """The table and what belongs to it."""

    _settings: KernelSettings  # set once we have the lock

    def __init__(self, config: RelayConfig, log: Logger, loop: Loop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._names = NameCache(loop, self._on_name_changed, self._on_name_failed)
        self._rules: Sequence[Rule] = []
        self._redirects: list[nft.Redirect] = []      # as installed
        self._before: dict[ListenAddress, Values] = {}         # rule.listener -> counts of former tables
        self._retired: dict[str, Values] = {}        # protocol -> counts of rules that are gone
        self._installed = False
        self._lock: int | None = None
        self._draining = False
        self._install_timer: Timer | None = None
        self._watch: TableWatch | None = None        # of the table
        self._broken: str | None = None       # why nothing is forwarded at the moment
        self._last_counters: nft.Counts = {}  # as last read: what came since is lost when somebody removes the table

    # ---- commands

    def start(self, rules: Sequence[Rule], on_ready: Callable[[], object],
              on_failed: Callable[[MproxyError], object]) -> None:
        """Install the table when the names are known."""
        refuse_impossible(rules, self._config.origin)
        if os.geteuid() != 0:
            raise UsageError("--kernel needs root: it changes nftables and settings of the kernel")
        nft.find_program()
        self._take_lock()
        self._check_ports(rules)
        self._rules = rules
        self._names.want(host for rule in rules for host, _ in rule.targets)
        self._await_names(self._loop.now() + NAMES_PATIENCE_US, on_ready, on_failed)

    def apply(self, rules: Sequence[Rule]) -> tuple[int, int, int]:
        refuse_impossible(rules, self._config.origin)
        former = {rule.listener: rule for rule in self._rules}
        added = [rule for rule in rules if rule.listener not in former]
        changed = [rule for rule in rules if rule.listener in former and not rule.same(former[rule.listener])]
        removed = former.keys() - {rule.listener for rule in rules}
        self._check_ports(added)
        before, self._rules = self._rules, rules
        hosts = {host for rule in rules for host, _ in rule.targets}
        try:
            self._names.want(hosts | {host for rule in before for host, _ in rule.targets})
            self._install()
        except MproxyError:
            self._rules = before
            raise
        self._names.want(hosts)
        return len(added), len(changed), len(removed)

    def when_followed(self, callback: Callable[[], object]) -> None:
        """At once: the kernel already follows the rules."""
        callback()

    def status(self, callback: Callable[[Facts], object]) -> None:
        counters = self._read_counters()
        now = self._living()
        rules = [self._rule_facts(redirect, counters, now) for redirect in self._redirects]
        totals = {}
        for protocol in ("tcp", "udp"):
            totals[protocol] = add_up([
                dict.fromkeys(NAMES[protocol], 0), self._retired.get(protocol, {}),
                *(facts["counters"] for facts in rules if facts["protocol"] == protocol)])
        facts = {"workers": [], "rules": rules, "totals": totals, "unresolved": self._names.unresolved()}
        callback(facts | ({"state": "broken", "broken": self._broken} if self._broken else {}))

    def listening_fds(self) -> list[int]:
        """There are none: the kernel itself listens."""
        return []

    def stop(self, patience_us: int, on_ended: Callable[[], object]) -> None:
        """Forward no new connection, wait for the existing ones, then undo everything."""
        if not self._installed:
            self._remove()
            on_ended()
            return
        self._names.close()
        self._draining = True
        self._watch_no_more()
        try:
            nft.run(nft.make_table([], self._guarded()))
        except MproxyError as error:
            self._log.error("table-left", why=error)
        self._look(self._loop.now() + patience_us, on_ended)

    def stop_at_once(self) -> None:
        """Remove the table and restore the settings."""
        self._remove()

    def reopen_log(self, _fd: int) -> None:
        """Nothing to do: kernel mode has no workers."""

    # ---- start

    def _take_lock(self) -> None:
        """One table, one process."""
        taken = take_lock()
        if taken is None:
            raise MproxyError("another mproxy relay --kernel is running on this host: put its rules and these into one"
                              " file")
        self._lock, memory = taken
        self._settings = KernelSettings(memory)

    def _check_ports(self, rules: Iterable[Rule]) -> None:
        """UsageError if a program listens on a rule's port: in kernel mode it would never get another connection."""
        wrong = []
        for rule in rules:
            try:
                check_free(rule, self._config.wait_addresses)
            except MproxyError as error:
                wrong.append((rule.number, str(error)))
        if wrong:
            raise ListenError(self._config.origin, wrong)

    def _await_names(self, patience_until: int, on_ready: Callable[[], object],
                     on_failed: Callable[[MproxyError], object]) -> None:
        if self._names.waiting and self._loop.now() < patience_until:
            self._loop.call_later(LOOK_US, lambda: self._await_names(patience_until, on_ready, on_failed))
            return
        try:
            self._refuse_several()
            self._watch = TableWatch(self._loop, self._on_table_changed)
            self._install()
        except MproxyError as error:
            self._remove()
            on_failed(error)
            return
        self._warn_of_firewalls()
        self._loop.call_later(SETTINGS_LOOK_US, self._look_at_settings)
        on_ready()

    def _refuse_several(self) -> None:
        """Refuse names with several addresses of one family: the kernel cannot choose between them."""
        wrong = []
        for rule in self._rules:
            host = rule.targets[0][0]
            several = [address for address in self._by_family(host).values() if len(address) > 1]
            if several:
                wrong.append((rule.number, f"--kernel cannot choose between the addresses of {host}:"
                                           f" {', '.join(several[0])}; use one of them, or leave out --kernel"))
        if wrong:
            raise RulesError(self._config.origin, wrong)

    def _by_family(self, host: str) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for family, address in self._names.addresses(host, 0):
            found.setdefault(family, []).append(address[0])
        return found

    # ---- the table

    def _make_redirects(self) -> list[nft.Redirect]:
        redirects = []
        for rule in self._rules:
            addresses = self._by_family(rule.targets[0][0])
            four, six = (addresses.get(family, [None])[0] for family in (V4, V6))
            redirects.append(nft.Redirect(rule, four, six))
        return redirects

    def _install(self, is_lost: bool = False) -> None:
        """Replace the table by one for the present rules. MproxyError: the former one stays. `is_lost`: somebody
        removed it, or a part of it."""
        assert self._watch is not None
        redirects = self._make_redirects()
        self._make_settings(redirects)
        self._settings.remember()
        counters = self._read_counters() if self._installed and not is_lost else self._last_counters
        with self._watch.own_change():
            nft.run(nft.make_table(redirects, self._guarded()))
        self._last_counters = {}
        former, self._redirects, self._installed = self._redirects, redirects, True
        self._keep_counts(former, counters)
        self._end_flows(former, redirects)

    def _guarded(self) -> list[int]:
        return [family for family, name in ((4, FORWARD4), (6, FORWARD6)) if self._settings.was_off(name)]

    def _make_settings(self, redirects: Iterable[nft.Redirect]) -> None:
        for name in _needed(redirects):
            if self._settings.need(name):
                self._log.info("setting-changed", name=name.replace("/", "."), value=1)

    def _remove(self) -> None:
        """Give up table, settings and lock, as if we had never been there."""
        if self._lock is None:
            return
        self._watch_no_more()
        try:
            nft.run(nft.remove_table())
        except MproxyError as error:
            self._log.error("table-left", why=error)
        for what in self._settings.restore():
            self._log.warning("setting-left", what=what)
        os.close(self._lock)
        self._lock = None
        self._installed = False

    # ---- what others do to it

    def _on_table_changed(self) -> None:
        if self._installed and not self._draining:
            self._mend("table-restored", why="another program changed or removed the table")

    def _look_at_settings(self) -> None:
        if self._draining or self._lock is None:
            return
        self._loop.call_later(SETTINGS_LOOK_US, self._look_at_settings)
        if self._broken:
            self._mend("repaired", why=self._broken)
            return
        lost = [what for name in _needed(self._redirects) for what in self._settings.switched_off(name)]
        if lost:
            self._mend("setting-restored", name=", ".join(name.replace("/", ".") for name in lost),
                       why="another program switched it off")

    def _mend(self, event: str, **fields: object) -> None:
        """Put everything back. If that fails, leave no setting that only the table makes harmless."""
        try:
            self._install(is_lost=True)
        except MproxyError as error:
            was_broken, self._broken = self._broken is not None, str(error)
            if not was_broken:
                left = self._settings.restore()  # first: until then the host is a router for everybody
                self._log.error("broken", why=error)
                for what in left:
                    self._log.warning("setting-left", what=what)
            return
        self._broken = None
        self._log.warning(event, **fields)

    def _watch_no_more(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _warn_of_firewalls(self) -> None:
        """Warn when another program's chain drops forwarded packets, which our table cannot override."""
        try:
            chains = nft.dropping_chains()
        except MproxyError:
            return  # reported already, or a firewall that nft cannot read
        for chain in chains:
            self._log.warning("forward-drops", chain=chain, why=(
                "connections to other hosts will not pass it: make it accept 'ct status dnat', with docker by"
                " 'iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT'"))

    # ---- connections of the kernel

    def _flows(self) -> list[conntrack.TrackedFlow]:
        try:
            return list(conntrack.flows())
        except OSError as error:
            self._log.warning("connections-unknown", why=error.strerror)
            return []

    def _living(self) -> Living:
        found: Living = {}
        for flow in self._flows():
            if flow.redirected and flow.living:
                key = flow.protocol, flow.listener[1], flow.target
                found[key] = found.get(key, 0) + 1
        return found

    def _end_flows(self, former: Iterable[nft.Redirect], now: Iterable[nft.Redirect]) -> None:
        """UDP flows do not end by themselves: have the kernel forget those that no present rule would forward so."""
        def leads(redirects: Iterable[nft.Redirect]) -> set[tuple[int, tuple[str, int]]]:
            return {(redirect.rule.listen_port, (target, redirect.port)) for redirect in redirects
                    if redirect.rule.protocol == "udp" for _, target in redirect.families()}
        old, new = leads(former), leads(now)
        ports = {port for port, _ in new}
        some = [flow for flow in self._flows() if flow.protocol == "udp" and (
            (flow.listener[1], flow.target) in old - new if flow.redirected
            else flow.listener[1] in ports and flow.listener == flow.target and is_own_address(flow.listener[0]))]
        count = conntrack.delete(some) if some else 0
        if count:
            self._log.info("flows-ended", count=count)

    # ---- the end

    def _look(self, until: int, on_ended: Callable[[], object]) -> None:
        """Check while draining whether all connections have ended."""
        ours = {(redirect.rule.protocol, redirect.rule.listen_port, (target, redirect.port))
                for redirect in self._redirects for _, target in redirect.families()}
        left = sum(count for key, count in self._living().items() if key[0] == "tcp" and key in ours)
        if left and self._loop.now() < until:
            self._loop.call_later(DRAIN_LOOK_US, lambda: self._look(until, on_ended))
            return
        if left:
            self._log.warning("connections-cut", connections=left)
        self._end_flows(self._redirects, [])
        self._remove()
        on_ended()

    # ---- names

    def _on_name_changed(self, host: str) -> None:
        addresses = self._by_family(host)
        self._log.info("resolved", name=host, addresses=", ".join(sorted(set().union(*addresses.values()))))
        if any(len(some) > 1 for some in addresses.values()):
            self._log.warning("several-addresses", name=host, why="the kernel uses the first")
        if self._installed and self._install_timer is None:
            self._install_timer = self._loop.call_later(GATHER_US, self._follow_names)

    def _follow_names(self) -> None:
        self._install_timer = None
        if self._draining or not self._installed:
            return
        try:
            self._install()
        except MproxyError as error:
            self._log.error("table-kept", why=error)

    def _on_name_failed(self, host: str, why: str) -> None:
        self._log.warning("not-resolved", name=host, why=why)

    # ---- counters

    def _read_counters(self) -> nft.Counts:
        try:
            self._last_counters = nft.read_counters()
            return self._last_counters
        except MproxyError as error:
            self._log.warning("counters-unknown", why=error)
            return {}

    def _counts(self, redirect: nft.Redirect, counters: nft.Counts) -> Values:
        """{name: value} since the rule began."""
        total, packets_in, bytes_in, packets_out, bytes_out = nft.count(counters, redirect)
        values = {"total": total, "bytes_in": bytes_in, "bytes_out": bytes_out}
        if redirect.rule.protocol == "udp":
            values |= {"packets_in": packets_in, "packets_out": packets_out}
        return add_up([values, self._before.get(redirect.rule.listener, {})])

    def _keep_counts(self, former: Iterable[nft.Redirect], counters: nft.Counts) -> None:
        """A new table counts from 0: keep what the former one had counted."""
        kept = {redirect.rule.listener for redirect in self._redirects}
        for redirect in former:
            counts = self._counts(redirect, counters)
            if redirect.rule.listener in kept:
                self._before[redirect.rule.listener] = counts
            else:
                self._before.pop(redirect.rule.listener, None)
                protocol = redirect.rule.protocol
                self._retired[protocol] = add_up([self._retired.get(protocol, {}), counts])

    def _rule_facts(self, redirect: nft.Redirect, counters: nft.Counts, living: Living) -> Facts:
        rule = redirect.rule
        now = sum(living.get((rule.protocol, rule.listen_port, (target, redirect.port)), 0)
                  for _, target in redirect.families())
        gauge = "connections" if rule.protocol == "tcp" else "sessions"
        values = add_up([dict.fromkeys(NAMES[rule.protocol], 0), self._counts(redirect, counters), {gauge: now}])
        return {"line": rule.number, "protocol": rule.protocol, "address": rule.listen_host, "port": rule.listen_port,
                "targets": [format_host_port(host, port) for host, port in rule.targets], "counters": values}


def _needed(redirects: Iterable[nft.Redirect]) -> list[str]:
    """KernelSettings that these need."""
    families = {family for redirect in redirects for family, _ in redirect.families()}
    needed = [(4, ROUTE_LOCALNET), (4, FORWARD4), (6, FORWARD6)]
    return [name for family, name in needed if family in families]
