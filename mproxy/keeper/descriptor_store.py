"""What a program leaves with the service manager when it is restarted, and has again at its next start (sd_notify(3),
FDSTORE=1; sd_listen_fds(3)): names, messages, and what comes back.

The manager knows a name, and neither order nor number: so there is a manifest, which tells each connection by its
inode.
"""

from __future__ import annotations

import json
import os
import zlib

from mproxy.ground.errors import LocalError, MproxyError
from mproxy.io.sealed_file import is_sealed, make_sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Any

MANIFEST = "mproxy-manifest"
DUMP = "mproxy-dump"
LISTENER = "mproxy-port-"  # and which of the manifest's

# The names of all come in one variable of the environment, which may be 128 KiB long (execve(2), MAX_ARG_STRLEN): a
# longer name would leave room for fewer.
CONNECTION = "app"
MOST_CONNECTIONS = 32000

# How much longer the manager is to wait for the program's end, from each message on.
EXTENSION_US = 30_000_000

FORMAT = 1
LONGEST_MANIFEST = 4 << 20
_FIRST_FD = 3


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


def take_given(environ: MutableMapping[str, str] = os.environ) -> dict[str, list[int]]:
    """Descriptors that the manager has kept for us, by name. Removes the variables, which are not for our children."""
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    given: dict[str, list[int]] = {}
    if pid != str(os.getpid()) or count != str(len(names)):
        return given
    for fd, name in enumerate(names, _FIRST_FD):
        if name in (MANIFEST, DUMP, CONNECTION) or name.startswith(LISTENER):
            os.set_inheritable(fd, False)
            given.setdefault(name, []).append(fd)
    return given


def identity(fd: int) -> tuple[int, int]:
    """The same for a descriptor and all that were made of it, and of nothing else that is open."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def make_manifest(what: Mapping[str, Any]) -> int:
    """A sealed file that says what belongs to what; OSError."""
    text = json.dumps({"format": FORMAT, **what}).encode()
    data = b"%08x %s" % (zlib.crc32(text), text)

    def fill(room: Any) -> None:
        room(len(data))[:] = data

    return make_sealed(MANIFEST, fill)[0]


def read_manifest(fd: int) -> dict[str, Any]:
    """What it says; DamagedStore."""
    if not is_sealed(fd) or os.fstat(fd).st_size > LONGEST_MANIFEST:
        raise DamagedStore("its manifest could have been changed")
    check, _, text = os.pread(fd, LONGEST_MANIFEST, 0).partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        raise DamagedStore("its manifest is damaged")
    found: dict[str, Any] = json.loads(text)
    if found["format"] != FORMAT:
        raise DamagedStore(f"its manifest has format {found['format']}, and this build reads {FORMAT}")
    return found
