"""`sproxy --attach`: joins standard input and output to the sproxy that runs here, for a cproxy that has no other way.

It is a pipe: what it carries is sealed between cproxy and sproxy. It ends when either side of it does; the session does
not, and the next one takes its place.

With --start there need not be an sproxy (mproxy.programs.started), and a first line says how to reach it without this
pipe: `mproxy-attached ports=6200 key=SHA256:...`. Whoever is not interested skips it as a banner.
"""

from __future__ import annotations

import os
import socket
import sys

from mproxy.ground.errors import MproxyError
from mproxy.io.stdio import check_stdio
from mproxy.policy.announcement import announce
from mproxy.service.control import MALFORMED, PATIENCE_S, ask, find_running, parse, short_path, staying_directory
from mproxy.service.exit import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PIECE_BYTES = 1 << 18

# How long to wait for sproxy's last bytes when standard input has ended.
LAST_S = 2

LONGEST_ANSWER = 4096


def main(argv: list[str] | None = None) -> int:
    """The exit status."""
    starts = "--start" in (sys.argv[1:] if argv is None else argv)
    return exit_status("sproxy", _attach_start if starts else _attach, argv)


def _attach(argv: list[str] | None) -> int:
    from mproxy.programs.sproxy_options import parse_attach
    port = parse_attach(argv)
    check_stdio([0, 1])
    connection, _facts = connect(choose(port))
    with connection:
        splice(connection)
    return 0


def _attach_start(argv: list[str] | None) -> int:
    from mproxy.programs.started import join_or_start, own_daemon
    daemon = _parse_start(sys.argv[1:] if argv is None else argv) or own_daemon()
    check_stdio([0, 1])
    connection, facts = join_or_start(daemon, connect)
    with connection:
        os.write(1, announce(facts.get("ports", ()), facts.get("key", "")))
        splice(connection)
    return 0


def _parse_start(argv: list[str]) -> tuple[str, int] | None:
    """The daemon that the command line names. ssh runs the one that names none, and waits for this: the parser takes
    10 ms, and is left out there."""
    if argv == ["--attach", "--start"]:
        return None
    from mproxy.programs.sproxy_options import parse_attach_start
    return parse_attach_start(argv)


def choose(port: int | None) -> str:
    """The control socket of the sproxy to join; MproxyError if there is none, or no way to know which."""
    found = []
    started = staying_directory("started")
    for _program, pid, path in find_running("sproxy"):
        try:
            answer = ask(path, "status")
        except MproxyError:
            continue  # it is ending
        if port is None and answer.get("uid") != os.geteuid():
            continue  # root sees those of others, too, and may name one
        listening = [str(address) for address in answer.get("listening", ())]
        found.append((pid, path, listening))
    if port is not None:
        found = [each for each in found if any(address.endswith(f":{port}") for address in each[2])]
        which = f"sproxy of this user that listens on port {port}"
    else:
        which = "sproxy of this user"
        found = [each for each in found if not started or not each[1].startswith(started)] or found
    if not found:
        raise MproxyError(f"cannot attach: no {which} is running on this host")
    if len(found) > 1:
        ports = sorted({address.rpartition(":")[2] for _pid, _path, listening in found for address in listening})
        raise MproxyError(f"cannot attach: {len(found)} sproxies of this user are running here; choose one by its port"
                          f" (sproxy --attach PORT): {', '.join(ports)}")
    return found[0][1]


def connect(path: str) -> tuple[socket.socket, dict[str, Any]]:
    """A connection to the sproxy with that control socket, on which it expects what cproxy says, and what it tells of
    itself. MproxyError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(PATIENCE_S)
        with short_path(path) as short:
            connection.connect(short)
        connection.sendall(b'{"command": "attach"}\n')
        answer = b""
        while not answer.endswith(b"\n") and len(answer) < LONGEST_ANSWER:
            there = connection.recv(LONGEST_ANSWER, socket.MSG_PEEK)
            if not there:
                raise ConnectionResetError
            line, end, _rest = there.partition(b"\n")
            answer += connection.recv(len(line + end))  # what follows is for cproxy
        connection.settimeout(None)
    except OSError:
        connection.close()
        raise MproxyError("cannot attach: sproxy does not answer; it may be ending: try again") from None
    try:
        facts = parse(answer)
        if facts["ok"]:
            return connection, facts
    except MALFORMED:
        pass
    connection.close()
    raise MproxyError("cannot attach: sproxy is ending, or is a version without --attach")


def splice(connection: socket.socket) -> None:
    """Pass bytes both ways until one side ends."""
    import threading
    for fd in (0, 1):
        os.set_blocking(fd, True)
    inbound = threading.Thread(target=_feed, args=(connection,), daemon=True)
    inbound.start()
    try:
        _pass(lambda: connection.recv(PIECE_BYTES), lambda data: os.write(1, data))
    except OSError:
        pass  # whoever reads standard output has gone
    connection.close()


def _feed(connection: socket.socket) -> None:
    try:
        _pass(lambda: os.read(0, PIECE_BYTES), connection.send)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(LAST_S)
    except OSError:
        pass  # sproxy has closed it, which the other direction sees


def _pass(read: Callable[[], bytes], write: Callable[[bytes], int]) -> None:
    while data := read():
        while data:
            data = data[write(data):]
