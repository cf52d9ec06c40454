"""The sproxy that `sproxy --attach --start` leaves running: one for each user, host and daemon.

It needs to be found again by somebody who has logged out meanwhile, so its directory is not that of a login session but
in the user's state directory, which nobody else can write to:

    started/HOST/DAEMON/sproxy-PID.sock     its control socket
                        host-key.pem        its key, by which clients tell it from one for another daemon at its port
                        authorized_keys     keys that have come through --attach, and may come to its port from then on
                        log, log.old        of this start and of the last one
                        lock                held by who looks for it or starts it

It is a session leader without a terminal: the end of the ssh that started it does not concern it. Where logind ends all
that a user has left running (KillUserProcesses), it is put beyond that if the user may linger.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
import time

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import escaped, say_ending
from mproxy.policy.keys import make_private_directory
from mproxy.service.control import make_directory, started_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    Attached = TypeVar("Attached")

# Ports of which the first free one is taken: few enough to be opened in a firewall.
PORTS = range(6200, 6300)

# Without any session, also none that waits for its client, it ends.
EXIT_IDLE = "1d"

# How long it may take until it serves, and how often to look whether it does.
PATIENCE_S = 30
LOOK_S = 0.005

LOG_TAIL_BYTES = 2000

NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

UNCHANGEABLE = {signal.SIGKILL, signal.SIGSTOP}


def own_daemon() -> tuple[str, int]:
    """The sshd that has let us in, or would: at the port that ssh tells, on the loopback address."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return "127.0.0.1", int(words[3]) if len(words) == 4 and words[3].isdigit() else 22


def join_or_start(daemon: tuple[str, int], attach: Callable[[str], Attached]) -> Attached:
    """What `attach(control socket)` returns for the sproxy that serves the daemon, started now if none does; `attach`
    raises MproxyError where there is none any more. MproxyError if it cannot be started."""
    place = open_place(format_host_port(*daemon).replace(":", ","))  # $RUNTIME_DIRECTORY may have no colon
    with locked(os.path.join(place, "lock")):
        for path in sockets(place):
            with contextlib.suppress(MproxyError):
                return attach(path)
        return start(place, daemon, attach)


def open_place(name: str) -> str:
    """The directory of the sproxy with that name; MproxyError if it is not this user's alone."""
    started = started_directory()
    if started is None:
        raise MproxyError("cannot start sproxy: no home directory for its files; set HOME")
    make_private_directory(os.path.dirname(started))
    place = os.path.join(started, name)
    try:
        for directory in (os.path.dirname(started), started, place):
            make_directory(directory)
    except UsageError as error:
        raise MproxyError(f"cannot start sproxy: {error}") from None
    return place


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """One process at a time."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sockets(place: str) -> list[str]:
    """Control sockets in the directory. One that was left behind refuses, and the next sproxy removes it."""
    return [os.path.join(place, name) for name in sorted(os.listdir(place)) if name.endswith(".sock")]


def start(place: str, daemon: tuple[str, int], attach: Callable[[str], Attached]) -> Attached:
    """Start one, and what `attach` returns for it as soon as it serves."""
    log = os.path.join(place, "log")
    with contextlib.suppress(FileNotFoundError):
        os.replace(log, f"{log}.old")
    name = format_host_port(*daemon)
    words = ["--name", f"started:{name}", "--log-file", log, "--state-dir", place, "--closed", "--trust-attached",
             "--exit-idle", EXIT_IDLE, "--source-per-key", str(free_port()), name]
    pid = spawn([*lingering(), sys.executable, "-PS", "-m", "mproxy", "sproxy", *words], place, log)
    path = os.path.join(place, f"sproxy-{pid}.sock")
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        if os.path.exists(path):
            with contextlib.suppress(MproxyError):
                return attach(path)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise MproxyError(f"cannot start sproxy: {last_words(log) or say_ending(status)} (its log: {log})")
        time.sleep(LOOK_S)
    raise MproxyError(f"cannot start sproxy: process {pid} does not answer within {PATIENCE_S} s (its log: {log})")


def spawn(command: list[str], place: str, log: str) -> int:
    """Run a program that stays, in a session of its own; returns its number."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(package), "RUNTIME_DIRECTORY": place}
    for variable in ("NOTIFY_SOCKET", "STATE_DIRECTORY"):
        environment.pop(variable, None)
    os.chdir("/")
    os.umask(0o077)
    return os.posix_spawnp(
        command[0], command, environment, setsid=True, setsigmask=(), setsigdef=signal.valid_signals() - UNCHANGEABLE,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                      (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                      (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)])


def lingering() -> list[str]:
    """What to put before a command so that logind does not end it with the user's last login: a scope of the user's own
    service manager. It helps only those who may linger, as that manager is ended with the login otherwise."""
    import pwd
    import shutil
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return []
    can = os.path.exists(f"/var/lib/systemd/linger/{user}") and os.path.exists(os.path.join(
        runtime, "systemd", "private")) and shutil.which("systemd-run")
    return ["systemd-run", "--user", "--scope", "--quiet", "--collect", "--"] if can else []


def free_port() -> int:
    """The first free one of PORTS; 0, which is any, if none is."""
    for port in PORTS:
        try:
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    probe.bind((address, port))
                    probe.listen(1)
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in NO_IPV6:
                return port
        else:
            return port
    return 0


def last_words(log: str) -> str:
    """The last line of a log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((escaped(line) for line in reversed(lines) if line.strip()), "")
