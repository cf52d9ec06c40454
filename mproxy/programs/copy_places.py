"""Names of a copy, as scp has them: which are on another host, and what is called how where it arrives."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import namedtuple

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

_PATTERN = frozenset("*?[")


class RemotePlace(namedtuple("RemotePlace", "user host path")):
    """`[user@]host:path`; the path is relative to the user's home."""

    __slots__ = ()
    user: str
    host: str
    path: str

    if TYPE_CHECKING:
        def __new__(cls, user: str, host: str, path: str) -> Self: ...

    @property
    def login(self) -> tuple[str, str]:
        """Whom ssh is asked for."""
        return self.user, self.host

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" if self.user else host


def parse_place(text: str) -> RemotePlace | None:
    """What a word of the command line means; None: a file on this host. A colon behind a slash is part of a name."""
    before, bracket, rest = text.partition("[")
    if bracket and "/" not in before and ":" not in before and "]:" in rest and (not before or before.endswith("@")):
        host, _, path = rest.partition("]:")
        user = before.removesuffix("@")
    else:
        place, colon, path = text.partition(":")
        if not colon or not place or "/" in place:
            return None
        user, _, host = place.rpartition("@")
    if user.startswith("-") or host.startswith("-"):
        raise UsageError(f"{text}: neither user nor host may begin with a hyphen; a file here: ./{text}")
    try:
        parse_host(host)
    except UsageError as error:
        raise UsageError(f"{text}: {error}; a file on this host whose name has a colon: ./{text}") from None
    return RemotePlace(user, host, path)  # as it was typed: ssh_config tells Work from work


class Landing(namedtuple("Landing", "directory name")):
    """Where something arrives: in this directory; under this name, None: under its own."""

    __slots__ = ()
    directory: str
    name: str | None

    if TYPE_CHECKING:
        def __new__(cls, directory: str, name: str | None) -> Self: ...


def find_landing(target: str, several: bool) -> Landing:
    """Where things copied to the path `target` of this host land, one or `several`. A directory that is there, or ends
    in a slash, takes them under their own names; else one thing gets the target's. MproxyError."""
    if not target or target.endswith("/") or os.path.isdir(target):
        return Landing(os.path.join(target or ".", ""), None)
    if several:
        raise MproxyError(f"{target}: no such directory; several things are copied into one, so name one that exists,"
                          " or write a slash behind it to have it made")
    directory, name = os.path.split(target)
    if not os.path.isdir(directory or "."):
        raise MproxyError(f"{target}: there is no directory {directory}; it is made if there is a slash behind it:"
                          f" {directory}/")
    return Landing(os.path.join(directory or ".", ""), name)


def make_directory_of(landing: Landing) -> None:
    """Make the directory unless it is there; MproxyError."""
    try:
        os.makedirs(landing.directory, exist_ok=True)
    except OSError as error:
        raise MproxyError(f"{landing.directory}: cannot make this directory: {error.strerror}") from None


def at_home(path: str) -> str:
    """A path as somebody who has just logged in means it: `~` is not expanded by his shell, as that is elsewhere."""
    return os.path.expanduser(path) if path.startswith("~") else path


def find_paths(patterns: Sequence[str]) -> list[str]:
    """The paths here that somebody elsewhere means by these; MproxyError for one that fits nothing."""
    found = []
    for pattern in map(at_home, patterns):
        path = pattern or "."
        if os.path.lexists(path):
            found.append(path)
            continue
        fitting = sorted(glob.glob(path)) if not _PATTERN.isdisjoint(path) else []
        if not fitting:
            raise MproxyError(f"cannot send {path}: No such file or directory")
        found += fitting
    return found


def without_dots(paths: Sequence[str]) -> list[str]:
    """In place of `.`, and of a path that ends so, what is in that directory: it has no name under which it could
    arrive."""
    found = []
    for path in paths:
        if os.path.basename(path.rstrip("/")) != "." or not os.path.isdir(path):
            found.append(path)
            continue
        try:
            found += [os.path.join(path, name) for name in sorted(os.listdir(path))]
        except OSError as error:
            raise MproxyError(f"cannot send {path}: {error.strerror}") from None
    return found


def asked_for(patterns: Sequence[str], name: str | None) -> Callable[[bytes], bool]:
    """Whether something that arrives under this name, or is in a directory of that name, was asked for by `patterns`,
    or as `name`: the other side must not choose what it writes here."""
    if name is not None:
        only = os.fsencode(name)
        return lambda given: given == only
    wanted = [os.path.basename(pattern.rstrip("/")) for pattern in patterns]
    if any(last in ("", ".", "..") or last.startswith("~") for last in wanted):
        return lambda _given: True  # only the other side knows what a home is called, or what lies in it

    def fits(given: bytes) -> bool:
        text = os.fsdecode(given)
        return any(text == last or fnmatch.fnmatchcase(text, last) for last in wanted)

    return fits
