"""The instance id: who a cproxy is across its own death.

A cproxy that starts again says the same id, and sproxy then ends what the dead one left behind. One id a listening
port (with --stdio: a server) and running process: each holds a slot of the state directory, and a second cproxy on the
same port number (on another address, in another network namespace) takes the next.

Beside the id the file has the tag of the session that may be left behind at sproxy. By that a cproxy that died is told
from a twin, which has a copy of the directory; and one that starts anew knows that it owes a goodbye.
"""

import os

from mproxy._wire import INSTANCE_ID_BYTES
from mproxy.policy.slots import Slot

TAG_BYTES = 4


class Instance:
    """Holds an id until the process ends. `name` says whose; without a state directory the id is of this process."""

    def __init__(self, state_dir, name):
        self.id = os.urandom(INSTANCE_ID_BYTES)
        self.former = 0
        self._slot = None
        if state_dir is None or name is None:
            return
        self._slot = Slot(state_dir, f"instance-{name}")
        kept = self._slot.read(INSTANCE_ID_BYTES + TAG_BYTES + 1)
        if len(kept) in (INSTANCE_ID_BYTES, INSTANCE_ID_BYTES + TAG_BYTES):
            self.id, self.former = kept[:INSTANCE_ID_BYTES], int.from_bytes(kept[INSTANCE_ID_BYTES:])
        else:
            self._keep()

    @property
    def persistent(self):
        """The id will be the same after a restart."""
        return self._slot is not None and self._slot.held

    def began(self, tag):
        """There is a session at sproxy now."""
        self.former = tag
        self._keep()

    def ended(self):
        """sproxy knows that it is over."""
        if self.former:
            self.began(0)

    def rename(self):
        """Be somebody else from now on: a twin has this id, too."""
        self.id = os.urandom(INSTANCE_ID_BYTES)
        self.began(0)

    def _keep(self):
        if self._slot is not None:
            self._slot.write(self.id + (self.former.to_bytes(TAG_BYTES) if self.former else b""))


def stdio_name(host, port):
    """The name of --stdio clients of one sproxy, for `Instance`: they have no port of their own."""
    import urllib.parse  # 4 ms; a host is mostly plain
    safe = host if host.isascii() and host.replace(".", "").replace("-", "").isalnum() else urllib.parse.quote(host, "")
    return f"stdio-{safe[:200]}-{port}"
