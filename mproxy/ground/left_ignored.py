"""Signals that whoever started us has ignored, so that they are not for us: the end of the terminal (nohup), Ctrl-C and
Ctrl-\\ of a command in the background of a script (`&`). They stay ignored, here and in what we start for ourselves."""

from __future__ import annotations

import signal

MAY_STAY_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
CHANGEABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


def is_left_ignored(number: int) -> bool:
    """Whether it is ignored; asked before anybody here has a handler for it."""
    return signal.getsignal(number) == signal.SIG_IGN


def reset_in_children() -> set[signal.Signals]:
    """Those that begin as if nobody had ignored them, among them what Python ignores for itself."""
    return CHANGEABLE - {number for number in MAY_STAY_IGNORED if is_left_ignored(number)}
