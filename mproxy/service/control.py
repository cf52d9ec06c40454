"""How to ask and control a running program: by a unix socket that only its user can reach.

Each request is one JSON object on a line, {"command": "status", ...}; so is each answer (docs/status.md). The socket
is `PROGRAM-PID.sock` in a directory of mode 0700: whoever knows the process knows the socket. A client that sends
nonsense, never reads or never ends costs its connection. Answers are made in slices: all clients together get
`SLICE_US` of a turn of the loop, and each at least one part of its answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from mproxy.ground.config import default_state_dir
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.keeper.main_process import main_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.io._loop import Loop
    from mproxy.service.log import Log

    # Called once with the answer: an object, or the parts of its JSON text, made only as fast as they are read; or who
    # takes the connection.
    Reply = Callable[[Mapping[str, Any] | Iterable[str] | "Handover"], None]
    Command = Callable[[dict[str, Any], Reply], None]

# Most bytes of a request, and clients at once: whoever can connect is the program's own user, but may make mistakes.
LONGEST_REQUEST = 4096
MOST_CLIENTS = 16

# Microseconds of one turn of the loop that answers may take, and bytes of one slice of an answer.
SLICE_US = 500
SLICE_BYTES = 65536

# Most bytes of an answer that a client accepts: 100,000 streams are some 50 MiB.
LONGEST_ANSWER = 256 << 20

# Who has programs stay: `sproxy --attach --start`, and `mproxy up`.
STAYING = ("started", "up")

# How long a client waits for an answer. A reload of thousands of rules is done in a fraction of it.
PATIENCE_S = 30

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


def runtime_directories(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> list[str]:
    """Where the socket's directory may be, best first: the service manager's, the session's, the system's, and for
    those without any of these one in /tmp."""
    uid = os.geteuid() if uid is None else uid
    found = []
    if environ.get("RUNTIME_DIRECTORY"):
        found.append(environ["RUNTIME_DIRECTORY"].split(":")[0])
    if environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        found.append(os.path.join(environ["XDG_RUNTIME_DIR"], "mproxy"))
    found.append("/run/mproxy" if uid == 0 else f"/run/user/{uid}/mproxy")
    found.append(f"/tmp/mproxy-{uid}")
    return found


def staying_directory(kind: str) -> str | None:
    """Where programs that stay when their user logs out have directories for their sockets, one each: the session's own
    is removed then. It is this host's, as several may share a home. `kind`: one of STAYING. None: there is no state
    directory."""
    state_dir = default_state_dir()
    return state_dir and os.path.join(state_dir, kind, os.uname().nodename.replace("/", "_") or "localhost")


def make_directory(path: str) -> None:
    """Make sure that `path` is a directory of ours that nobody else can enter."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UsageError(f"cannot create {path} for the control socket: {error.strerror}; set XDG_RUNTIME_DIR to a"
                         " directory that you own") from None
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UsageError(f"{path} is not a directory of this user: remove it, or set XDG_RUNTIME_DIR to another one")
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)


def sweep(place: str) -> None:
    """Remove sockets of programs that were killed: no process has the number in their name, and nobody listens."""
    for name in os.listdir(place):
        pid = name.removesuffix(".sock").rpartition("-")[2]
        if not name.endswith(".sock") or not (pid.isascii() and pid.isdigit()) or os.path.exists(f"/proc/{pid}"):
            continue
        try:
            with (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe,
                  short_path(os.path.join(place, name)) as short):
                probe.connect(short)  # a program in a container has a number that we do not see
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(place, name))
        except OSError:
            pass


@contextlib.contextmanager
def short_path(path: str) -> Iterator[str]:
    """Another path to `path`: addresses of unix sockets have at most 107 bytes (unix(7)), paths may have more."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def open_control(loop: Loop, log: Log, program: str, commands: Mapping[str, Command]) -> Server | None:
    """The control socket of this process, in the best possible place; None, and a warning, if there is none."""
    wrong = None
    for place in runtime_directories():
        try:
            make_directory(place)
            sweep(place)
            return Server(loop, os.path.join(place, f"{program}-{main_pid()}.sock"), commands)
        except MproxyError as error:
            wrong = wrong or error
    log.warning("no-control-socket", why=wrong)
    return None


def credentials_of(connection: socket.socket) -> tuple[int, int, int]:
    """(process, user, group) at the other end of a unix socket."""
    pid, uid, gid = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


class NobodyListens(MproxyError):
    """The control socket was left behind by a program that was killed, whatever process has its number now."""


class Handover:
    """The answer to a request that turns the connection into something else: `taken(connection, pid)` has it after a
    line that says so, with `facts`, and with the process at its other end."""

    def __init__(self, taken: Callable[[socket.socket, int], object], facts: Mapping[str, object]) -> None:
        self.taken = taken
        self.facts = facts


class Desk:
    """Answers commands, each by its function in `commands`, on connections that it is given by `adopt`."""

    def __init__(self, loop: Loop, commands: Mapping[str, Command]) -> None:
        self._loop = loop
        self._commands = commands
        self._clients: dict[_Client, None] = {}  # in the order in which they came

    def adopt(self, connection: socket.socket) -> None:
        """Answer what comes on this connection."""
        if len(self._clients) >= MOST_CLIENTS:  # first a client that waits for nothing goes, else the oldest
            min(self._clients, key=lambda client: client.waits).close()
        self._clients[_Client(self._loop, connection, self)] = None

    def close(self) -> None:
        """Answer nobody any more."""
        for client in list(self._clients):
            client.close()

    def forget(self, client: _Client) -> None:
        """It has closed."""
        self._clients.pop(client, None)

    def slice_ns(self) -> int:
        """How long this turn may work on one client's answer."""
        return SLICE_US * 1000 // max(1, sum(client.waits for client in self._clients))

    def answer(self, line: bytes, reply: Reply) -> None:
        """Answer one request."""
        import json  # needed only by programs that are asked
        try:
            request = json.loads(line)
            command = request["command"]
            answer = self._commands.get(command)
        except (ValueError, KeyError, TypeError, RecursionError):
            reply({"ok": False, "lines": ['not a request: expected a JSON object with "command"']})
            return
        if answer is None:
            reply({"ok": False, "lines": [f"unknown command: {command}"]})
        else:
            answer(request, reply)


class Server:
    """A desk that listens."""

    def __init__(self, loop: Loop, path: str, commands: Mapping[str, Command]) -> None:
        self.path = path
        self._desk = Desk(loop, commands)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if os.path.lexists(path):
                os.unlink(path)  # left by a process that had the same number
            with short_path(path) as short:
                self._socket.bind(short)
            os.chmod(path, 0o600)
            self._socket.listen(MOST_CLIENTS)
        except OSError as error:
            self._socket.close()
            raise UsageError(f"cannot listen on the control socket {path}: {error.strerror}") from None
        self._watch = loop.watch(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._watch.close()
        self._socket.close()
        self._desk.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def _accept(self, _events: int) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        _pid, uid, _gid = credentials_of(connection)
        if uid not in (0, os.geteuid()):  # the directory's mode has kept others out already
            connection.close()
            return
        self._desk.adopt(connection)


class _Client:
    """One request at a time on its way in, then its answer on its way out."""

    def __init__(self, loop: Loop, connection: socket.socket, server: Desk) -> None:
        connection.setblocking(False)
        self._connection: socket.socket | None = connection
        self._server = server
        self._request = b""
        self._parts: Iterator[str] | None = None  # parts of the answer that are not made yet
        self._rest = memoryview(b"")              # made and not yet sent
        self._ended = False                       # it will send no more
        self.waits = False                        # it waits for an answer, or the rest of one
        self._watch = loop.watch(connection.fileno(), self._ready)

    def close(self) -> None:
        if self._connection is not None:
            self._watch.close()
            self._connection.close()
            self._connection = None
            self._server.forget(self)

    def _ready(self, _events: int) -> None:
        try:
            if self._parts is not None:
                self._send()
            else:
                self._receive()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _receive(self) -> None:
        assert self._connection is not None
        data = self._connection.recv(LONGEST_REQUEST)
        self._request += data
        self._ended = not data
        self._next_request()

    def _next_request(self) -> None:
        """Answer the request, if a whole line has arrived."""
        line, end, rest = self._request.partition(b"\n")
        if end:
            self._request = rest
            self.waits = True
            self._watch.set()  # it has stopped sending, but still waits
            self._server.answer(line, self._reply)
        elif self._ended or len(line) > LONGEST_REQUEST:
            self.close()
        else:
            self._watch.set(read=True)

    def _reply(self, answer: Mapping[str, Any] | Iterable[str] | Handover) -> None:
        if self._connection is None:
            return
        if isinstance(answer, Handover):
            self._hand_over(self._connection, answer)
            return
        if isinstance(answer, dict):
            import json
            answer = [json.dumps(answer)]
        self._parts = iter(answer)
        self._watch.set(write=True)

    def _hand_over(self, connection: socket.socket, answer: Handover) -> None:
        """It is not a client any more. Whoever wants this waits for the answer before anything else is sent."""
        import json
        pid, _uid, _gid = credentials_of(connection)
        self._connection = None
        self._watch.close()
        self._server.forget(self)
        try:
            connection.send(json.dumps({"ok": True, **answer.facts}).encode() + b"\n")
        except OSError:
            connection.close()
        else:
            answer.taken(connection, pid)

    def _send(self) -> None:
        assert self._connection is not None and self._parts is not None
        if not self._rest:
            self._rest = memoryview(self._make())
            if not self._rest:
                self._parts, self.waits = None, False
                self._next_request()
                return
        self._rest = self._rest[self._connection.send(self._rest):]

    def _make(self) -> bytes:
        """The next slice of the answer; empty at its end."""
        assert self._parts is not None
        made: list[str] = []
        size, enough_at = 0, time.monotonic_ns() + self._server.slice_ns()  # the loop's time is that of the turn
        for part in self._parts:
            made.append(part)
            size += len(part)
            if size >= SLICE_BYTES or time.monotonic_ns() >= enough_at:
                return "".join(made).encode()
        if self.waits:
            made.append("\n")
            self.waits = False
        return "".join(made).encode()


# ---- the other side

# What code that believes in the answer of a stranger may run into.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


def parse(answer: bytes) -> Any:
    """The JSON value; ValueError, RecursionError. Meanwhile Python looks for no garbage in cycles: there is none in it,
    and all that has been made so far of thousands of streams would be looked at again and again."""
    import gc
    import json
    pausing = gc.isenabled()
    gc.disable()
    try:
        return json.loads(answer)
    finally:
        if pausing:
            gc.enable()


def ask(path: str, command: str, **more: object) -> dict[str, Any]:
    """The answer of the program that listens on `path`; MproxyError if there is none. Blocks."""
    import json
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            with short_path(path) as short:
                connection.connect(short)
            connection.sendall(json.dumps({"command": command, **more}).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            parts, size = [], 0
            while size < LONGEST_ANSWER and (part := connection.recv(1 << 20)):
                parts.append(part)
                size += len(part)
        answer = parse(b"".join(parts))
        if not isinstance(answer, dict):
            raise ValueError
        return answer
    except ConnectionRefusedError:
        raise NobodyListens(f"nobody listens on {path}: its program was killed") from None
    except TimeoutError:
        raise MproxyError(f"the program on {path} does not answer within {PATIENCE_S} s") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no answer"
        raise MproxyError(f"cannot ask the program on {path}: {reason}") from None


def find_running(program: str = "*") -> list[tuple[str, int, str]]:
    """(program, process, socket) of the programs running here: this user's, or for root the whole host's."""
    from glob import escape, glob
    found: dict[int, tuple[str, int, str]] = {}
    for place in search_places():
        for path in sorted(glob(os.path.join(escape(place), f"{program}-*.sock"))):
            name, _, pid = os.path.basename(path).removesuffix(".sock").rpartition("-")
            if pid.isdigit() and os.path.exists(f"/proc/{pid}"):
                found.setdefault(int(pid), (name, int(pid), path))
    return [found[pid] for pid in sorted(found)]


def search_places() -> list[str]:
    """Directories in which there may be sockets of this user's programs; for root those of all users."""
    from glob import escape, glob
    places = runtime_directories()
    for directory in filter(None, map(staying_directory, STAYING)):
        places += sorted(glob(os.path.join(escape(directory), "*", "")))
    if os.geteuid() == 0:
        for pattern in ("/run/mproxy*", "/run/user/*/mproxy", "/tmp/mproxy-*"):
            places += sorted(glob(pattern))
    return list(dict.fromkeys(places))


def find_socket(program: str, pid: int) -> str:
    """The control socket of a process: it may run as another user, or under a service manager."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        uid = os.geteuid()
    places = list(dict.fromkeys([*search_places(), *runtime_directories({}, uid), "/run/mproxy"]))
    for place in places:
        path = os.path.join(place, f"{program}-{pid}.sock")
        if os.path.exists(path):
            return path
    raise MproxyError(f"process {pid} has no control socket in {' or '.join(places)}")
