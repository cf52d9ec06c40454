"""One table of ours in a network namespace, and one process that owns it: a locked file says which.

A run that was killed leaves table and settings behind, and the file with the former settings beside the lock: so the
next run knows that there is something to take over (kernel mode) or to take back (user mode).
"""

from __future__ import annotations

import fcntl
import os

from mproxy.ground.errors import MproxyError
from mproxy.service.control import make_directory, runtime_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Logger


def _stem(place: str) -> str:
    """Namespaces may share the directory, so the inode of ours is in the name."""
    return os.path.join(place, f"kernel-{os.stat('/proc/self/ns/net').st_ino}")


def take_lock() -> tuple[int, str] | None:
    """(descriptor of the lock, file for the former settings); None: another process has it."""
    place = runtime_directories({}, 0)[0]
    make_directory(place)
    stem = _stem(place)
    lock = os.open(f"{stem}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock, f"{stem}.settings"


def take_back(log: Logger) -> None:
    """Undo what a killed run in kernel mode has left, if there was one: its table would go on leading connections to
    its own targets, past the rules of a run in user mode."""
    if os.geteuid() != 0 or not os.path.exists(f"{_stem(runtime_directories({}, 0)[0])}.settings"):
        return
    taken = take_lock()
    if taken is None:
        return  # it is alive
    from mproxy.relay.kernel import nft  # rarely needed in user mode
    from mproxy.relay.kernel.kernel_settings import KernelSettings
    lock, memory = taken
    try:
        nft.run(nft.remove_table())
    except MproxyError as error:  # without the table's guards the settings must go all the more
        log.error("table-left", why=error)
    else:
        log.warning("table-removed", why="a relay in kernel mode was killed and had left it")
    for what in KernelSettings(memory).restore():
        log.warning("setting-left", what=what)
    os.close(lock)
