"""The main process's part in a restart: what the worker has left with it is handed on to the service manager, which
hears nobody else (NotifyAccess=main).
"""

from __future__ import annotations

import os
import socket

from mproxy.io.manager_socket import MOST_FDS, ManagerSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Logger

LONGEST = 4096


def hand_on(end: socket.socket, log: Logger) -> int:
    """In the main process: give the manager what the worker has left; the program's exit status."""
    manager = ManagerSocket()
    try:
        while True:
            try:
                message, fds, _flags, _address = socket.recv_fds(
                    end, LONGEST, MOST_FDS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            manager.tell(message, fds)
            if fds:
                manager.settle()  # the manager's queue is short, and so may be what one user may have on the way
            for fd in fds:
                os.close(fd)
    except OSError as error:
        log.error("not-stored", why=f"the service manager does not take it: {error.strerror or error}; connections are"
                                    " reset")
        return 1
    return 0
