"""How every program ends: one line on standard error says what went wrong, the exit status whose fault it was."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import escaped

FAILED = 1
USAGE = 2
INTERRUPTED = 128 + signal.SIGINT  # as shells count it


def complain(program: str, text: object) -> None:
    """One line `program: text` on standard error, never an exception."""
    line = escaped(str(text))
    end = "\r\n" if os.isatty(2) else "\n"  # a terminal may be raw: ssh's is
    try:
        os.write(2, f"{program}: {line}{end}".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # nobody is there to read it; the exit status still tells


def exit_status(program: str, command: Callable[..., int | None], *arguments: object,
                interrupted: int = INTERRUPTED) -> int:
    """What `command(*arguments)` returns (None: 0), or the status of the error that ended it, which is printed.

    Every `main` passes through here. It handles errors that mproxy raises on purpose, what the system refused, a reader
    of the output that has gone, and Ctrl-C; `interrupted`: the status after Ctrl-C, where that is the ordinary end.
    """
    try:
        return command(*arguments) or 0
    except MproxyError as error:
        for line in error.lines():
            complain(program, line)
        return USAGE if isinstance(error, UsageError) else FAILED
    except BrokenPipeError:
        silence_output()
        return FAILED
    except OSError as error:
        if error.errno == errno.ENOSPC and not error.filename:
            silence_output()  # Python would try again, and `start.run` complain once more
        complain(program, f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return FAILED
    except KeyboardInterrupt:
        return interrupted


def silence_output() -> None:
    """Standard output leads nowhere from here on, because Python tries to write the rest of it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
