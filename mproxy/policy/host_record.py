"""What is remembered of a host between two `mproxy connect`: the port of the sproxy that ssh started there, its key,
and whether that port could be reached.

A file in `hosts` of the state directory, one line: PORT SHA256:... open|shut. Where it cannot be read, ssh is asked
again.
"""

from __future__ import annotations

import os
import re

from mproxy.ground.private_directory import keep_line, kept_line
from mproxy.ground.words import percent_encoded

_LINE = re.compile(r"([0-9]{1,5}) (SHA256:[A-Za-z0-9+/]{43}) (open|shut)")


class HostRecord:
    """The record of the host called `name`; it is kept only if there is a state directory."""

    def __init__(self, state_dir: str | None, name: str) -> None:
        self.port = 0          # 0: unknown, or it listens on none
        self.key = ""          # fingerprint
        self.is_shut = False   # the port did not answer
        self._path: str | None = None
        if state_dir is not None:
            self._path = os.path.join(state_dir, "hosts", percent_encoded(name, "@:+,"))
            self._read(self._path)

    @property
    def is_reached_by_ssh(self) -> bool:
        """Whether there is no port to be tried first."""
        return not self.port or self.is_shut

    def learn(self, port: int, key: str) -> None:
        """What its sproxy says over a channel that is trusted."""
        if (port, key) != (self.port, self.key):
            self.port, self.key, self.is_shut = port, key, False
            self._write()

    def note(self, is_shut: bool) -> None:
        """Whether the port answers."""
        if is_shut != self.is_shut:
            self.is_shut = is_shut
            self._write()

    def _read(self, path: str) -> None:
        match = _LINE.fullmatch(kept_line(path))
        if match is not None and 0 < int(match[1]) < 65536:
            self.port, self.key, self.is_shut = int(match[1]), match[2], match[3] == "shut"

    def _write(self) -> None:
        if self._path is not None:
            keep_line(self._path, f"{self.port} {self.key} {'shut' if self.is_shut else 'open'}")
