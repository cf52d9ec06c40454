"""Descriptors that outlive the program in the next build of it, by name: ports, locks, files that the next one may no
longer open, because rights were given up.

Whoever opens such a thing asks `take` first, and tells `note` what it has.
"""

from __future__ import annotations

import os

_noted: dict[str, int] = {}  # what this program has
_given: dict[str, int] = {}  # from the one before, and not taken yet


def note(name: str, fd: int) -> None:
    """This descriptor is the next program's, too."""
    _noted[name] = fd


def forget(name: str) -> None:
    """It has been closed."""
    _noted.pop(name, None)


def noted() -> dict[str, int]:
    """All that the next program is to have."""
    return dict(_noted)


def give(found: dict[str, int]) -> None:
    """These have come from the program before."""
    _given.update(found)


def take(name: str) -> int | None:
    """The descriptor of that name, if the program before had it; it is the caller's from now on."""
    return _given.pop(name, None)


def take_all(prefix: str) -> list[int]:
    """The descriptors whose names begin so, if the program before had such; they are the caller's from now on."""
    return [_given.pop(name) for name in list(_given) if name.startswith(prefix)]


def close_port(port: int) -> bool:
    """Close what nobody has taken and listens on this port, perhaps at another address; whether there was any."""
    names = [name for name in _given if name.startswith("port ") and name.endswith(f" {port}")]
    for name in names:
        os.close(_given.pop(name))
    return bool(names)


def close_rest() -> None:
    """Close what nobody has taken: it means nothing any more."""
    while _given:
        os.close(_given.popitem()[1])
