"""Name resolution that never blocks the loop.

getaddrinfo(3) blocks, for half a minute and more when the network is gone, and cannot be interrupted. So it runs in a
few threads for which nobody ever waits: neither the loop, nor the process when it exits. /etc/resolv.conf need not be
watched: glibc (2.26 and later) reads it again when it has changed.

Rules, all of them on the loop's thread:

1. Requests for a host join the lookup of that host that is under way, so a hundred streams cost one lookup.
2. Unless that lookup is stale: begun more than STALE_AFTER_S ago, or before `network_changed()`. It may be waiting for
   a name server by way of an address that is gone. Then a fresh one starts beside it, up to LOOKUPS_PER_HOST.
3. A good answer serves everybody who waits for that host. A failure serves those who joined this lookup or an earlier
   one of the same host; later ones keep waiting for theirs.
4. At most LOOKUPS run at once; the others wait in line.
"""

from __future__ import annotations

import _thread
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mproxy.ground.shapes import Address, Sockaddr
    Answer = tuple[list[Address], str | None]  # as of a callback: addresses, or an error
    Resolved = Callable[[list[Address], str | None], object]
    GetAddrInfo = Callable[..., Any]  # socket.getaddrinfo

# Threads at once. Each holds its stack (8 MiB of address space, some 50 KiB of memory) while it waits.
LOOKUPS = 4

# Threads for one host: the one that is stuck, and a fresh one at each of two changes of the network.
LOOKUPS_PER_HOST = 3

# A lookup that takes longer than this has lost a packet (the stub resolver repeats it after 5 s): worth a fresh try.
STALE_AFTER_S = 2.0


class Resolver:
    """Turns (host, port) into socket addresses, in the order in which to try them (RFC 8305).

    `call_soon_threadsafe(function)` must make the loop call `function()` soon, from whichever thread it is
    called. Everything else here belongs to the loop's thread. `getaddrinfo`, `clock` (seconds) and
    `start_thread(function)` are there for tests.
    """

    def __init__(self, call_soon_threadsafe: Callable[[Callable[[], object]], object],
                 getaddrinfo: GetAddrInfo = socket.getaddrinfo, clock: Callable[[], float] = time.monotonic,
                 start_thread: Callable[[Callable[[], None]], object] | None = None) -> None:
        self._call_soon = call_soon_threadsafe
        self._getaddrinfo = getaddrinfo
        self._clock = clock
        self._start_thread = start_thread or _start_thread
        self._names: dict[str, _Name] = {}  # host -> _Name with somebody waiting or a lookup under way
        self._running = 0

    def resolve(self, host: str, port: int, callback: Resolved) -> Request:
        """Ask for the addresses of `host`; gives a `Request`.

        `callback(addresses, error)` is called once, from the loop, never from within this call: `addresses`
        is a list of (family, sockaddr), `error` None; or the list is empty and `error` a line of text.
        Numeric addresses need no thread, an IPv6 address may have a scope (`fe80::1%eth0`), names may end in
        a dot.
        """
        request = Request(port, callback)
        numeric = numeric_address(host, port)
        if numeric is not None:
            self._call_soon(lambda: request.answer(*numeric))
            return request
        name = self._names.setdefault(host, _Name(host))
        name.waiting.append((name.started if name.joinable(self._clock()) else name.started + 1, request))
        self._start_what_fits()
        return request

    def network_changed(self) -> None:
        """Lookups under way are now stale: the next request for their hosts starts fresh ones."""
        for name in self._names.values():
            name.newest_at = None

    def _start_what_fits(self) -> None:
        """Start a lookup for every host for which somebody waits for one that has not begun."""
        for name in list(self._names.values()):
            if self._running >= LOOKUPS:
                return
            name.drop_cancelled()
            if name.wants_lookup() and name.running < LOOKUPS_PER_HOST:
                self._start(name)

    def _start(self, name: _Name) -> None:
        name.started += 1
        name.running += 1
        name.newest_at = self._clock()
        self._running += 1
        number = name.started

        def look_up() -> None:
            answer = look_up_host(name.host, self._getaddrinfo)
            try:
                self._call_soon(lambda: self._finish(name, number, answer))
            except Exception:
                pass  # the loop is closed, nobody waits any more

        try:
            self._start_thread(look_up)
        except RuntimeError as error:
            reason = f"cannot resolve {name.host!r}: {error}"
            self._call_soon(lambda: self._finish(name, number, ([], reason)))

    def _finish(self, name: _Name, number: int, answer: Answer) -> None:
        addresses, error = answer
        self._running -= 1
        served = name.finished(number, failed=error is not None)
        if not name.running and not name.waiting:
            self._names.pop(name.host, None)
        self._start_what_fits()
        for request in served:
            request.answer(addresses, error)


class Request:
    """One caller's request; after `cancel` its callback is never called."""

    __slots__ = ("_port", "_callback")

    def __init__(self, port: int, callback: Resolved) -> None:
        self._port = port
        self._callback: Resolved | None = callback

    @property
    def cancelled(self) -> bool:
        return self._callback is None

    def cancel(self) -> None:
        """Forget the request. May be called at any time and more than once, on the loop's thread."""
        self._callback = None

    def answer(self, addresses: list[Address], error: str | None) -> None:
        """Call the callback, with the port filled in, unless the request was cancelled or answered."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback([(family, with_port(address, self._port)) for family, address in addresses], error)


class _Name:
    """The lookups of one host and who waits for them."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.started = 0  # lookups begun so far; their numbers are 1, 2, ...
        self.running = 0  # how many of these are not finished
        self.newest_at: float | None = None  # when the newest was begun; None once it is stale or done
        self.waiting: list[tuple[int, Request]] = []  # (number of the lookup that the request joined, request)

    def joinable(self, now: float) -> bool:
        """Whether a new request may join the newest lookup (rule 2)."""
        return self.newest_at is not None and now - self.newest_at <= STALE_AFTER_S

    def wants_lookup(self) -> bool:
        return any(number > self.started for number, _ in self.waiting)

    def drop_cancelled(self) -> None:
        self.waiting = [entry for entry in self.waiting if not entry[1].cancelled]

    def finished(self, number: int, failed: bool) -> list[Request]:
        """Lookup `number` is done: take out the requests that its answer serves (rule 3)."""
        self.running -= 1
        if number == self.started:
            self.newest_at = None
        served, waiting = [], []
        for joined, request in self.waiting:
            if failed and joined > number:
                waiting.append((joined, request))
            else:
                served.append(request)
        self.waiting = waiting
        return served


def look_up_host(host: str, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> Answer:
    """Blocking: ([(family, sockaddr with port 0), ...] in the order of interleave, None) or ([], error)."""
    try:
        # Plain names are passed as bytes: for str Python would first load its IDNA tables, and hold up the loop.
        query = host.encode("ascii") if host.isascii() else host
        found = getaddrinfo(query, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [], _explain(host, error)
    except OSError as error:
        return [], f"cannot resolve {host!r}: {error.strerror or error}"
    except UnicodeError:
        return [], f"unknown host {host!r}: not a valid name"
    except Exception as error:  # whatever it is, somebody is waiting for an answer
        return [], f"cannot resolve {host!r}: {error}"
    addresses = dict.fromkeys((int(family), sockaddr) for family, _, _, _, sockaddr in found
                              if family in (socket.AF_INET, socket.AF_INET6))
    return (interleave(addresses), None) if addresses else ([], f"host {host!r} has no address")


_EXPLANATIONS = {
    socket.EAI_NONAME: "unknown host {}",
    socket.EAI_NODATA: "host {} has no address",
    socket.EAI_AGAIN: "name service unreachable, host {} not resolved",
    socket.EAI_FAIL: "name service failed, host {} not resolved",
    socket.EAI_MEMORY: "out of memory, host {} not resolved",
}


def _explain(host: str, error: OSError) -> str:
    if error.errno in _EXPLANATIONS:
        return _EXPLANATIONS[error.errno].format(repr(host))
    return f"cannot resolve {host!r}: {error.strerror or error}"


def numeric_address(host: str, port: int) -> Answer | None:
    """What `look_up_host` returns, with the port, for an address that needs no lookup; None for a name."""
    base, percent, scope = host.partition("%")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, base)
        except (OSError, ValueError):
            continue
        if family == socket.AF_INET:
            return None if percent else ([(int(family), (base, port))], None)
        if not percent:
            return [(int(family), (base, port, 0, 0))], None
        try:
            # An interface that comes and goes has another index each time, so it is looked up at every call.
            index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
        except OSError:
            return [], f"no such network interface: {scope!r} (in {host!r})"
        return [(int(family), (base, port, 0, index))], None
    return None


def with_port(address: Sockaddr, port: int) -> Sockaddr:
    """The same sockaddr with another port."""
    return (address[0], port) if len(address) == 2 else (address[0], port, address[2], address[3])


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """[(family, sockaddr), ...] with the families alternating, beginning with the first one's (RFC 8305 section 4).

    Within a family the order stays: it is getaddrinfo's, that of RFC 6724.
    """
    addresses = list(addresses)
    if not addresses:
        return []
    first = [entry for entry in addresses if entry[0] == addresses[0][0]]
    second = [entry for entry in addresses if entry[0] != addresses[0][0]]
    turns = min(len(first), len(second))
    mixed = [entry for pair in zip(first, second, strict=False) for entry in pair]
    return mixed + first[turns:] + second[turns:]


def _start_thread(function: Callable[[], None]) -> None:
    """A thread for which the exiting interpreter does not wait; RuntimeError if the system allows no more."""
    _thread.start_new_thread(function, ())
