"""Which process others know as this program: users, the service manager, who asks its control socket."""

from __future__ import annotations

import os

_keeper_pid: int | None = None


def be_keeper() -> None:
    """This process is a keeper: it stands for its workers, too."""
    global _keeper_pid
    _keeper_pid = os.getpid()


def main_pid() -> int:
    """The process that was started: the keeper, where there is one."""
    return _keeper_pid or os.getpid()
