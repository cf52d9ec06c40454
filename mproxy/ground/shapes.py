"""Types that many modules use in annotations: nothing imports this at run time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

# A numeric address as in socket(7): (host, port), for IPv6 (host, port, flow, scope).
Sockaddr = tuple[str, int] | tuple[str, int, int, int]

# One address of a host: (address family, sockaddr).
Address = tuple[int, Sockaddr]

# A proxy to connect through: (`http` or `socks5h`, host, port, user, password); user None: it wants none.
ProxyWords = tuple[str, str, int, str | None, str]

# Where a stream leads, or where applications connect: (host, port), or (path, 0) of a unix socket
# (mproxy.ground.forwarding).
Spot = tuple[str, int]

# Where applications connect, and where their streams lead.
Forward = tuple[Spot, Spot]

# Where a relay listens: (protocol, host, port).
ListenAddress = tuple[str, str, int]


class Logger(Protocol):
    """Where events are logged: `mproxy.service.log.Log`. `event` is the log line's name, `fields` what it says."""

    def debug(self, event: str, /, **fields: object) -> None: ...
    def info(self, event: str, /, **fields: object) -> None: ...
    def warning(self, event: str, /, **fields: object) -> None: ...
    def error(self, event: str, /, **fields: object) -> None: ...
    def restrain(self, call_later: Callable[[int, Callable[[], None]], object]) -> None: ...
    def tell_rest(self) -> None: ...
