"""Where every program begins and ends: Ctrl-C before it has its own say, output that cannot be written, an exit status.

`make` has the launchers start Python with SIGINT blocked, for Python's own start would answer it with a traceback. It
is let through here, before anything else is imported, and ends the program at once and without a word. A program that
wants to end in order sets a handler later.
"""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 128 + signal.SIGINT  # as shells count it
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


def let_interrupts_through() -> None:
    """SIGINT ends the process, as the system does it; one that is ignored (nohup, `&` in a script) stays ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def take_name(name: str) -> None:
    """What `ps`, `top` and `pkill` call the process; without it, the interpreter's name."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:
        pass  # no /proc here


def cproxy() -> int | str | None:
    """./cproxy; the exit status."""
    return run("cproxy")


def sproxy() -> int | str | None:
    """./sproxy; the exit status."""
    return run("sproxy")


def mproxy() -> int | str | None:
    """bin/mproxy, `python -m mproxy`; the exit status."""
    return run("main")


def run(module: str) -> int | str | None:
    """`main()` of the program in `module`; the exit status, whatever becomes of it and of its output."""
    let_interrupts_through()
    take_name(called(module))
    from importlib import import_module
    try:
        status = import_module(f"mproxy.programs.{module}").main()
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
    """Write what is left of standard output; 1 when that fails, and a line says so. A reader that has gone
    (`| head -1`) has seen enough."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries once more at its end
        if not isinstance(error, BrokenPipeError):
            complain(module, f"cannot write to standard output: {error.strerror}")
            return 1
    except AttributeError:
        pass  # there is none
    return 0


def complain(module: str, text: str) -> None:
    """One line on standard error, whatever else cannot be imported."""
    try:
        os.write(2, ascii(f"{called(module)}: {text}")[1:-1].encode() + b"\n")
    except OSError:
        pass  # nobody is there to read it; the exit status still tells


def called(module: str) -> str:
    """The name that the user called."""
    return "mproxy" if module == "main" else module
