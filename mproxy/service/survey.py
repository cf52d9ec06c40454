"""Asks every running program at once how it is: one that hangs costs its time, and no other's answer."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time

from mproxy.service.answers import STRANGE, is_status
from mproxy.service.control import LONGEST_ANSWER, find_running, parse, short_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = dict[str, Any]

RECEIVE_BYTES = 1 << 20

# What has a control socket for other commands.
WITHOUT_STATUS = ("impair",)

# Asked at once; each holds a descriptor.
AT_ONCE = 200

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid


class Surveyed:
    """A program that runs, and its answer: `facts` is None when none came in time, or one that cannot be relied on."""

    __slots__ = ("facts", "path", "pid", "program", "uid", "why")

    def __init__(self, program: str, pid: int, path: str, uid: int, facts: Facts | None = None,
                 why: str = "no answer") -> None:
        self.program = program
        self.pid = pid
        self.path = path    # of its control socket
        self.uid = uid      # whose it is, as the kernel says
        self.facts = facts
        self.why = why      # there are no facts


def survey(patience_s: float, as_text: bool = False, which: str | None = None, **more: object) -> list[Surveyed]:
    """All programs of this user, for root those of the host; each gets `patience_s` to answer, all at the same time.

    `which`: a kind of program, or a process: if there is one, only those are asked. (Names are known by answers alone.)
    `as_text`: lists of streams may be a `StreamText`, for who passes them on. `more`: what to ask besides, as the
    control socket's `status` takes it. Sockets that killed programs have left are passed over.
    """
    found = []
    running = [one for one in find_running() if one[0] not in WITHOUT_STATUS]
    running = [one for one in running if which in (one[0], str(one[1]))] or running
    request = json.dumps({"command": "status", **more}).encode() + b"\n"
    for start in range(0, len(running), AT_ONCE):
        found += _ask_at_once(running[start:start + AT_ONCE], request, time.monotonic() + patience_s, as_text)
    return found


def _ask_at_once(running: list[tuple[str, int, str]], request: bytes, ends_at: float, as_text: bool) -> list[Surveyed]:
    poll = select.poll()
    asked: dict[int, _Asked] = {}
    found = []
    for program, pid, path in running:
        try:
            one = _Asked(program, pid, path, request)
        except ConnectionRefusedError:
            continue  # it was killed, whatever process has its number now
        except OSError:
            if is_there(path, pid):
                found.append(Surveyed(program, pid, path, owner(path)))
            continue
        asked[one.socket.fileno()] = one
        poll.register(one.socket, select.POLLIN)
    waiting = dict(asked)
    while waiting and (left_s := ends_at - time.monotonic()) > 0:
        for fd, _events in poll.poll(left_s * 1000):
            if waiting[fd].is_done():
                poll.unregister(fd)
                del waiting[fd]
    for one in asked.values():
        surveyed = one.end(as_text)
        if surveyed is not None:
            found.append(surveyed)
    return found


class _Asked:
    """A program that has got its question; OSError when it cannot be asked."""

    def __init__(self, program: str, pid: int, path: str, request: bytes) -> None:
        self._program, self._pid, self._path = program, pid, path
        self._parts: list[bytes] = []
        self._size = 0
        self._answered = False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.socket.setblocking(False)
            with short_path(path) as short:
                self.socket.connect(short)
            self._uid = _CREDENTIALS.unpack(
                self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
            self.socket.send(request)
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.socket.close()
            raise

    def is_done(self) -> bool:
        """Take what has come; whether that is all there will be."""
        try:
            part = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._parts.append(part)
        self._size += len(part)
        self._answered = not part
        return not part or self._size > LONGEST_ANSWER

    def end(self, as_text: bool) -> Surveyed | None:
        """What has become of it; None when the program has gone meanwhile."""
        self.socket.close()
        facts, answer = None, b"".join(self._parts) if self._answered else b""
        try:
            facts = _with_text(answer, self._program) if as_text else None
            checked = facts is not None
            if not checked:
                facts = parse(answer)
                checked = is_status(facts, self._program)
        except (ValueError, RecursionError):
            checked = False
        if checked:
            return Surveyed(self._program, self._pid, self._path, self._uid, facts)
        if not is_there(self._path, self._pid):
            return None
        why = STRANGE if isinstance(facts, dict) else "no answer"
        return Surveyed(self._program, self._pid, self._path, self._uid, why=why)


def _with_text(answer: bytes, program: str) -> Facts | None:
    """The facts of an answer with its lists of streams as they were written; None: it is not written as ours are, or is
    not what it should be. ValueError, RecursionError."""
    from mproxy.service._stream_text import take_streams
    taken = take_streams(answer)
    if taken is None:
        return None
    facts = parse(taken[0])
    if not is_status(facts, program):
        return None
    sessions = [session for session in facts.get("sessions", ()) if session.get("stream_list") == []]
    if len(sessions) != len(taken[1]):
        return None
    for session, streams in zip(sessions, taken[1], strict=True):
        session["stream_list"] = streams
    checked: Facts = facts
    return checked


def is_there(path: str, pid: int) -> bool:
    """Whether a program still runs, as far as can be seen from outside."""
    return os.path.exists(path) and os.path.exists(f"/proc/{pid}")


def owner(path: str) -> int:
    """Whose socket it is; ours when it has just gone."""
    try:
        return os.lstat(path).st_uid
    except OSError:
        return os.geteuid()
