"""Whose key is trusted: known_hosts for cproxy, authorized_keys for sproxy, much as in ssh.

known_hosts      HOST:PORT mproxy-ed25519 BASE64 [comment], or via=NAME in place of HOST:PORT; and lines about many
                 hosts, see mproxy.policy.host_marks
authorized_keys  [options ]mproxy-ed25519 BASE64 [comment], see mproxy.policy.grants; in a file, and in the files of a
                 directory

Both: one entry a line; `#` begins a comment line. In authorized_keys an invalid line is skipped with a warning that
names file and line: it lets nobody in. In known_hosts skipping it would let somebody in, as at a first contact: there
it means that whoever it may be about is refused.
"""

from __future__ import annotations

import codecs
import errno
import fcntl
import os
import re
import stat
import time

from mproxy._wire import CloseCode
from mproxy.ground.config import say_place
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.ground.private_directory import make_private_directory
from mproxy.ground.words import VIA_HOST, parse_host_port
from mproxy.policy.grants import parse_grant
from mproxy.policy.keys import KEY_TYPE, fingerprint, parse_spki, public_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mproxy.policy.grants import Grant
    from mproxy.policy.host_marks import HostMark
    KnownHost = tuple[int, tuple[str, int] | None, bytes | None]
    Stamp = tuple[int, int, int, int, int]

# Larger files are not lists of keys; longer lines are not entries.
MOST_BYTES = 4 << 20
LINE_BYTES = 16384

# So many problems with files are told at once.
MOST_PROBLEMS = 4

# Which files of a directory are lists of keys: not those that editors, package managers and deployments leave there.
KEY_FILE = re.compile(r"[A-Za-z0-9_][\w@+.-]*", re.ASCII)
LEFTOVERS = (".bak", ".dpkg-dist", ".dpkg-new", ".dpkg-old", ".new", ".old", ".orig", ".rpmnew", ".rpmorig", ".rpmsave",
             ".save", ".swp", ".tmp", ".ucf-dist", ".ucf-new", ".ucf-old")

# How long authorized_keys has to stay the same before it ends sessions: longer than editors and deployments take.
SETTLE_S = 5.0


# ---- known_hosts

class HostTrust:
    """cproxy's memory of sproxies' keys. If `path` is None nothing is remembered.

    `pinned` are fingerprints; if there are any, only these keys are trusted and the file is not used.
    """

    def __init__(self, path: str | None, pinned: Sequence[str] = (),
                 warn: Callable[[str], object] = lambda text: None) -> None:
        self.path = path
        self._pinned = pinned
        self._warn = warn

    def verify(self, host: str, port: int, spki: bytes, certificate: bytes = b"") -> str:
        """Judge the key that HOST:PORT has proven to hold, with what it has shown: "pinned", "known", "certified" by a
        CA, "new" (and now remembered) or "unwritten" (new, but it could not be remembered).

        PeerError for any key other than the expected one.
        """
        if self._pinned:
            if fingerprint(spki) in self._pinned:
                return "pinned"
            raise PeerError(CloseCode.KEY_REFUSED, (
                f"the key of {say_place(host, port)} is not one that --host-fingerprint allows: it offers"
                f" {fingerprint(spki)}, expected {' or '.join(self._pinned)}"))
        verdict = self.check(host, port, spki, certificate)
        if verdict != "new":
            return "known" if verdict == "same" else verdict
        return "new" if self.add(host, port, spki) else "unwritten"

    def check(self, host: str, port: int, spki: bytes, certificate: bytes = b"") -> str:
        """"same", "certified" or "new"; PeerError if only other keys are known for HOST:PORT, a CA has to vouch for it
        and does not, its key is revoked, or what is known cannot be read.

        MproxyError if the file cannot be read.
        """
        entries: list[KnownHost] = []
        marks: list[HostMark] = []
        if self.path is not None:
            check_readable(self.path)
            entries = parse_known_hosts(read_list(self.path), self.path, self._warn, marks)
        if not marks:
            return judge_host(entries, self.path, (host, port), spki)
        from mproxy.policy.host_marks import judge_marks
        why = judge_marks(marks, self.path, (host, port), spki, certificate, time.time())
        if why is None:
            return "certified"
        verdict = judge_host(entries, self.path, (host, port), spki)
        if verdict == "new" and why:
            raise PeerError(CloseCode.KEY_REFUSED, why)
        return verdict

    def add(self, host: str, port: int, spki: bytes) -> bool:
        """Remember a key; returns whether it is remembered now. What other processes add at the same time stays.

        PeerError if one of them has just remembered another key; a file that cannot be written costs a warning.
        """
        if self.path is None:
            return False
        try:
            make_private_directory(os.path.dirname(os.path.abspath(self.path)))
            fd = open_locked(self.path)
        except (OSError, MproxyError) as error:
            self._warn(f"cannot remember the host's key in {self.path}: {getattr(error, 'strerror', None) or error}")
            return False
        try:
            if self.check(host, port, spki) == "same":
                return True
            append_line(fd, f"{say_place(host, port)} {public_line(spki)}")
            return True
        except OSError as error:
            self._warn(f"cannot remember the host's key in {self.path}: {error.strerror}")
            return False
        finally:
            os.close(fd)


def judge_host(entries: list[KnownHost], path: str | None, endpoint: tuple[str, int], spki: bytes) -> str:
    """"same" if an entry has this key for (host, port), "new" if none has any; else PeerError.

    PeerError also if a damaged line is, or may be, about (host, port): the key that it had is no longer known.
    """
    known = [(number, key) for number, place, key in entries if place == endpoint and key is not None]
    if any(key == spki for _, key in known):
        return "same"
    damaged = [number for number, place, key in entries if key is None and place in (endpoint, None)]
    if damaged:
        raise PeerError(CloseCode.KEY_REFUSED, (
            f"{path}:{damaged[0]} is damaged and may be the entry for {say_place(*endpoint)}, which offers"
            f" {fingerprint(spki)}: repair the line, or remove it to trust this key"))
    if not known:
        return "new"
    number, key = known[0]
    raise PeerError(CloseCode.KEY_REFUSED, (
        f"the key of {say_place(*endpoint)} has changed: known {fingerprint(key)}, offered {fingerprint(spki)};"
        f" someone may be intercepting the connection. If the change is legitimate, remove line {path}:{number}"))


def parse_known_hosts(data: bytes, path: str, warn: Callable[[str], object],
                      marks: list[HostMark] | None = None) -> list[KnownHost]:
    """[(line number, (host, port), spki)] of the file's bytes; None for what cannot be read. Lines about many hosts are
    added to `marks`."""
    entries: list[KnownHost] = []
    for number, text in lines_of(data):
        words = text.split(None, 3)
        endpoint = spki = None
        if text.startswith("@"):
            from mproxy.policy.host_marks import parse_mark
            try:
                mark = parse_mark(text, number)
            except UsageError as error:
                warn(f"{path}:{number}: {words[0][:80]}: {error}")
                entries.append((number, None, None))
            else:
                if marks is not None:
                    marks.append(mark)
            continue
        try:
            endpoint = (words[0], 0) if words[0].startswith(VIA_HOST) else parse_host_port(words[0])
            if len(words) == 1:
                endpoint = None  # cut off, and perhaps within the host's name or the port
                warn(f"{path}:{number}: no {KEY_TYPE} key after the host")
        except UsageError as error:
            warn(f"{path}:{number}: {words[0][:80]}: {error}")
        if endpoint is not None:
            spki = parse_spki(words[2]) if len(words) > 2 and words[1] == KEY_TYPE else None
            if spki is None:
                warn(f"{path}:{number}: no {KEY_TYPE} key after the host")
        entries.append((number, endpoint, spki))
    return entries


def check_readable(path: str) -> None:
    """MproxyError if something of that name is not a list: a dangling link, a directory, a pipe."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        link = _link_to_nowhere(os.path.abspath(path))
        if link is not None:
            raise MproxyError(f"cannot read {path}: {link} is a dangling symbolic link") from None
        return
    except OSError as error:
        raise MproxyError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode) and not os.path.samefile(path, os.devnull):
        raise MproxyError(f"cannot read {path}: not a regular file")


def _link_to_nowhere(path: str) -> str | None:
    """The part of a path that is a dangling link; None if the name simply does not exist."""
    while path != os.path.dirname(path):
        if os.path.islink(path) and not os.path.exists(path):
            return path
        path = os.path.dirname(path)
    return None


def open_locked(path: str) -> int:
    """A locked descriptor to append to `path`; while it is locked the file keeps that name."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # somebody put another file in its place while we waited


def append_line(fd: int, text: str) -> None:
    """Add a line to a file, whose last one may lack its end."""
    line = f"{text}\n".encode()
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        line = b"\n" + line
    os.write(fd, line)
    os.fsync(fd)


# ---- authorized_keys

class AuthorizedKeys:
    """The keys that may connect, from a file, and the files of the directory of that name with `.d` behind it, that are
    read again when they change. `path` may be a directory, too.

    As long as there has been neither `exists` is False and everybody may connect, unless `closed`. A file that appears
    counts from then on; one that vanishes later, or that others could have written, authorises nobody: it fails closed.

    Newcomers are judged by the file as it is. Existing sessions are judged by the file once it has been the same for
    SETTLE_S: an editor empties it before it writes, a deployment removes it and changes its mode. A file that took the
    name by rename is complete and counts at once; `moved_in()` says whether that is the last thing that happened to the
    name.

    A process that gave up the rights with which it read the file may be unable to look at it again: then what was read
    stays valid.
    """

    def __init__(self, path: str | None, warn: Callable[[str], object] = lambda text: None,
                 moved_in: Callable[[], bool | None] = lambda: False, closed: bool = False) -> None:
        self.path = path
        self._warn = warn
        self._moved_in = moved_in
        self._reader = os.geteuid()
        self._grants: list[Grant] = []  # as the file is
        # As the file was when sessions were last judged; None: everybody might connect.
        self._settled: list[Grant] | None = None
        # When the file became what it is; None: sessions have been judged by that.
        self._changed_at: float | None = None
        self._stamp: tuple[Stamp | str | None, ...] | str | None = None  # of the files last read
        self.problem: str | None = None  # why nobody may connect; None: the file is in order
        there = path is not None and (os.path.lexists(path) or os.path.isdir(directory_of(path)))
        self.exists = closed or there
        if there:
            self._stamp = "not read yet"
            self.changed()
        self.settle()

    def find(self, spki: bytes, host: str, now: float, certificate: bytes = b"") -> Grant:
        """The Grant for a key, with what it has shown, at the address `host` and the time `now` (seconds since 1970).

        Of several lines with the key, or with the CA of its certificate, the first that allows it counts. PeerError if
        there is none.
        """
        return find_grant(self._grants, spki, host, now, certificate)

    def find_living(self, spki: bytes, host: str, now: float, certificate: bytes = b"") -> Grant | None:
        """The same for the key of an existing session, whose certificate may have expired; None if it began while
        everybody might connect."""
        try:
            return find_grant(self._grants, spki, host, now, certificate, living=True)
        except PeerError:
            if self._changed_at is None:
                raise
        return None if self._settled is None else find_grant(self._settled, spki, host, now, certificate, living=True)

    def add(self, spki: bytes, comment: str) -> bool:
        """Append a line for a key, unless the file has one; returns whether it did. It counts once the file is read
        again. A file that cannot be written, or that others could have written, costs a warning."""
        if self.path is None or self.problem is not None or any(grant.spki == spki for grant in self._grants):
            return False
        try:
            fd = open_locked(self.path)
            try:
                append_line(fd, public_line(spki, comment))
            finally:
                os.close(fd)
        except OSError as error:
            self._warn(f"cannot add a key to {self.path}: {error.strerror}")
            return False
        return True

    def changed(self, now: float = 0.0) -> bool:
        """Read the files again if they have changed; returns whether they had. Costs one stat(2) for each if not.

        What could not be used is read each time, until it can.

        `now` is in seconds of a clock that does not go back, the same as for `settles`.
        """
        if self.path is None:
            return False
        try:
            stamp = list_stamp(self.path)
        except PermissionError:
            if os.geteuid() != self._reader:
                return False
            stamp = None
        self.exists = self.exists or stamp is not None
        if stamp == self._stamp and self.problem is None:
            return False
        grants, problem = self._read(self.path)
        if stamp == self._stamp and problem == self.problem:
            return False
        self._stamp, self._grants, self.problem = stamp, grants, problem
        self._changed_at = now
        if problem is not None:
            self._warn(f"{'some keys do not count' if grants else 'nobody may connect'}: {problem}")
        elif self._moved_in():
            self._changed_at = now - SETTLE_S
        return True

    def _read(self, path: str) -> tuple[list[Grant], str | None]:
        """What the files grant, and what is wrong with them: that may pass without a change, as when a directory above
        them could be written by others, or no descriptor was left."""
        grants: list[Grant] = []
        problems = []
        left = MOST_BYTES
        directory = directory_of(path)
        places = [each for each in (path, directory) if os.path.lexists(each)]
        while places:
            place = places.pop(0)
            try:
                check_private(place)
                if os.path.isdir(place):
                    places[:0] = [os.path.join(place, name) for name in key_files(place)]
                    continue
                data = read_list(place)
                left -= len(data)
                if left < 0:
                    raise MproxyError(f"the files of {directory} are larger than {MOST_BYTES >> 20} MiB")
                grants += parse_authorized_keys(data, place, self._warn)
            except (MproxyError, OSError) as error:
                problems.append(str(getattr(error, "strerror", None) or error))
        if not os.path.lexists(path) and not os.path.isdir(directory):
            problems.append(os.strerror(errno.ENOENT))
        return grants, "; ".join(problems[:MOST_PROBLEMS]) or None

    def settles(self, now: float) -> bool:
        """Whether sessions are to be checked again at `now`: the file has been unchanged for long enough."""
        if self._changed_at is None or now - self._changed_at < SETTLE_S:
            return False
        self.settle()
        return True

    def settle(self) -> None:
        """Judge everybody by the file as it was last read."""
        self._settled = self._grants if self.exists else None
        self._changed_at = None

    def __len__(self) -> int:
        return len(self._grants)

    def in_force(self, now: float) -> int:
        """How many keys may connect at `now`, from whatever address."""
        return len({grant.spki for grant in self._grants if grant.expires_at is None or now < grant.expires_at})


def find_grant(grants: list[Grant], spki: bytes, host: str, now: float, certificate: bytes = b"",
               living: bool = False) -> Grant:
    """As `AuthorizedKeys.find`, among these; `living`: as `find_living`."""
    why, code = "the key is not in authorized_keys", CloseCode.KEY_REFUSED
    for each in grants:
        grant: Grant | None = each if each.spki == spki and not each.is_authority else None
        if each.is_authority and certificate:
            try:
                grant = each.vouched(certificate, spki, now, living)
            except MproxyError as error:
                why = str(error)
        if grant is not None:
            refusal = grant.refusal(host, now)
            if refusal is None:
                return grant
            why = refusal
            if grant.is_current(now):  # then the reason is where the client is
                code = CloseCode.WRONG_ADDRESS
    raise PeerError(code, f"{why}: {fingerprint(spki)}")


def file_stamp(path: str) -> Stamp | None:
    """What changes when a file changes; None if there is no file. PermissionError if its directory cannot be
    entered."""
    try:
        status = os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def list_stamp(path: str) -> tuple[Stamp | str | None, ...] | None:
    """What changes when a list changes, its directory included; None if there is neither. PermissionError."""
    directory = directory_of(path)
    stamps: list[Stamp | str | None] = [file_stamp(path), file_stamp(directory)]
    if stamps == [None, None]:
        return None
    for place in (path, directory):
        if os.path.isdir(place):
            for name in key_files(place):
                stamps += [name, file_stamp(os.path.join(place, name))]
    return tuple(stamps)


def directory_of(path: str) -> str:
    """Where the files are that count beside a list."""
    return f"{path}.d"


def key_files(directory: str) -> list[str]:
    """The names of the lists in a directory, in the order in which they count; PermissionError."""
    try:
        names = os.listdir(directory)
    except PermissionError:
        raise
    except OSError:
        return []
    return sorted(name for name in names if KEY_FILE.fullmatch(name) and not name.endswith(LEFTOVERS))


def check_private(path: str) -> None:
    """MproxyError if another user could have written the file or directory, as with sshd's StrictModes.

    The file and every directory above it, up to the home directory, must belong to us or root and not be writable by
    others. (A directory with the sticky bit, such as /tmp, keeps others from replacing our files.) A group that has the
    owner as its only member, as on Debian, is not others; its sshd sees it in the same way.
    """
    path = os.path.realpath(path)
    home = os.path.realpath(os.environ.get("HOME") or "/")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise MproxyError(f"{path} is not a regular file")
    while True:
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        others = status.st_mode & 0o022
        if others == 0o020 and is_own_group(status.st_gid, status.st_uid):
            others = 0
        if status.st_uid not in (0, os.geteuid()) or (others and not sticky):
            raise MproxyError(f"{path} can be written by other users: it must belong to you and not be writable by"
                              " others (chmod go-w)")
        if path in (home, "/"):
            return
        path = os.path.dirname(path)
        status = os.stat(path)


def is_own_group(gid: int, uid: int) -> bool:
    """Whether a group has that user as its only member: systems that give each user such a group let it write what the
    user makes (umask 002)."""
    import grp
    import pwd
    try:
        names = set(grp.getgrgid(gid).gr_mem)
        primary = {user.pw_uid: user.pw_name for user in pwd.getpwall() if user.pw_gid == gid}
        return uid in primary and len(primary) == 1 and names <= {primary[uid]}
    except (KeyError, OSError):
        return False


def parse_authorized_keys(data: bytes, path: str, warn: Callable[[str], object]) -> list[Grant]:
    """The Grants of the file's bytes, in order."""
    grants = []
    for number, text in lines_of(data):
        try:
            grants.append(parse_grant(text, number))
        except UsageError as error:
            warn(f"{path}:{number}: {error}")
    return grants


# ---- lines

def read_list(path: str) -> bytes:
    """The bytes of a file with one entry a line; empty if there is no file. MproxyError if it cannot be read."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            data = file.read(MOST_BYTES + 1) or b""
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise MproxyError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise MproxyError(f"{path} is larger than {MOST_BYTES >> 20} MiB, which is too large for a list of keys")
    return data


def lines_of(data: bytes) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are neither blank nor comments. Some editors mark UTF-8 (BOM)."""
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        text = line[:LINE_BYTES].decode(errors="replace").strip()
        if text and not text.startswith("#"):
            yield number, text
