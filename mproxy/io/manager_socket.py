"""The service manager's socket, as sd_notify(3) and sd_notify_barrier(3) describe it."""

from __future__ import annotations

import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Most descriptors in one message: the kernel's SCM_MAX_FD is 253.
MOST_FDS = 250

# A manager that takes or answers nothing for so long has other troubles.
PATIENCE_S = 30


class ManagerSocket:
    """Of the manager that started this process, if one did."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @property
    def is_there(self) -> bool:
        """Whether the manager wants to hear anything."""
        return bool(self._address)

    def reach(self) -> None:
        """OSError if nobody is there to be told anything."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(self._address)

    def tell(self, text: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message, with descriptors; OSError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(self._address)
            if fds:
                socket.send_fds(sock, [text], fds)
            else:
                sock.send(text)

    def settle(self) -> None:
        """Wait until the manager has done all that it was told; OSError."""
        read_end, write_end = os.pipe()
        try:
            try:
                self.tell(b"BARRIER=1", [write_end])
            finally:
                os.close(write_end)
            poll = select.poll()
            poll.register(read_end, 0)
            if not poll.poll(PATIENCE_S * 1000):
                raise TimeoutError(f"the service manager has not answered within {PATIENCE_S} s")
        finally:
            os.close(read_end)
