"""The site: which of several sproxies with one host key this is, the same after its restart.

"No such session" is final only from the sproxy that had the session: behind one name there may be several sproxies with
copies of one key, and for a while a name may mean another of them. So WELCOME names the site, and so does a refusal.
The number is kept in the state directory, in a slot for each running sproxy; in a copy of that directory it does not
count, because the file, or the host, is another one.
"""

from __future__ import annotations

import hashlib
import os

from mproxy.ground.errors import MproxyError
from mproxy.policy.slots import SlotFile

SITE_BYTES = 4
MARK_BYTES = 16


class Site:
    """`number`: 32 bits, never 0."""

    def __init__(self, state_dir: str | None, port: int) -> None:
        self._slot = None
        try:
            self._slot = SlotFile(state_dir, f"site-{port}") if state_dir is not None else None
        except MproxyError:
            pass  # it can be read, as the key could; that is enough
        if self._slot is None or not self._slot.held:
            self.number = _number_of(_host_mark(str(port).encode()))
            return
        mark = _host_mark(self._slot.inode.to_bytes(8))
        kept = self._slot.read(SITE_BYTES + MARK_BYTES + 1)
        if kept[SITE_BYTES:] == mark:
            self.number = _number_of(kept)
        else:
            self.number = _number_of(os.urandom(SITE_BYTES))
            self._slot.write(self.number.to_bytes(SITE_BYTES) + mark)


def _number_of(data: bytes) -> int:
    return int.from_bytes(data[:SITE_BYTES]) or 1


def _host_mark(more: bytes) -> bytes:
    """16 bytes that are the same only on this host."""
    host = b""
    try:
        with open("/etc/machine-id", "rb") as file:
            host = file.read(256)
    except OSError:
        pass
    return hashlib.sha256(host + b"\0" + more).digest()[:MARK_BYTES]
