"""Names that are used for months: looked up off the loop, again and again; the last good answer is kept.

1. A name is looked up at once, then when its time to live is over: FLOOR_US later at least, CEILING_US at most. Names
   that do not come from the domain name system (/etc/hosts) have no time to live and are looked up every UNKNOWN_US.
2. A failed lookup changes nothing: the last good answer stays, and the next attempt comes after 1 s, 2 s, ... RETRY_US.
3. There are at most LOOKUPS threads, however many names; the others wait in line. A name server that does not answer
   delays other names, but never the loop.
4. Only different addresses are reported: a name server may give them in another order each time.
"""

from __future__ import annotations

import _thread
from collections import deque

from mproxy.ground.config import HOUR_US, SECOND_US
from mproxy.policy.resolver import look_up_host, numeric_address, with_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop, Timer
    from mproxy.policy.resolver import Answer

FLOOR_US = 5 * SECOND_US
CEILING_US = HOUR_US
UNKNOWN_US = 30 * SECOND_US
RETRY_US = 30 * SECOND_US

# Each thread waits for one name server's answer at a time; 10,000 names at 20 ms each take half a minute.
LOOKUPS = 8


class NameCache:
    """Keeps the addresses of a set of hosts. Everything but the lookups runs on the loop's thread.

    `changed(host)` is called when a host's addresses differ from before; `failed(host, why)` when a host without
    addresses cannot be looked up, once for each reason. `look_up(host)` and `ask_ttl(host, families)` block; they and
    `start_thread(function)` are parameters for tests.
    """

    def __init__(self, loop: Loop, changed: Callable[[str], object], failed: Callable[[str, str], object],
                 look_up: Callable[[str], Answer] = look_up_host,
                 ask_ttl: Callable[[str, Iterable[int]], int | None] | None = None,
                 start_thread: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._loop = loop
        self._changed = changed
        self._failed = failed
        self._look_up = look_up
        self._ask_ttl = ask_ttl or _ask_ttl
        self._start_thread = start_thread or (lambda function: _thread.start_new_thread(function, ()))
        self._names: dict[str, _Name] = {}  # host -> _Name
        self._due: deque[_Name] = deque()  # _Names to be looked up next
        self._running = 0
        self._waiting = 0

    def want(self, hosts: Iterable[str]) -> None:
        """From now on follow these hosts, and no others."""
        hosts = set(hosts)
        for host in self._names.keys() - hosts:
            name = self._names.pop(host)
            self._waiting -= not name.answered
            name.forget()
        for host in sorted(hosts - self._names.keys()):
            name = self._names[host] = _Name(host)
            numeric = numeric_address(host, 0)
            if numeric is None:
                self._due.append(name)
                self._waiting += 1
            else:
                name.addresses, name.error = numeric
                name.answered = True
        self._start_what_fits()

    def addresses(self, host: str, port: int) -> list[Address]:
        """[(family, sockaddr), ...] of a host; [] while nothing is known."""
        name = self._names.get(host)
        return [(family, with_port(address, port)) for family, address in name.addresses] if name else []

    @property
    def waiting(self) -> int:
        """Hosts whose first lookup is not finished."""
        return self._waiting

    def unresolved(self) -> dict[str, str]:
        """{host: why} of the hosts without an address."""
        return {host: name.error or "not looked up yet" for host, name in self._names.items() if not name.addresses}

    def close(self) -> None:
        """Forget every host."""
        self.want(())

    def _start_what_fits(self) -> None:
        while self._due and self._running < LOOKUPS:
            name = self._due.popleft()
            if not name.forgotten:
                self._running += 1
                self._run(name)

    def _run(self, name: _Name) -> None:
        def work() -> None:
            answer = self._look_up(name.host)
            self._soon(lambda: self._take(name, *answer))
            ttl = None
            if answer[0]:
                ttl = self._ask_ttl(name.host, dict.fromkeys(family for family, _ in answer[0]))
            self._soon(lambda: self._finish(name, ttl))

        try:
            self._start_thread(work)
        except RuntimeError as error:  # the system allows no more threads
            why = str(error)
            self._soon(lambda: self._take(name, [], why))
            self._soon(lambda: self._finish(name, None))

    def _soon(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except OSError:
            pass  # the loop is closed, and nobody is waiting any more

    def _take(self, name: _Name, addresses: list[Address], error: str | None) -> None:
        """The answer of a lookup, on the loop's thread."""
        if name.forgotten:
            return
        self._waiting -= not name.answered
        name.answered = True
        if not addresses:
            name.failures += 1
            if not name.addresses and error is not None and error != name.error:
                self._failed(name.host, error)
            name.error = error
            return
        name.failures = 0
        name.error = None
        if set(map(repr, addresses)) != set(map(repr, name.addresses)):
            name.addresses = addresses
            self._changed(name.host)

    def _finish(self, name: _Name, ttl: int | None) -> None:
        """A lookup's thread has ended; `ttl` in seconds or None."""
        self._running -= 1
        if not name.forgotten:
            name.timer = self._loop.call_later(self._delay_us(name, ttl), lambda: self._again(name))
        self._start_what_fits()

    def _again(self, name: _Name) -> None:
        self._due.append(name)
        self._start_what_fits()

    @staticmethod
    def _delay_us(name: _Name, ttl: int | None) -> int:
        if name.failures:
            return min(RETRY_US, SECOND_US << min(name.failures - 1, 20))
        return UNKNOWN_US if ttl is None else min(max(ttl * SECOND_US, FLOOR_US), CEILING_US)


class _Name:
    """What is known about one host."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.addresses: list[Address] = []  # (family, sockaddr with port 0), the last good answer
        self.error: str | None = None  # why the last lookup failed
        self.failures = 0       # in a row
        self.answered = False   # the first lookup is over
        self.forgotten = False
        self.timer: Timer | None = None  # of the next lookup

    def forget(self) -> None:
        self.forgotten = True
        if self.timer is not None:
            self.timer.cancel()


def _ask_ttl(host: str, families: Iterable[int]) -> int | None:
    from mproxy.policy.ttl import ask_ttl  # importing ctypes takes 10 ms, and only rules with names need it

    return ask_ttl(host, families)
