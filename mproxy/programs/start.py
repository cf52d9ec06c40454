"""Where every program begins and ends: Ctrl-C before it handles that itself, output that cannot be written, exit
status.

`make` has the launchers start Python with SIGINT blocked, because while Python starts it would answer with a traceback.
It is unblocked here, before anything else is imported, and ends the program at once and silently. A program that wants
to end in order sets a handler later. What else the caller has blocked is unblocked as well, or nothing but SIGKILL
would end a server; and children can be waited for, even if the caller ignores the end of its own.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # the same without names for its numbers, which take 5 ms of the start of every ssh

INTERRUPTED = 128 + signal.SIGINT  # as shells count it
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


def let_signals_through() -> None:
    """Let SIGINT end the process by default; if it is ignored (nohup, `&` in a script) it stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def take_name(name: str) -> None:
    """Set what `ps`, `top` and `pkill` call the process; otherwise that is the interpreter's name."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:
        pass  # no /proc here


def cproxy() -> int | str | None:
    """./cproxy; the exit status."""
    return run("cproxy")


def sproxy() -> int | str | None:
    """./sproxy; the exit status. With --attach it is a pipe, which needs next to nothing of sproxy, and ssh waits."""
    return run("attach" if "--attach" in sys.argv[1:] else "sproxy")


def mproxy() -> int | str | None:
    """bin/mproxy, `python -m mproxy`; the exit status."""
    return run("main")


def run(module: str) -> int | str | None:
    """Run `main()` of the program in `module`; returns the exit status, whatever happens to it and its output."""
    let_signals_through()
    take_name(called(module))
    try:
        status = __import__(f"mproxy.programs.{module}", fromlist=("main",)).main()  # importlib takes a while, too
    except SystemExit as end:  # --help, --version
        status = end.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("MPROXY_TRACEBACK"):
            raise
        complain(module, f"internal error: {type(error).__name__}: {error}; please report it, with the traceback that"
                 " MPROXY_TRACEBACK=1 in the environment shows")
        return INTERNAL_ERROR
    return flush_output(module) or status


def flush_output(module: str) -> int:
    """Write the rest of standard output; 1, with a message, if that fails. A reader that has gone (`| head -1`) has
    seen enough."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries again at its end
        if not isinstance(error, BrokenPipeError):
            complain(module, f"cannot write to standard output: {error.strerror}")
            return 1
    except AttributeError:
        pass  # there is none
    return 0


def complain(module: str, text: str) -> None:
    """One line on standard error, even if nothing else can be imported."""
    try:
        os.write(2, ascii(f"{called(module)}: {text}")[1:-1].encode() + b"\n")
    except OSError:
        pass  # nobody is there to read it; the exit status still tells


def called(module: str) -> str:
    """The name that the user called."""
    return {"main": "mproxy", "attach": "sproxy"}.get(module, module)
