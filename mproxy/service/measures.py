"""What `mproxy metrics` counts: metrics by Prometheus' conventions, from what programs say of themselves.

Every metric has the labels of `GROUP`; all programs with the same ones are added up, and so are all sessions of a
program: a server with ten thousand sessions has as many series as one with a single session. Counters never fall while
a group lives: a program's own sums cover what is over, and `Ledger` keeps those of programs that have ended.
"""

from __future__ import annotations

import math
import os
import statistics

from mproxy.ground.words import escaped
from mproxy.service.control import MALFORMED
from mproxy.service.owners import children_of, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mproxy.service.survey import Facts, Surveyed

    Group = tuple[str, str, str]         # values of the labels in GROUP
    Series = tuple[str, tuple[str, ...]]  # metric, values of its own labels
    Sample = tuple[str, tuple[str, ...], float]
    Values = dict[Series, float]
    Process = tuple[int, float]  # its number, and when it started: numbers come again

GROUP = ("user", "program", "name")
GAUGE, COUNTER = "gauge", "counter"

# Characters of a label's value: a name is whatever a user likes.
LONGEST_VALUE = 120

PROGRAM_STATES = ("running", "stopping", "broken", "silent")
SESSION_STATES = ("connecting", "connected", "away")
PROTOCOLS = ("tcp", "udp")
CARRIER_KINDS = ("tcp", "datagram", "command")


class Metric:
    """`labels` are those beside GROUP."""

    __slots__ = ("kind", "labels", "name", "text")

    def __init__(self, name: str, kind: str, labels: tuple[str, ...], text: str) -> None:
        self.name = name
        self.kind = kind
        self.labels = labels
        self.text = text


METRICS = {metric.name: metric for metric in (
    Metric("mproxy_up", GAUGE, (), "1 when all programs of that name have answered, 0 when one has not."),
    Metric("mproxy_processes", GAUGE, ("state",), "Programs of that name; silent: it does not answer."),
    Metric("mproxy_info", GAUGE, ("version",), "1, with the version of mproxy."),
    Metric("mproxy_start_time_seconds", GAUGE, (), "When the newest of them started, in seconds since 1970."),
    Metric("mproxy_resident_memory_bytes", GAUGE, (), "Memory in use, workers included."),
    Metric("mproxy_cpu_seconds_total", COUNTER, (), "CPU time spent, workers included."),
    Metric("mproxy_open_fds", GAUGE, (), "Open descriptors of the main process; as root alone."),
    Metric("mproxy_max_fds", GAUGE, (), "The limit of open descriptors, the least of all."),
    Metric("mproxy_worker_deaths_total", COUNTER, (), "Workers of cproxy and sproxy that have died and were replaced."),
    Metric("mproxy_upgrades_total", COUNTER, (), "How often another build has taken over from a cproxy or sproxy."),

    Metric("mproxy_sessions", GAUGE, ("state",), "Sessions now."),
    Metric("mproxy_sessions_begun_total", COUNTER, (), "Sessions begun."),
    Metric("mproxy_session_bytes_total", COUNTER, ("direction",), "Bytes of applications carried."),
    Metric("mproxy_session_resent_bytes_total", COUNTER, (), "Bytes carried once more, after outages."),
    Metric("mproxy_session_outages_total", COUNTER, (), "Outages, those that last included."),
    Metric("mproxy_session_outage_seconds_total", COUNTER, (), "How long they lasted together."),
    Metric("mproxy_session_away_seconds", GAUGE, (), "The longest outage that lasts now; 0: none does."),
    Metric("mproxy_session_silence_seconds", GAUGE, (),
           "Time since the last byte, of the connected session that was heard least recently."),
    Metric("mproxy_session_round_trip_seconds", GAUGE, ("of",), "Round trip: of the median session, and the longest."),
    Metric("mproxy_session_unacknowledged_bytes", GAUGE, (), "Held until the other side has them."),
    Metric("mproxy_session_undelivered_bytes", GAUGE, (), "Held until applications take them."),
    Metric("mproxy_session_memory_bytes", GAUGE, (), "Memory of sessions, their buffers included."),
    Metric("mproxy_streams", GAUGE, (), "Open streams, one for each connection of an application."),
    Metric("mproxy_streams_opened_total", COUNTER, (), "Streams opened."),
    Metric("mproxy_session_carriers", GAUGE, ("kind",), "Sessions that have a carrier; datagram: over UDP."),
    Metric("mproxy_session_flows", GAUGE, (), "Flows of datagrams (cproxy --udp)."),

    Metric("mproxy_transfers", GAUGE, (), "Senders connected to recv, or 1 while send is sending."),
    Metric("mproxy_transfers_begun_total", COUNTER, (), "Transfers begun."),
    Metric("mproxy_transfer_bytes_total", COUNTER, ("kind",), "Bytes of files: moved over the path, kept from before."),
    Metric("mproxy_transfer_left_seconds", GAUGE, (), "Time that the longest transfer will still take, if known."),

    Metric("mproxy_relay_rules", GAUGE, ("protocol",), "Rules in force."),
    Metric("mproxy_relay_workers", GAUGE, (), "Workers that are serving."),
    Metric("mproxy_relay_worker_deaths_total", COUNTER, (), "Workers that have died and were replaced."),
    Metric("mproxy_relay_connections", GAUGE, ("protocol",), "Connections (UDP: flows) now."),
    Metric("mproxy_relay_opened_total", COUNTER, ("protocol",), "Connections (UDP: flows) that came."),
    Metric("mproxy_relay_refused_total", COUNTER, ("protocol",), "Turned away: deny, max, no usable target."),
    Metric("mproxy_relay_limited_total", COUNTER, ("protocol",), "Turned away: their source came too often."),
    Metric("mproxy_relay_failed_total", COUNTER, ("protocol",), "The server could not be reached, or it broke."),
    Metric("mproxy_relay_timed_out_total", COUNTER, ("protocol",), "Connections that were silent for too long."),
    Metric("mproxy_relay_evicted_total", COUNTER, ("protocol",), "Flows that made room for others."),
    Metric("mproxy_relay_expired_total", COUNTER, ("protocol",), "Flows that were silent for too long."),
    Metric("mproxy_relay_errors_total", COUNTER, ("protocol",), "Datagrams that could not be passed on."),
    Metric("mproxy_relay_dropped_packets_total", COUNTER, ("protocol",), "Dropped by the kernel for want of room."),
    Metric("mproxy_relay_bytes_total", COUNTER, ("protocol", "direction"), "Bytes: in from clients, out to them."),
    Metric("mproxy_relay_packets_total", COUNTER, ("protocol", "direction"), "Datagrams, likewise."),
    Metric("mproxy_relay_targets_down", GAUGE, (), "Addresses of targets that are left out now."),
    Metric("mproxy_relay_targets_checked", GAUGE, ("state",), "Addresses with a health check: up or down."),
    Metric("mproxy_relay_checks_total", COUNTER, (), "Health checks that came to an end."),
    Metric("mproxy_relay_check_failures_total", COUNTER, (), "Health checks that failed."),
    Metric("mproxy_relay_unresolved_names", GAUGE, (), "Names of targets without an address."),
    Metric("mproxy_relay_reloads_total", COUNTER, (), "Rules read again and taken over."),
    Metric("mproxy_relay_last_reload_failed", GAUGE, (), "1 when the last reload failed, and the old rules stay."),
)}


# ---- one program's counters

def count(facts: Facts) -> Iterator[Sample]:
    """What a program has done since its start. Whatever is wrong with `facts` raises one of MALFORMED."""
    program = facts["program"]
    if program == "relay":
        yield from _count_relay(facts)
    elif program in ("recv", "send"):
        yield from _count_transfers(facts)
    else:
        yield from _count_sessions(facts)


def _count_sessions(facts: Facts) -> Iterator[Sample]:
    ended = facts["ended"]
    every = [ended, *facts["sessions"]]
    for name, fact in (("mproxy_worker_deaths_total", "deaths"), ("mproxy_upgrades_total", "upgrades")):
        if fact in facts:  # else there is no keeper
            yield name, (), facts[fact]
    yield "mproxy_sessions_begun_total", (), ended["sessions"] + sum(bool(s["session"]) for s in facts["sessions"])
    for direction in ("sent", "received"):
        yield "mproxy_session_bytes_total", (direction,), sum(each[f"{direction}_bytes"] for each in every)
    yield "mproxy_session_resent_bytes_total", (), sum(each["resent_bytes"] for each in every)
    yield "mproxy_session_outages_total", (), sum(each["outages"]["count"] for each in every)
    yield "mproxy_session_outage_seconds_total", (), sum(each["outages"]["total_s"] for each in every)
    yield "mproxy_streams_opened_total", (), sum(each["streams_ever"] for each in every)


def _count_transfers(facts: Facts) -> Iterator[Sample]:
    ended = facts.get("ended", {})
    yield "mproxy_transfers_begun_total", (), ended.get("transfers", 0) + len(facts["transfers"])
    for kind in ("moved", "kept"):
        moved = sum(each[f"{kind}_bytes"] for each in facts["transfers"])
        yield "mproxy_transfer_bytes_total", (kind,), ended.get(f"{kind}_bytes", 0) + moved


def _count_relay(facts: Facts) -> Iterator[Sample]:
    yield "mproxy_relay_reloads_total", (), facts["reloads"]
    yield "mproxy_relay_worker_deaths_total", (), sum(worker["deaths"] for worker in facts["workers"])
    if "checks" in facts:
        yield "mproxy_relay_checks_total", (), facts["checks"]["asked"]
        yield "mproxy_relay_check_failures_total", (), facts["checks"]["failed"]
    for protocol in PROTOCOLS:
        for name, value in facts["totals"][protocol].items():
            kind, _, direction = name.partition("_")
            if direction in ("in", "out") and kind in ("bytes", "packets"):
                yield f"mproxy_relay_{kind}_total", (protocol, direction), value
            elif name == "total":
                yield "mproxy_relay_opened_total", (protocol,), value
            elif name == "dropped":
                yield "mproxy_relay_dropped_packets_total", (protocol,), value
            elif f"mproxy_relay_{name}_total" in METRICS:
                yield f"mproxy_relay_{name}_total", (protocol,), value


# ---- how a group is now

def gauge(group: list[Facts]) -> Iterator[Sample]:
    """How programs of one name are now, all that have answered."""
    program = group[0]["program"]
    for version in sorted({_value(facts["version"]) for facts in group}):
        yield "mproxy_info", (version,), 1
    if program == "relay":
        yield from _gauge_relay(group)
    elif program in ("recv", "send"):
        yield from _gauge_transfers([each for facts in group for each in facts["transfers"]])
    else:
        yield from _gauge_sessions([each for facts in group for each in facts["sessions"]])


def _gauge_sessions(sessions: list[dict[str, Any]]) -> Iterator[Sample]:
    states = [session["state"] for session in sessions]
    for state in SESSION_STATES:
        yield "mproxy_sessions", (state,), states.count(state)
    for name, fact in (("mproxy_streams", "streams"),
                       ("mproxy_session_unacknowledged_bytes", "unacknowledged_bytes"),
                       ("mproxy_session_undelivered_bytes", "undelivered_bytes"),
                       ("mproxy_session_memory_bytes", "memory_bytes")):
        yield name, (), sum(session[fact] for session in sessions)
    kinds = [session["carrier"]["kind"].partition("+")[0] for session in sessions if session["carrier"]]
    for kind in CARRIER_KINDS:
        yield "mproxy_session_carriers", (kind,), kinds.count(kind)
    yield "mproxy_session_flows", (), sum(session["datagrams"]["flows"] for session in sessions
                                          if "datagrams" in session)
    yield "mproxy_session_away_seconds", (), max(
        (session["since_s"] for session in sessions if session["state"] == "away"), default=0)
    heard = [session["last_heard_s"] for session in sessions
             if session["state"] == "connected" and session["last_heard_s"] is not None]
    if heard:
        yield "mproxy_session_silence_seconds", (), max(heard)
    round_trips = [session["round_trip_ms"] / 1000 for session in sessions
                   if session["state"] == "connected" and session["round_trip_ms"] is not None]
    if round_trips:
        yield "mproxy_session_round_trip_seconds", ("median",), statistics.median(round_trips)
        yield "mproxy_session_round_trip_seconds", ("longest",), max(round_trips)


def _gauge_transfers(transfers: list[dict[str, Any]]) -> Iterator[Sample]:
    yield "mproxy_transfers", (), len(transfers)
    left = [each["left_s"] for each in transfers if each["left_s"] is not None]
    if left:
        yield "mproxy_transfer_left_seconds", (), max(left)


def _gauge_relay(group: list[Facts]) -> Iterator[Sample]:
    rules = [rule for facts in group for rule in facts["rules"]]
    for protocol, now in zip(PROTOCOLS, ("connections", "sessions"), strict=True):
        yield "mproxy_relay_rules", (protocol,), sum(rule["protocol"] == protocol for rule in rules)
        yield "mproxy_relay_connections", (protocol,), sum(facts["totals"][protocol].get(now, 0) for facts in group)
    workers = [worker for facts in group for worker in facts["workers"]]
    yield "mproxy_relay_workers", (), sum(worker["state"] == "running" for worker in workers)
    yield "mproxy_relay_targets_down", (), sum(len(rule.get("down", ())) for rule in rules)
    checked = [state for rule in rules for state in rule.get("checked", {}).values()]
    for state in ("up", "down"):
        yield "mproxy_relay_targets_checked", (state,), checked.count(state)
    yield "mproxy_relay_unresolved_names", (), sum(len(facts.get("unresolved", ())) for facts in group)
    yield "mproxy_relay_last_reload_failed", (), int(any(facts["last_reload_errors"] for facts in group))


# ---- what the system knows of a process

def look_at_process(pid: int) -> dict[str, float]:
    """CPU time (with that of children that are gone), memory and start of a process, and its descriptors where we may
    see them; empty when it has gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        found = {"cpu": sum(map(int, fields[11:15])) / ticks, "started": _booted_at() + int(fields[19]) / ticks,
                 "memory": float(int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))}
    except (OSError, ValueError, IndexError):
        return {}
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            limit = next(line for line in file if line.startswith("Max open files")).split()[3]
        found["max_fds"] = float("inf" if limit == "unlimited" else limit)
        found["fds"] = float(len(os.listdir(f"/proc/{pid}/fd")))
    except (OSError, ValueError, IndexError, StopIteration):
        pass  # what is in memory of a program is protected from its own user, too
    return found


def _booted_at() -> int:
    with open("/proc/stat", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))


# ---- all of them

class _Member:
    """What is known of one program that runs, or has run when it was last asked."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.counters: Values = {}

    def note(self, samples: Iterable[Sample]) -> None:
        """Newer counters. What was read in slices may be a little less than before; a counter never is."""
        for name, labels, value in samples:
            if not math.isfinite(value):
                raise ValueError
            series = name, labels
            self.counters[series] = max(value, self.counters.get(series, 0))


class Ledger:
    """Turns surveys into samples, and remembers what counters must not forget between two of them."""

    def __init__(self, user_name: Callable[[int], str]) -> None:
        self._user_name = user_name
        self._members: dict[Process, _Member] = {}
        self._former: dict[Group, Values] = {}  # sums of those that have ended, while others of their name run

    def take(self, surveyed: list[Surveyed]) -> dict[Group, list[Sample]]:
        """The samples of each group, from a survey of this moment."""
        present: dict[Process, _Member] = {}
        answered: dict[Group, list[Facts]] = {}
        processes: dict[Group, list[tuple[str, dict[str, float]]]] = {}
        for one in surveyed:
            seen = look_at_process(one.pid)
            process = (one.pid, seen.get("started", 0))
            facts = one.facts if one.facts is not None and self._is_sound(one) else None
            member = self._member(process, one, facts)
            if facts is not None:
                member.note(count(facts))
                answered.setdefault(member.group, []).append(facts)
                seen = _add_workers(seen, facts)
            seen = _add_kept(one, seen)
            member.note([("mproxy_cpu_seconds_total", (), seen["cpu"])] if "cpu" in seen else [])
            state = str(facts["state"]) if facts is not None else "silent"
            processes.setdefault(member.group, []).append((state, seen))
            present[process] = member
        self._retire(present)
        totals = self._totals()
        return {group: [*_gauge_group(answered.get(group, []), seen),
                        *((name, labels, value) for (name, labels), value in totals[group].items())]
                for group, seen in processes.items()}

    def _member(self, process: Process, one: Surveyed, facts: Facts | None) -> _Member:
        """Under the name that it has told, or told before; one that never has goes by its number."""
        known = self._members.get(process)
        if facts is None and known is not None:
            return known
        name = _value(facts["name"]) if facts is not None else f"{one.program}-{one.pid}"
        group = (_value(self._user_name(one.uid)), _value(one.program), name)
        return known if known is not None and known.group == group else _Member(group)

    @staticmethod
    def _is_sound(one: Surveyed) -> bool:
        """Whether an answer is what a program of ours says: as root we ask whoever has a socket in the right place."""
        try:
            facts = one.facts
            assert facts is not None
            scratch = _Member(("", "", ""))
            scratch.note(count(facts))
            scratch.note(gauge([facts]))
            return (facts["program"] == one.program and isinstance(facts["name"], str)
                    and facts["state"] in PROGRAM_STATES)
        except MALFORMED:
            return False

    def _retire(self, present: dict[Process, _Member]) -> None:
        groups = {member.group for member in present.values()}
        self._former = {group: values for group, values in self._former.items() if group in groups}
        for process, member in self._members.items():
            if process not in present and member.group in groups:
                _add(self._former.setdefault(member.group, {}), member.counters)
        self._members = present

    def _totals(self) -> dict[Group, Values]:
        totals: dict[Group, Values] = {}
        for member in self._members.values():
            _add(totals.setdefault(member.group, dict(self._former.get(member.group, {}))), member.counters)
        return totals


def _gauge_group(answered: list[Facts], processes: list[tuple[str, dict[str, float]]]) -> Iterator[Sample]:
    """How a group is now; `processes`: the state of each, and what the system knows of it."""
    states = [state for state, _ in processes]
    yield "mproxy_up", (), int("silent" not in states)
    for state in PROGRAM_STATES:
        yield "mproxy_processes", (state,), states.count(state)
    for name, fact, join in (("mproxy_start_time_seconds", "started", max),
                             ("mproxy_resident_memory_bytes", "memory", sum),
                             ("mproxy_open_fds", "fds", sum), ("mproxy_max_fds", "max_fds", min)):
        values = [seen[fact] for _, seen in processes if fact in seen]
        if values:
            yield name, (), join(values)
    if answered:
        yield from gauge(answered)


def _add(total: Values, values: Values) -> None:
    for series, value in values.items():
        total[series] = total.get(series, 0) + value


def _add_workers(seen: dict[str, float], facts: Facts) -> dict[str, float]:
    """A relay's work is done by its workers."""
    total = dict(seen)
    for worker in facts.get("workers", ()):
        if isinstance(worker["pid"], int) and seen:
            of_worker = look_at_process(worker["pid"])
            for fact in ("cpu", "memory"):
                total[fact] += of_worker.get(fact, 0)
    return total


def _add_kept(one: Surveyed, seen: dict[str, float]) -> dict[str, float]:
    """A keeper's work is done by its worker; they have one name, and a program that they started has another."""
    total, left = dict(seen), [one.pid] if seen and one.program != "relay" else []
    while left:
        parent = left.pop()
        for child in children_of(parent):
            of_child = look_at_process(child)
            if of_child and name_of(child) == name_of(parent):
                left.append(child)
                for fact in ("cpu", "memory"):
                    total[fact] += of_child[fact]
    return total


def _value(text: str) -> str:
    """A label's value: what a program says of itself may be another user's."""
    return escaped(text)[:LONGEST_VALUE]
