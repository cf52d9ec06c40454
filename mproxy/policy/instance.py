"""The instance id: who a cproxy is across its own death.

A cproxy that starts again says the same id, and sproxy then ends what the dead one left behind. One id a listening
port and running process: the file is locked while in use, and a second cproxy on the same port number (on another
address, in another network namespace) takes the next slot.
"""

import fcntl
import os

from mproxy._wire import INSTANCE_ID_BYTES
from mproxy.errors import MproxyError

# Slots for cproxies with the same port number at the same time on one host and home directory.
SLOTS = 64


class Instance:
    """Holds an id until the process ends. `persistent` is false when no file could be kept."""

    def __init__(self, state_dir, port):
        self._fd = -1
        self.id = os.urandom(INSTANCE_ID_BYTES)
        if state_dir is None or port is None:
            return
        try:
            os.makedirs(state_dir, mode=0o700, exist_ok=True)
            self._take_slot(state_dir, port)
        except OSError as error:
            raise MproxyError(
                f"cannot keep state in {state_dir}: {error.strerror}; choose another place with --state-dir") from None

    @property
    def persistent(self):
        """The id will be the same after a restart."""
        return self._fd >= 0

    def _take_slot(self, state_dir, port):
        for slot in range(SLOTS):
            path = os.path.join(state_dir, f"instance-{port}" + (f".{slot}" if slot else ""))
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            self._fd = fd  # the lock lives as long as the descriptor
            stored = os.pread(fd, INSTANCE_ID_BYTES + 1, 0)
            if len(stored) == INSTANCE_ID_BYTES:
                self.id = stored
            else:
                os.ftruncate(fd, 0)
                os.pwrite(fd, self.id, 0)
            return
