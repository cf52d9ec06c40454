"""Which process others know as this program: users, the service manager, who asks its control socket."""

from __future__ import annotations

import os

_keeper_pid: int | None = None
_deaths = 0
_upgrades = 0
_is_new = False  # no worker of this keeper has died since it took another's place
_is_back = False  # nor since it took over what the program before its start had left


def be_keeper() -> None:
    """This process is a keeper: it stands for its workers, too. One that others know already goes on to do so."""
    global _keeper_pid
    _keeper_pid = _keeper_pid or os.getpid()


def take_place(main: int, deaths: int, upgrades: int) -> None:
    """This process is the keeper of a program that others know as process `main`, and that has come so far."""
    global _keeper_pid, _deaths, _upgrades, _is_new
    _keeper_pid, _deaths, _upgrades, _is_new = main, deaths, upgrades, True


def come_back() -> None:
    """This process is the keeper of a program that a service manager has restarted, and goes on with what that had."""
    global _is_back
    _is_back = True


def note_death() -> None:
    """In the keeper: a worker has died; the next ones know of it."""
    global _deaths, _is_new, _is_back
    _deaths += 1
    _is_new = _is_back = False


def upgrades() -> int | None:
    """How often another build has taken over; None: there is no keeper."""
    return _upgrades if _keeper_pid is not None else None


def is_upgraded() -> bool:
    """Whether this process goes on with what another build has begun."""
    return _is_new


def is_first() -> bool:
    """Whether nothing was served before this process, since the program was started."""
    return not (_deaths or _upgrades)


def has_past() -> bool:
    """Whether this process goes on with what another one has begun."""
    return _is_back or not is_first()


def say_succession(program: str) -> str:
    """Why this process goes on with what another one has begun."""
    if _is_back:
        return f"{program} was restarted"
    return f"{program} was upgraded" if _is_new else f"{program}'s worker died"


def main_pid() -> int:
    """The process that was started: the keeper, where there is one."""
    return _keeper_pid or os.getpid()


def worker_deaths() -> int | None:
    """Workers of this program that have died; None: it has no keeper."""
    return _deaths if _keeper_pid is not None else None
