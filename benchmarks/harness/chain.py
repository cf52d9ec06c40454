"""The row of proxies between two ports, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hop:
    """One proxy in the row: where it listens, where it sends on to, and on which host it runs."""

    listen_address: str
    port: int
    target: str  # address:port
    netns: str | None = None
    is_last: bool = False

    @property
    def listen(self) -> str:
        return f"{self.listen_address}:{self.port}"


@dataclass(frozen=True)
class Chain:
    """A row of proxies. `entry` is where a client connects; with no hops that is the target itself."""

    hops: tuple[Hop, ...]
    target: str

    @property
    def entry(self) -> tuple[str, int]:
        address, _, port = (self.hops[0].listen if self.hops else self.target).rpartition(":")
        return address, int(port)
