"""`--authorized-keys-command`: a program that says which lines of authorized_keys there are for a key, as with sshd.

It is asked when a key that is in no file wants a session, and the connection waits for it, beside the loop. Its answer
counts for CACHE_S. For keys with sessions, which go on by the last answer, it is asked again one after the other: what
it then says takes a line away as the file does; that it failed says nothing about them.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import signal
import sys
from collections import OrderedDict
from functools import partial

from mproxy._wire import CloseCode
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.ground.left_ignored import CHANGEABLE
from mproxy.ground.words import escaped, printable, say_ending
from mproxy.policy.grants import Grant
from mproxy.policy.keys import KEY_TYPE, SPKI_BYTES, fingerprint
from mproxy.policy.trust import SETTLE_S, check_private, find_grant, parse_authorized_keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mproxy.ground.shapes import Logger
    from mproxy.io._loop import Loop

    User = tuple[str, int, int]

SECOND_US = 1_000_000

# How long an answer counts for new sessions; of how many keys answers are kept besides those with sessions.
CACHE_S = 10
MOST_ANSWERS = 1024

# How long one run may take, and how many run at once, for strangers can have it run; the others wait.
LIMIT_US = 10 * SECOND_US
MOST_RUNS = 4

# How often it is asked about the key of a living session, and the pause from one such question to the next.
AGAIN_S = 60
PAUSE_US = SECOND_US

MOST_BYTES = 1 << 20
READ_BYTES = 65536
WORDS_BYTES = 200  # of what it says on standard error, for the log

# Becomes another user, and then the program; in a process of its own, as only that may.
AS_USER = """import os, sys
user, uid, gid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.initgroups(user, gid); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
os.execv(sys.argv[4], sys.argv[4:])"""


class Answer:
    """What it has said about a key."""

    __slots__ = ("asked_at", "changed_at", "failed", "grants", "is_final", "settled")

    def __init__(self) -> None:
        self.asked_at: float | None = None   # in seconds of the loop's clock; None: never
        self.failed = ""                     # why the last question had no answer
        self.grants: list[Grant] = []        # by the last answer
        self.settled: list[Grant] | None = None  # by that which counts for sessions; None: there is none yet
        self.changed_at: float | None = None     # when it began to say something else
        self.is_final = False                # what it says next counts for everybody

    def is_fresh(self, now: float) -> bool:
        """Whether it counts for a new session at `now`."""
        return self.asked_at is not None and now - self.asked_at < CACHE_S

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask again about a key with a session."""
        pause_s = SETTLE_S if self.changed_at is not None else AGAIN_S
        return self.asked_at is None or now - self.asked_at >= pause_s

    def take(self, grants: list[Grant], now: float) -> bool:
        """It says this; whether sessions have to be judged again. What differs from before counts for them once it has
        been said for SETTLE_S, as with a file."""
        is_same = _say_same(grants, self.grants)
        self.grants = grants
        if self.settled is None or _say_same(grants, self.settled):
            is_news, self.changed_at = self.settled is None, None
            self.settled = grants
            return is_news
        if self.changed_at is None or not is_same:
            self.changed_at = now
        if now - self.changed_at < SETTLE_S and not self.is_final:
            return False
        self.settled, self.changed_at, self.is_final = grants, None, False
        return True


def _say_same(some: list[Grant], others: list[Grant]) -> bool:
    return len(some) == len(others) and all(
        one.spki == other.spki and one.same_rights(other) for one, other in zip(some, others, strict=True))


class KeysCommand:
    """`command` has words as a shell would take them, without anything else that a shell does; in them %k is the key,
    %f its fingerprint, %t its type, %u and %U name and number of the user as whom sproxy runs, %% a %.

    `user` is the one as whom it runs, `own_user` the one as whom sproxy will; None: as now. UsageError when it cannot
    be run.
    """

    def __init__(self, command: str, user: str | None, own_user: str | None, log: Logger) -> None:
        self._log = log
        self._own = look_up(own_user) if own_user is not None else own_entry()
        self._words = split_command(command)
        self._user = self._runs_as(user)
        self._expand(bytes(SPKI_BYTES))
        self.has_news = False  # sessions have to be judged again; whoever looks clears it
        self._loop: Loop | None = None
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._waiting: dict[bytes, list[Callable[[], object]]] = {}  # for the answer about a key
        self._queue: dict[bytes, None] = {}  # in its order
        self._runs: dict[bytes, ProgramRun] = {}
        self._living: Callable[[], Iterable[bytes]] = tuple

    def _runs_as(self, name: str | None) -> User | None:
        """The user to become for it; None: sproxy's own."""
        if name is None:
            if self._own[1] == 0:
                raise UsageError("--authorized-keys-command needs --authorized-keys-command-user where sproxy runs as"
                                 " root: name a user who can do nothing else")
            return None
        user = look_up(name)
        if user[1] == self._own[1]:
            return None
        if self._own[1] != 0:
            raise UsageError(f"--authorized-keys-command-user {printable(name)}: sproxy runs as {self._own[0]}, and"
                             " only root can run a program as another user")
        return user

    def start(self, loop: Loop, living: Callable[[], Iterable[bytes]]) -> None:
        """Begin to ask; also again about the keys that `living()` gives."""
        self._loop, self._living = loop, living
        loop.call_later(PAUSE_US, self._ask_again)

    def ask(self, spki: bytes, living: bool, then: Callable[[], object]) -> bool:
        """Call `then` when there is an answer about that key; False: there is one that counts. `living`: it has a
        session, for which any will do."""
        answer = self._answers.get(spki)
        if answer is not None and (answer.is_fresh(self._now()) or (living and answer.settled is not None)):
            return False
        self._waiting.setdefault(spki, []).append(then)
        self._enqueue(spki)
        return True

    def check(self, spki: bytes) -> None:
        """PeerError if it has said just now that a key may not connect."""
        answer = self._answers.get(spki)
        if answer is not None and answer.is_fresh(self._now()) and not answer.grants and not answer.settled:
            raise PeerError(CloseCode.KEY_REFUSED, self._why(spki, answer))

    def find(self, spki: bytes, host: str, now: float, certificate: bytes) -> Grant:
        """The Grant for a key by the last answer, as `AuthorizedKeys.find`. PeerError."""
        answer = self._answers.get(spki)
        if answer is None or answer.failed or not answer.grants:
            raise PeerError(CloseCode.KEY_REFUSED, self._why(spki, answer))
        return find_grant(answer.grants, spki, host, now, certificate)

    def find_living(self, spki: bytes, host: str, now: float, certificate: bytes) -> Grant:
        """As `AuthorizedKeys.find_living`. Before there is any answer, as after the death of the worker before, nothing
        new is allowed, and it is asked at once."""
        answer = self._answers.get(spki)
        if answer is None or answer.settled is None:
            self._enqueue(spki)
            return Grant(spki, 0, "", {"target": frozenset(), "listen": frozenset()})
        try:
            return find_grant(answer.grants, spki, host, now, certificate, living=True)
        except PeerError:
            return find_grant(answer.settled, spki, host, now, certificate, living=True)

    def forget(self) -> None:
        """Ask anew about every key; the next answer counts for everybody."""
        for answer in self._answers.values():
            answer.asked_at, answer.is_final = None, True

    def _why(self, spki: bytes, answer: Answer | None) -> str:
        if answer is not None and answer.failed:
            return f"--authorized-keys-command has failed, and the key is in no file: {fingerprint(spki)}"
        return f"the key is not in authorized_keys: {fingerprint(spki)}"

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.now() / SECOND_US

    def _enqueue(self, spki: bytes) -> None:
        if spki not in self._runs:
            self._queue[spki] = None
            self._run_next()

    def _run_next(self) -> None:
        while self._queue and len(self._runs) < MOST_RUNS:
            spki = next(iter(self._queue))
            del self._queue[spki]
            assert self._loop is not None
            try:
                check_private(self._words[0])
                self._runs[spki] = ProgramRun(
                    self._loop, self._expand(spki), self._user or self._own, self._user is not None,
                    partial(self._ended, spki))
            except (OSError, MproxyError) as error:
                self._take(spki, b"", str(getattr(error, "strerror", None) or error))

    def _ended(self, spki: bytes, run: ProgramRun) -> None:
        del self._runs[spki]
        self._take(spki, run.said, run.problem)
        self._run_next()

    def _take(self, spki: bytes, said: bytes, problem: str) -> None:
        answer = self._answers.setdefault(spki, Answer())
        self._answers.move_to_end(spki)
        now = self._now()
        answer.asked_at, answer.failed = now, problem
        if problem:
            self._log.error("authorized-keys-command", why=problem, key=fingerprint(spki))
        else:
            self.has_news |= answer.take(parse_authorized_keys(said, self._words[0], self._warn), now)
        self._drop_old()
        for then in self._waiting.pop(spki, ()):
            then()

    def _warn(self, text: str) -> None:
        self._log.warning("authorized-keys", why=text)

    def _drop_old(self) -> None:
        if len(self._answers) > 2 * MOST_ANSWERS:
            living = set(self._living())
            idle = [spki for spki in self._answers if spki not in living and spki not in self._waiting]
            for spki in idle[:-MOST_ANSWERS]:
                del self._answers[spki]

    def _ask_again(self) -> None:
        """About one key with a session, the one whose answer is the oldest."""
        assert self._loop is not None
        self._loop.call_later(PAUSE_US, self._ask_again)
        now, oldest, found = self._now(), 0.0, b""
        for spki in set(self._living()) if not self._runs else ():
            answer = self._answers.get(spki)
            if answer is None or answer.is_due(now):
                asked_at = (answer.asked_at if answer is not None else None) or 0.0
                if not found or asked_at < oldest:
                    oldest, found = asked_at, spki
        if found:
            self._enqueue(found)

    def _expand(self, spki: bytes) -> list[str]:
        """The words for a key; UsageError."""
        values = {"k": base64.b64encode(spki).decode(), "f": fingerprint(spki), "t": KEY_TYPE, "u": self._own[0],
                  "U": str(self._own[1]), "%": "%"}

        def value_of(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise UsageError(f"--authorized-keys-command: unknown {printable(found[0])}; expected one of"
                                 f" {', '.join('%' + name for name in values)}")
            return values[found[1]]
        return [re.sub("%(.?)", value_of, word) for word in self._words]


def split_command(command: str) -> list[str]:
    """Its words; UsageError unless the first is a program that nobody else could have written."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--authorized-keys-command {printable(command)}: {str(error).lower()}") from None
    if not words or not words[0].startswith("/"):
        raise UsageError(f"--authorized-keys-command {printable(command)}: must begin with an absolute path")
    try:
        check_private(words[0])
        if os.path.isdir(words[0]):
            raise MproxyError("it is a directory")
        if not os.access(words[0], os.X_OK):
            raise MproxyError("cannot be executed (chmod +x)")
    except (OSError, MproxyError) as error:
        raise UsageError(f"--authorized-keys-command {printable(words[0])}:"
                         f" {getattr(error, 'strerror', None) or error}") from None
    return words


def look_up(name: str) -> User:
    """(name, number, group) of a user; UsageError."""
    import pwd  # needed here alone
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"--authorized-keys-command-user {printable(name)}: there is no such user on this system"
                         ) from None
    return entry.pw_name, entry.pw_uid, entry.pw_gid


def own_entry() -> User:
    """The same of whom this process runs as."""
    import pwd
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return str(os.geteuid()), os.geteuid(), os.getegid()
    return entry.pw_name, entry.pw_uid, entry.pw_gid


class ProgramRun:
    """One run of the program as `user`, whom it `becomes` if that is somebody else. `on_end(self)` is called once, when
    it has ended. OSError if it cannot be started."""

    def __init__(self, loop: Loop, words: list[str], user: User, becomes: bool,
                 on_end: Callable[[ProgramRun], object]) -> None:
        self.said = b""
        self.problem = ""  # why that does not count
        self._errors = b""
        self._on_end = on_end
        if becomes:
            words = [sys.executable, "-I", "-S", "-c", AS_USER, *map(str, user), *words]
        (self._out, out), (self._err, err) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
                       "USER": user[0], "LOGNAME": user[0]}
        try:
            self._pid = os.posix_spawn(
                words[0], words, environment, setsid=True, setsigmask=(), setsigdef=CHANGEABLE,
                file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, out, 1),
                              (os.POSIX_SPAWN_DUP2, err, 2)])
        except OSError:
            os.close(self._out)
            os.close(self._err)
            raise
        finally:
            os.close(out)
            os.close(err)
        for fd in (self._out, self._err):
            os.set_blocking(fd, False)
        self._pidfd = os.pidfd_open(self._pid)
        self._watches = [loop.watch(fd, callback) for fd, callback in (
            (self._out, lambda _events: self._read()), (self._err, lambda _events: self._read_errors()),
            (self._pidfd, lambda _events: self._ended()))]
        self._timer = loop.call_later(LIMIT_US, lambda: self._fail(f"it has not ended within {LIMIT_US // SECOND_US}s"))

    def _fail(self, problem: str) -> None:
        self.problem = self.problem or problem
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended

    def _read(self) -> bool:
        """Read some of what it says; whether there was any."""
        data = read_some(self._out)
        if data == b"":
            self._watches[0].close()
        self.said += data or b""
        if len(self.said) > MOST_BYTES:
            self.said = b""
            self._fail(f"it printed more than {MOST_BYTES >> 20} MiB")
        return bool(data)

    def _read_errors(self) -> bool:
        data = read_some(self._err)
        if data == b"":
            self._watches[1].close()
        self._errors = (self._errors + (data or b""))[-WORDS_BYTES:]
        return bool(data)

    def _ended(self) -> None:
        for _ in range(MOST_BYTES // READ_BYTES + 1):
            if not self._read():
                break
        self._read_errors()
        self._fail("")  # what it has left in the background
        _pid, status = os.waitpid(self._pid, 0)
        if status and not self.problem:
            self.problem = say_ending(status)
        if self.problem and self._errors.strip():
            last = self._errors.decode(errors="replace").strip().splitlines()[-1]
            self.problem = f"{self.problem}: {escaped(last)}"
        self._timer.cancel()
        for watch in self._watches:
            watch.close()
        for fd in (self._out, self._err, self._pidfd):
            os.close(fd)
        self._on_end(self)


def read_some(fd: int) -> bytes | None:
    """What is there to be read; None: nothing yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None
