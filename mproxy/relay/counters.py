"""What the workers count, added up; nothing is lost with a worker, or with a rule that is removed."""

from __future__ import annotations

from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    Values = dict[str, int]  # {name: value}, as `stats` of the engines gives them

# What is counted, by protocol: `stats` of the engines.
NAMES = {
    "tcp": ("connections", "total", "refused", "limited", "failed", "timed_out", "bytes_in", "bytes_out"),
    "udp": ("sessions", "total", "refused", "limited", "evicted", "expired", "errors", "dropped",
            "packets_in", "packets_out", "bytes_in", "bytes_out"),
}

# Values of the present moment. They end with their worker; all others are sums.
GAUGES = frozenset(("connections", "sessions"))


class Counters:
    """By rule and by worker. Values are what the engines' `stats` give: {name: int}."""

    def __init__(self) -> None:
        self._live: dict[int, dict[int, Values]] = {}      # worker -> {key: values last reported}
        self._former: dict[int, Values] = {}    # key -> sums of workers that are gone
        self._retired: dict[str, Values] = {}   # protocol -> sums of rules that are gone

    def told(self, worker: int, changed: dict[int, Values]) -> None:
        """A worker's report: {key: values}."""
        self._live.setdefault(worker, {}).update(changed)

    def retire(self, key: int, protocol: str) -> None:
        """A rule is gone, and every worker has reported on it for the last time: only its protocol's sums keep it."""
        parts = [self._former.pop(key, {}), *(live.pop(key, {}) for live in self._live.values())]
        for values in parts:
            _add(self._retired.setdefault(protocol, {}), values, sums_only=True)

    def worker_gone(self, worker: int) -> None:
        """Keep the sums of a worker that ended."""
        for key, values in self._live.pop(worker, {}).items():
            _add(self._former.setdefault(key, {}), values, sums_only=True)

    def of_rule(self, key: int, protocol: str) -> Values:
        """{name: value} over all workers, past ones included; has every name."""
        return add_up([dict.fromkeys(NAMES[protocol], 0), self._former.get(key, {}),
                       *(live.get(key, {}) for live in self._live.values())])

    def of_worker(self, worker: int) -> Values:
        """{name: value} over all rules, since that worker began."""
        return add_up(self._live.get(worker, {}).values())

    def retired(self, protocol: str) -> Values:
        """Sums of the rules that are gone; has every name."""
        return add_up([dict.fromkeys(NAMES[protocol], 0), self._retired.get(protocol, {})])


def add_up(parts: Iterable[Values]) -> Values:
    """{name: sum} of several."""
    total: dict[str, int] = {}
    for values in parts:
        _add(total, values)
    return total


def _add(total: Values, values: Values, sums_only: bool = False) -> None:
    for name, value in values.items():
        if not (sums_only and name in GAUGES):
            total[name] = total.get(name, 0) + value
