"""A `mproxy connect` that finds somebody waiting for it (mproxy.programs.standby), where Python was started first:
what programs/quick_start.c does otherwise.
"""

from __future__ import annotations

import os
import socket
import stat

from mproxy.service.control import credentials_of, runtime_directories, short_path

READY = b"+"

# Who waits has nothing else to do.
PATIENCE_S = 0.3


def use_standby(name: str) -> bool:
    """Hand standard input, output and error over to whoever waits at the socket of that name, and stay until it has let
    go of them; False, and nothing done, if nobody does."""
    if not all(map(is_pipe, (0, 1))):
        return False
    for place in runtime_directories():
        connection = _reach(place, name)
        if connection is not None:
            with connection:
                return _hand_over(connection)
    return False


def _reach(place: str, name: str) -> socket.socket | None:
    """A connection to the socket in that directory, which nobody but us can enter."""
    try:
        found = os.lstat(place)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            return None
        with short_path(os.path.join(place, name)) as short:
            os.stat(short)  # before anything else is done
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(short)
                if credentials_of(connection)[1] == os.geteuid():
                    return connection
            except OSError:
                pass
            connection.close()
    except OSError:
        pass
    return None


def _hand_over(connection: socket.socket) -> bool:
    try:
        connection.settimeout(PATIENCE_S)
        if connection.recv(1) != READY:
            return False
        socket.send_fds(connection, [READY], [0, 1, 2])
    except OSError:
        return False
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    connection.settimeout(None)
    try:
        connection.recv(1)
    except OSError:
        pass  # it has been killed
    return True


def is_pipe(fd: int) -> bool:
    """Whether it is open, and no file or terminal."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
