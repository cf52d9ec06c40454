"""Which process others know as this program: users, the service manager, who asks its control socket."""

from __future__ import annotations

import os

_keeper_pid: int | None = None
_deaths = 0


def be_keeper() -> None:
    """This process is a keeper: it stands for its workers, too."""
    global _keeper_pid
    _keeper_pid = os.getpid()


def note_death() -> None:
    """In the keeper: a worker has died; the next ones know of it."""
    global _deaths
    _deaths += 1


def main_pid() -> int:
    """The process that was started: the keeper, where there is one."""
    return _keeper_pid or os.getpid()


def worker_deaths() -> int | None:
    """Workers of this program that have died; None: it has no keeper."""
    return _deaths if _keeper_pid is not None else None
