"""Kernel settings that kernel mode needs; they are put back when it stops.

The former values are first written into a file, so that the run after a killed one knows them. It needs:

* forwarding, for targets on other hosts. Where it was off, the table drops what is not ours (nft.py, chain `forward`),
  so the host does not become a router for others. IPv4 has it for each interface besides: those that forward when we
  start have to go on.
* route_localnet, so that a program on this host may call 127.0.0.1 and be forwarded, and a target may be 127.0.0.1. It
  would let neighbours on the network reach 127.0.0.1; the table's chain `loopback` keeps them out.
* accept_ra 2 where it is 1: with forwarding on, 1 means that routes from an IPv6 router are ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from mproxy.ground.errors import MproxyError

ROOT = Path("/proc/sys/net")
FORWARD4, FORWARD6 = "ipv4/ip_forward", "ipv6/conf/all/forwarding"
ROUTE_LOCALNET = "ipv4/conf/all/route_localnet"


class KernelSettings:
    """Changes settings and remembers what they were, in the file `memory`."""

    def __init__(self, memory: str, root: Path = ROOT) -> None:
        self._memory = Path(memory)
        self._root = root
        self._former = self._remembered()
        self._forwarding: set[str] = set()  # settings of interfaces that forward IPv4

    def was_off(self, name: str) -> bool:
        """Whether a setting is on only because of us."""
        return self._former.get(name) == "0"

    def switched_off(self, name: str) -> list[str]:
        """What somebody has switched off of a setting that is needed: itself, or with FORWARD4 single interfaces."""
        if self._read(name) != "1":
            return [name]
        return [one for one in sorted(self._forwarding) if self._read(one) == "0"] if name == FORWARD4 else []

    def need(self, name: str, value: str = "1") -> bool:
        """Make sure of a setting; others that depend on it come first. True if it had to be changed."""
        if self._read(name) == value:
            if name == FORWARD4:
                self._keep_interfaces()
            return False
        if name == FORWARD6:
            for place in sorted(self._root.glob("ipv6/conf/*/accept_ra")):
                accept = str(place.relative_to(self._root))
                if self._read(accept) == "1":
                    self._change(accept, "2")
        self._change(name, value)
        if name == FORWARD4:
            self._keep_interfaces()
        return True

    def _keep_interfaces(self) -> None:
        for name in self.switched_off(FORWARD4):
            with contextlib.suppress(OSError):  # the interface is gone
                (self._root / name).write_text("1")
        interfaces = (str(place.relative_to(self._root)) for place in self._root.glob("ipv4/conf/*/forwarding"))
        self._forwarding = {name for name in interfaces if self._read(name) == "1"}

    def restore(self) -> list[str]:
        """Put everything back, last change first. Returns what could not be put back."""
        failed = []
        for name, value in reversed(self._former.items()):
            try:
                (self._root / name).write_text(value)
            except FileNotFoundError:
                pass  # the interface is gone
            except OSError as error:
                failed.append(f"{_dotted(name)}={value}: {error.strerror}")
        self._former = {}
        self._memory.unlink(missing_ok=True)
        return failed

    def _change(self, name: str, value: str) -> None:
        former = self._read(name)
        self._former.setdefault(name, former)
        self.remember()
        try:
            (self._root / name).write_text(value)
        except OSError as error:
            raise MproxyError(
                f"--kernel needs the setting {_dotted(name)}={value} and cannot change it: {error.strerror}; run"
                f" 'sysctl -w {_dotted(name)}={value}' as root") from None

    def _read(self, name: str) -> str:
        try:
            return (self._root / name).read_text().strip()
        except OSError:
            return ""

    def _remembered(self) -> dict[str, str]:
        try:
            found = json.loads(self._memory.read_text())
            return {str(name): str(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def remember(self) -> None:
        """Have a later run know, should this one be killed, that there is something to put back. The whole file is
        written, or nothing."""
        new = self._memory.with_suffix(".new")
        new.write_text(json.dumps(self._former))
        os.replace(new, self._memory)


def _dotted(name: str) -> str:
    return "net." + name.replace("/", ".")
