"""How `mproxy relay status` and `reload` reach a running relay: a unix socket that only its user can reach.

One request a connection: a line of JSON, {"command": "status"}, and the answer is JSON up to the end of the
connection. The socket lies in a directory of mode 0700 under the runtime directory, as `relay-PID.sock`: who knows the
process knows the socket.
"""

import contextlib
import json
import os
import socket
import stat

from mproxy.ground.errors import MproxyError, UsageError

# Bytes of a request, and requests at once: whoever can connect is the relay's own user, and can be wrong.
LONGEST_REQUEST = 4096
MOST_CLIENTS = 16

# How long a client waits for an answer. A reload of thousands of rules is done in a fraction of it.
PATIENCE_S = 30


def runtime_directories(environ=os.environ, uid=None):
    """Where the socket's directory may be, best first: the service manager's, the session's, the system's."""
    uid = os.geteuid() if uid is None else uid
    found = []
    if environ.get("RUNTIME_DIRECTORY"):
        found.append(environ["RUNTIME_DIRECTORY"].split(":")[0])
    if environ.get("XDG_RUNTIME_DIR", "").startswith("/"):
        found.append(os.path.join(environ["XDG_RUNTIME_DIR"], "mproxy"))
    found.append("/run/mproxy" if uid == 0 else f"/run/user/{uid}/mproxy")
    return found


def make_directory(path):
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


@contextlib.contextmanager
def short_path(path):
    """Another way to say `path`: addresses of unix sockets end at 107 bytes (unix(7)), directories do not."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


class Server:
    """Listens for commands. `answer(command, reply)` must call `reply(object)` once, now or later."""

    def __init__(self, loop, path, answer):
        self.path = path
        self._loop = loop
        self._answer = answer
        self._clients = {}  # client -> None, in the order in which they came
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if os.path.lexists(path):
                os.unlink(path)  # of a process that had the same number
            with short_path(path) as short:
                self._socket.bind(short)
            os.chmod(path, 0o600)
            self._socket.listen(MOST_CLIENTS)
        except OSError as error:
            self._socket.close()
            raise UsageError(f"cannot listen on the control socket {path}: {error.strerror}") from None
        self._watch = loop.watch(self._socket.fileno(), self._accept)

    def close(self):
        """Close the socket and remove its file."""
        self._watch.close()
        self._socket.close()
        for client in list(self._clients):
            client.close()
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def _accept(self, _events):
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        if len(self._clients) >= MOST_CLIENTS:  # who has not asked anything goes first, then who came first
            min(self._clients, key=lambda client: client.asked).close()
        self._clients[_Client(self._loop, connection, self._answer, self._clients.pop)] = None


class _Client:
    """One request on its way in, then its answer on its way out."""

    def __init__(self, loop, connection, answer, forget):
        connection.setblocking(False)
        self._connection = connection
        self._answer = answer
        self._forget = forget
        self._request = b""
        self._rest = memoryview(b"")
        self.asked = False
        self._watch = loop.watch(connection.fileno(), self._ready)

    def close(self):
        if self._connection is not None:
            self._watch.close()
            self._connection.close()
            self._connection = None
            self._forget(self)

    def _ready(self, _events):
        try:
            if self._rest:
                self._send()
            else:
                self._receive()
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _receive(self):
        data = self._connection.recv(LONGEST_REQUEST)
        self._request += data
        if not data or (len(self._request) > LONGEST_REQUEST and b"\n" not in self._request):
            self.close()
        elif b"\n" in self._request and not self.asked:
            self.asked = True
            self._watch.set()  # its end of sending is no end of waiting
            try:
                command = json.loads(self._request.partition(b"\n")[0])["command"]
            except (ValueError, KeyError, TypeError):
                command = ""
            self._answer(command, self._reply)

    def _reply(self, answer):
        if self._connection is not None:
            self._rest = memoryview(json.dumps(answer).encode())
            self._watch.set(write=True)

    def _send(self):
        self._rest = self._rest[self._connection.send(self._rest):]
        if not self._rest:
            self.close()


# ---- the other side

def ask(pid, command):
    """The answer of relay process `pid`; MproxyError when it cannot be had. Blocks."""
    path = find_socket(pid)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            with short_path(path) as short:
                connection.connect(short)
            connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            parts = []
            while part := connection.recv(1 << 20):
                parts.append(part)
        return json.loads(b"".join(parts))
    except TimeoutError:
        raise MproxyError(f"process {pid} does not answer within {PATIENCE_S} s") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no answer"
        raise MproxyError(f"cannot ask process {pid} on {path}: {reason}") from None


def find_running():
    """Numbers of the processes of this user whose control sockets are there."""
    found = set()
    for place in runtime_directories():
        try:
            names = os.listdir(place)
        except OSError:
            continue
        pids = (name[len("relay-"):-len(".sock")] for name in names
                if name.startswith("relay-") and name.endswith(".sock"))
        found |= {int(pid) for pid in pids if pid.isdigit() and os.path.exists(f"/proc/{pid}")}
    return sorted(found)


def find_socket(pid):
    """The control socket of a process: it may run as another user, or under a service manager."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        uid = os.geteuid()
    places = [*runtime_directories(), *runtime_directories({}, uid), "/run/mproxy"]
    for place in dict.fromkeys(places):
        path = os.path.join(place, f"relay-{pid}.sock")
        if os.path.exists(path):
            return path
    raise MproxyError(f"process {pid} has no control socket in {' or '.join(dict.fromkeys(places))}")
