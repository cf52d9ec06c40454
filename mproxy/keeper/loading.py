"""Loading a dump, before there is a worker."""

from __future__ import annotations

import mmap
import os
import signal

from mproxy._dump import load_sessions
from mproxy._inherit import keep_own_record, kept_record, recover
from mproxy.ground.errors import LocalError, MproxyError
from mproxy.keeper.upgrades import PATIENCE_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    Judge = Callable[[bytes], bool]

# What the process that loads says when it has; else it says why not.
RIGHT = b"loaded"


def load_apart(dump: int, descriptors: list[int], judge: Judge) -> str:
    """Load the sessions of a dump into the arena, in a process of its own, for a keeper has nothing in its memory that
    came from a peer. Returns why that cannot be done, nothing if it was.

    `descriptors`: those that the dump names. `judge(record)`: whether the program understands what it has kept with a
    session.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE_S)
        os.close(read_end)
        _load(dump, descriptors, judge, write_end)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        found = pipe.read()
    os.waitpid(pid, 0)
    return "" if found == RIGHT else found.decode(errors="replace") or "it died while reading the dump"


def _load(dump: int, descriptors: list[int], judge: Judge, pipe: int) -> NoReturn:
    """Say how it went, and end."""
    try:
        numbers, about = load_sessions(mmap.mmap(dump, 0, mmap.MAP_PRIVATE, mmap.PROT_READ), descriptors)
        found, damaged = recover()
        if damaged or found != numbers:
            raise LocalError(f"{damaged or len(numbers) - len(found)} of {len(numbers)} sessions are damaged")
        for number in numbers:
            record = kept_record(number)
            if record and not judge(record):
                raise LocalError("what the program has kept with a session is of another version")
        keep_own_record(about)
        os.write(pipe, RIGHT)
    except (MproxyError, OSError, ValueError, MemoryError) as error:
        os.write(pipe, f"it cannot read the dump: {error}".encode())
    finally:
        os._exit(0)
