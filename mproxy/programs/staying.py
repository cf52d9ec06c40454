"""Programs that stay when whoever started them has logged out, and are found again by the next call of `sproxy --attach
--start` or `mproxy up`.

Each has a directory of its own, in the user's state directory: that of a login session would be removed with it, and
nobody else can write to this one.

    started/HOST/DAEMON/ or up/HOST/NAME/    PROGRAM-PID.sock   its control socket
                                             log, log.old       of this start and of the last one
                                             lock               held by who looks for it or starts it

It is a session leader without a terminal: the end of the ssh that started it does not concern it. Where logind ends all
that a user has left running (KillUserProcesses), it is put beyond that if the user may linger.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.left_ignored import CHANGEABLE
from mproxy.ground.private_directory import make_private_directory
from mproxy.ground.words import escaped, say_ending
from mproxy.service.control import make_directory, staying_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    Found = TypeVar("Found")

# How long it may take until it serves, and how often to look whether it does.
PATIENCE_S = 30
LOOK_S = 0.005

LOG_TAIL_BYTES = 2000

# What a launcher does. `python -m` would do the same, and take 6 ms more.
BEGIN = "import sys; sys.path.insert(0, {!r}); from mproxy.programs.start import mproxy; sys.exit(mproxy())"


def open_place(kind: str, name: str) -> str:
    """The directory of the program with that name, of `kind` "started" or "up"; MproxyError if it is not this user's
    alone."""
    directory = staying_directory(kind)
    if directory is None:
        raise MproxyError("cannot start it: no home directory for its files; set HOME")
    make_private_directory(os.path.dirname(directory))
    place = os.path.join(directory, name)
    try:
        for each in (os.path.dirname(directory), directory, place):
            make_directory(each)
    except UsageError as error:
        raise MproxyError(f"cannot start it: {error}") from None
    return place


@contextlib.contextmanager
def locked(place: str) -> Iterator[None]:
    """One process at a time."""
    fd = os.open(os.path.join(place, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sockets(place: str) -> list[str]:
    """Control sockets in the directory. One that was left behind refuses, and the next program removes it."""
    return [os.path.join(place, name) for name in sorted(os.listdir(place)) if name.endswith(".sock")]


def start(place: str, program: str, words: list[str], find: Callable[[str], Found]) -> Found:
    """Start `mproxy PROGRAM WORDS`, and what `find(its control socket)` returns as soon as it serves: until then that
    raises MproxyError. MproxyError if it does not start."""
    log = os.path.join(place, "log")
    with contextlib.suppress(FileNotFoundError):
        os.replace(log, f"{log}.old")
    python = [sys.executable, "-IS", "-c", BEGIN.format(package_parent())]
    pid = spawn([*lingering(), *python, program, *words], place, log)
    import json  # noqa: F401  what it answers will be: now there is time for that
    path = os.path.join(place, f"{program}-{pid}.sock")
    give_up_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up_at:
        if os.path.exists(path):
            with contextlib.suppress(MproxyError):
                return find(path)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise MproxyError(f"cannot start {program}: {last_words(log) or say_ending(status)} (its log: {log})")
        time.sleep(LOOK_S)
    raise MproxyError(f"cannot start {program}: process {pid} does not answer within {PATIENCE_S} s (its log: {log})")


def package_parent() -> str:
    """Where Python finds this package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def spawn(command: list[str], place: str, log: str) -> int:
    """Run a program that stays, in a session of its own; returns its number."""
    environment = {**os.environ, "RUNTIME_DIRECTORY": place}
    for variable in ("NOTIFY_SOCKET", "STATE_DIRECTORY"):
        environment.pop(variable, None)
    os.chdir("/")
    os.umask(0o077)
    return os.posix_spawnp(
        command[0], command, environment, setsid=True, setsigmask=(), setsigdef=CHANGEABLE,
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


def last_words(log: str) -> str:
    """The last line of a log."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((escaped(line) for line in reversed(lines) if line.strip()), "")
