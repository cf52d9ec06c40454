"""What a program leaves with the service manager when it is restarted, and has again at its next start (sd_notify(3),
FDSTORE=1; sd_listen_fds(3)): names, messages, and what comes back.

The manager knows a name, and neither order nor number: so there is a manifest, which tells each connection by its
inode.
"""

from __future__ import annotations

import json
import os
import re
import zlib

from mproxy.ground.errors import LocalError, MproxyError
from mproxy.io.sealed_file import is_sealed, make_sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Any

# The names of all come in one variable of the environment, which may be 128 KiB long (execve(2), MAX_ARG_STRLEN):
# longer names of connections would leave room for fewer.
MOST_CONNECTIONS = 32000
_OURS = re.compile(r"mproxy-(manifest|dump|port)(-\d+)*|app|a\d+")

# How much longer the manager is to wait for the program's end, from each message on.
EXTENSION_US = 30_000_000

# Of a manifest. Those of several workers say besides which of the listeners are the worker's alone, and how many
# workers there were.
FORMAT, OF_SEVERAL = 1, 2
LONGEST_MANIFEST = 4 << 20
_FIRST_FD = 3


class Names:
    """Of what a worker leaves; the first of several has those of the only one."""

    def __init__(self, worker: int = 0) -> None:
        self.worker = worker
        behind = f"-{worker}" if worker else ""
        self.manifest = f"mproxy-manifest{behind}"
        self.dump = f"mproxy-dump{behind}"
        self.connection = f"a{worker}" if worker else "app"
        self._listener = f"mproxy-port{behind}-"

    def listener(self, number: int) -> str:
        """Of that one of the manifest's sockets that listen."""
        return f"{self._listener}{number}"


class DamagedStore(MproxyError):
    """What came back is not what was left."""


def store_room(environ: Mapping[str, str] = os.environ) -> int:
    """How many descriptors the manager keeps; LocalError says why there are none."""
    if not environ.get("NOTIFY_SOCKET"):
        raise LocalError("no service manager that keeps descriptors has started this program; under systemd set"
                         " FileDescriptorStoreMax= and NotifyAccess=main in its unit")
    text = environ.get("FDSTORE", "")
    if not text.isdigit() or not int(text):
        raise LocalError("it is not known how many descriptors the service manager keeps: set FileDescriptorStoreMax=N"
                         " in the unit, and before systemd 254 also Environment=FDSTORE=N")
    return int(text)


def store_message(name: str) -> bytes:
    """Keep the descriptors that come with it, also while they have an error or an end to tell. The manager compares
    each with each, so thousands take seconds: it is not to lose its patience with us."""
    return f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}\nEXTEND_TIMEOUT_USEC={EXTENSION_US}".encode()


def remove_message(name: str) -> bytes:
    """Keep no descriptor of that name any more."""
    return f"FDSTOREREMOVE=1\nFDNAME={name}".encode()


def stored_workers(environ: Mapping[str, str] = os.environ) -> int | None:
    """How many workers the run had that has left something; None: none has, or that cannot be told."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    for fd, name in enumerate(environ.get("LISTEN_FDNAMES", "").split(":"), _FIRST_FD):
        if name.startswith(Names().manifest):
            try:
                return int(read_manifest(fd).get("workers", 1))
            except (DamagedStore, OSError, ValueError):
                pass  # whoever reads it later says so
    return None


def take_given(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[int]]:
    """Descriptors that the manager has kept for us, by name. Removes the variables, which are not for our children."""
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    given: dict[str, list[int]] = {}
    if pid != str(os.getpid()) or count != str(len(names)):
        return given
    for fd, name in enumerate(names, _FIRST_FD):
        if _OURS.fullmatch(name):
            os.set_inheritable(fd, False)
            given.setdefault(name, []).append(fd)
    return given


def identity(fd: int) -> tuple[int, int]:
    """The same for a descriptor and all that were made of it, and of nothing else that is open."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def make_manifest(what: Mapping[str, Any]) -> int:
    """A sealed file that says what belongs to what; OSError."""
    text = json.dumps({"format": OF_SEVERAL if "workers" in what else FORMAT, **what}).encode()
    data = b"%08x %s" % (zlib.crc32(text), text)

    def fill(room: Any) -> None:
        room(len(data))[:] = data

    return make_sealed(Names().manifest, fill)[0]


def read_manifest(fd: int) -> dict[str, Any]:
    """What it says; DamagedStore."""
    if not is_sealed(fd) or os.fstat(fd).st_size > LONGEST_MANIFEST:
        raise DamagedStore("its manifest could have been changed")
    check, _, text = os.pread(fd, LONGEST_MANIFEST, 0).partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        raise DamagedStore("its manifest is damaged")
    found: dict[str, Any] = json.loads(text)
    if not FORMAT <= found["format"] <= OF_SEVERAL:
        raise DamagedStore(f"its manifest has format {found['format']}, and this build reads {FORMAT} to {OF_SEVERAL}")
    return found
