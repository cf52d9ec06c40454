"""What is remembered of a server and UDP between two runs of cproxy: that it takes no carriers over UDP, or that UDP
did not get there from a network of ours.

A file in `udp` of the state directory, one line: `no`, or `blocked UNTIL FAILURES ADDRESS NETWORK`, where UNTIL is in
seconds since 1970 and NETWORK as `policy.paths.network_of` has it. Where UDP passes, or nothing is known, there is no
file. Where it cannot be read or written, cproxy finds out anew, which takes the head start of one dial.
"""

from __future__ import annotations

import os
import re
import time

from mproxy.ground.private_directory import keep_line, kept_line
from mproxy.ground.words import percent_encoded
from mproxy.policy.network import preferred_source
from mproxy.policy.paths import network_of

_LINE = re.compile(r"(no)|blocked ([0-9]{1,12}) ([0-9]{1,4}) ([0-9A-Fa-f.:]{2,45}) ([0-9a-f]+)")

DISCARD_PORT = 9  # any would do: only the route is asked for


class UdpRecord:
    """The record of the server called `name`; it lasts only if there is a state directory."""

    def __init__(self, state_dir: str | None, name: str) -> None:
        self.is_offered = True  # as far as is known
        self._blocked: tuple[int, int, str, str] | None = None  # UNTIL FAILURES ADDRESS NETWORK
        self._path: str | None = None
        if state_dir is not None:
            self._path = os.path.join(state_dir, "udp", percent_encoded(name, ":,"))
            self._read(self._path)

    def blocked(self, most_s: int) -> tuple[int, int]:
        """(seconds, failures): for how long UDP counts as blocked from where we are now, `most_s` at most, and how
        often in a row it was. (0, 0): it does not."""
        if self._blocked is None:
            return 0, 0
        until, failures, address, network = self._blocked
        left_s = until - int(time.time())
        if left_s <= 0 or network_of(preferred_source(_sockaddr(address))) != network:
            return 0, 0
        return min(left_s, most_s), failures

    def offer(self, is_offered: bool) -> None:
        """Whether its WELCOME says that it takes carriers over UDP."""
        if is_offered != self.is_offered:
            self.is_offered, self._blocked = is_offered, None
            self._write()

    def passes(self) -> None:
        """UDP carries the session."""
        if not self.is_offered or self._blocked is not None:
            self.is_offered, self._blocked = True, None
            self._write()

    def note_blocked(self, seconds: int, failures: int, peer: str, local: str) -> None:
        """From the network of the address `local` UDP does not get to the address `peer`."""
        self._blocked = int(time.time()) + seconds, failures, peer.partition("%")[0], network_of(local)
        self._write()

    def _read(self, path: str) -> None:
        match = _LINE.fullmatch(kept_line(path))
        if match is not None and match[1]:
            self.is_offered = False
        elif match is not None:
            self._blocked = int(match[2]), int(match[3]), match[4], match[5]

    def _write(self) -> None:
        if self._path is not None:
            blocked = "" if self._blocked is None else f"blocked {' '.join(map(str, self._blocked))}"
            keep_line(self._path, blocked if self.is_offered else "no")


def _sockaddr(address: str) -> tuple[str, int] | tuple[str, int, int, int]:
    return (address, DISCARD_PORT, 0, 0) if ":" in address else (address, DISCARD_PORT)
