"""Which addresses of which rules are failing: what the rules with `check=` lead to, and what is known of it."""

from __future__ import annotations

from mproxy.ground.config import format_host_port
from mproxy.relay.checker import Checker
from mproxy.relay.health import place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mproxy.ground.shapes import Address, Logger
    from mproxy.io._loop import Loop
    from mproxy.relay.datapath import Facts
    from mproxy.relay.health import CheckedPlace
    from mproxy.relay.rules import Rule

# Names are looked up in their hundreds at the start: what changes within this time is looked at together.
GATHER_US = 50_000


class RuleHealth:
    """`addresses(key, host, port)`: those of a rule's target that are used now. `changed(keys)`: what is failing has
    changed for these rules."""

    def __init__(self, loop: Loop, log: Logger, addresses: Callable[[int, str, int], list[Address]],
                 changed: Callable[[Sequence[int]], object]) -> None:
        self._loop = loop
        self._log = log
        self._addresses = addresses
        self._changed = changed
        self._checker = Checker(loop, self._on_change)
        self._rules: dict[int, Rule] = {}     # those with a check, by key
        self._places: dict[int, list[tuple[str, CheckedPlace]]] = {}  # by key: what is checked, and its name for people
        self._gathering = False

    def follow(self, rules: dict[int, Rule]) -> None:
        """From now on check what these lead to: {key: rule}."""
        self._rules = {key: rule for key, rule in rules.items() if rule.options.check is not None}
        self._find_places()

    def addresses_changed(self) -> None:
        """A name has other addresses."""
        if self._rules and not self._gathering:
            self._gathering = True
            self._loop.call_later(GATHER_US, self._find_places)

    def close(self) -> None:
        """Check nothing any more."""
        self.follow({})

    @property
    def most_descriptors(self) -> int:
        """How many descriptors checks use at the same time, at most."""
        return self._checker.most_descriptors

    def failing(self, rule: Rule, addresses: Sequence[Address]) -> list[int]:
        """Numbers of the addresses of one target that fail their check."""
        check = rule.options.check
        return [] if check is None else [number for number, address in enumerate(addresses)
                                         if self._checker.is_failing(place_of(rule, check, address))]

    # ---- for status

    def totals(self) -> Facts:
        """{"checks": {"asked": count, "failed": count}} since the start."""
        return {"checks": {"asked": self._checker.asked, "failed": self._checker.failed}}

    def facts(self, key: int) -> Facts:
        """{"checked": {HOST:PORT: "up" or "down"}} of a rule; {} without a check."""
        if key not in self._rules:
            return {}
        return {"checked": {name: "down" if self._checker.is_failing(place) else "up"
                            for name, place in self._places.get(key, ())}}

    def down(self, key: int) -> dict[str, str]:
        """{HOST:PORT: why} of a rule's addresses that fail their check."""
        found = {}
        for name, place in self._places.get(key, ()):
            state = self._checker.state(place)
            if state is not None and not state.well:
                found[name] = f"check: {state.why}"
        return found

    # ---- what is checked

    def _find_places(self) -> None:
        self._gathering = False
        self._places = {key: self._places_of(key, rule) for key, rule in self._rules.items()}
        self._checker.want(place for places in self._places.values() for _, place in places)

    def _places_of(self, key: int, rule: Rule) -> list[tuple[str, CheckedPlace]]:
        """Named as in TargetAddress.text."""
        check = rule.options.check
        assert check is not None
        found = []
        for host, port in rule.targets:
            addresses = self._addresses(key, host, port)
            for address in addresses:
                name = format_host_port(host, port)
                found.append((name if len(addresses) < 2 else f"{name} at {address[1][0]}",
                              place_of(rule, check, address)))
        return found

    def _on_change(self, place: CheckedPlace) -> None:
        """A place has become well, or is no more."""
        state = self._checker.state(place)
        assert state is not None
        led = {key: [name for name, found in places if found == place] for key, places in self._places.items()}
        # The workers are told first: who reads the line finds it done.
        self._changed(sorted(key for key, names in led.items() if names))
        for target in sorted({name for names in led.values() for name in names}):
            if not state.well:
                self._log.warning("target-down", target=target, why=f"its check fails: {state.why}")
            elif state.failed:
                self._log.info("target-up", target=target, why="its check succeeds")
