"""Health checks of the addresses of targets: what is asked, and when one counts as well or failing. No I/O here; who
asks: checker.py.

* An address counts as well until it is asked for the first time, and then as the first answer says.
* After that it takes `fall` failures in a row to make it failing, and `rise` successes in a row to make it well again.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Address
    from mproxy.relay.rules import HealthCheck, Rule


@dataclass(frozen=True, slots=True)
class CheckedPlace:
    """An address that is checked in a certain way: once, however many rules lead to it. The port is the checked one."""

    protocol: str
    family: int
    host: str
    port: int
    scope: int
    check: HealthCheck
    proxy: int                 # version of the PROXY header that is expected there, 0: none
    source: tuple[str, ...]    # where connections come from, as in RuleOptions

    @property
    def sockaddr(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """As connect(2) takes it."""
        return (self.host, self.port, 0, self.scope) if ":" in self.host else (self.host, self.port)

    @property
    def address(self) -> tuple[str, str, int, int]:
        """What is checked, in whichever way."""
        return self.protocol, self.host, self.port, self.scope


def place_of(rule: Rule, check: HealthCheck, address: Address) -> CheckedPlace:
    """Where and how an address of a target of the rule is checked."""
    family, (host, port, *more) = address
    options = rule.options
    return CheckedPlace(rule.protocol, family, host, check.port or port, more[1] if more else 0, check, options.proxy,
                        options.source)


class CheckedState:
    """What the checks of one place have found so far."""

    __slots__ = ("check", "asked", "failed", "well", "why", "_streak")

    def __init__(self, check: HealthCheck) -> None:
        self.check = check
        self.asked = 0       # checks that came to an end
        self.failed = 0      # of these
        self.well = True
        self.why = ""        # of the last failure, for people
        self._streak = 0     # results in a row that speak against `well`

    def result(self, why: str | None) -> bool:
        """A check has ended, well (None) or with a reason; true when `well` has changed by it."""
        good = why is None
        self.asked += 1
        self.failed += not good
        if why is not None:
            self.why = why
        self._streak = 0 if good == self.well else self._streak + 1
        needed = 1 if self.asked == 1 else self.check.fall if self.well else self.check.rise
        if self._streak < needed:
            return False
        self.well, self._streak = good, 0
        return True
