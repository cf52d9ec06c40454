"""The keeper of one worker: a process that only waits, and shares its table of descriptors with the worker (as the
keeper of a session's program does: keeper/keeper.py). So a worker's death closes nothing, and the next worker, cloned
from here, goes on with its TCP connections.

The supervisor decides and the keeper obeys. Over the line between them, as JSON:

    start    [serials of pairs to be ended], with the worker's end of its channel; from the supervisor
    started  process number of the worker
    ended    how, as waitpid(2) tells, and the serial of the pair whose turn it was, 0: none's

While there is a worker the keeper opens and closes nothing, for numbers of descriptors are the worker's to give. It
reads nothing that a peer has sent.

Where connections are not to outlive their worker, this process is the worker itself, and its death tells the rest.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable

from mproxy.io._loop import Loop
from mproxy.io.descriptors import close_others, open_descriptors
from mproxy.keeper._clone import clone_worker
from mproxy.keeper.program_text import ProgramText
from mproxy.relay.tcp._survivors import keep_pairs, whose_turn
from mproxy.relay.worker_channel import receive_now, send_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mproxy.ground.shapes import Logger
    Serve = Callable[[Loop, socket.socket, set[int], set[int]], NoReturn]


def keep(line: socket.socket, log: Logger, number: int, outlives: bool, prepare: Callable[[], object],
         serve: Serve) -> NoReturn:
    """Keep worker `number`, in a process just forked, until the supervisor ends, or be it; never returns. `prepare()`
    is called first; `serve(loop, channel, descriptors that are not the worker's, serials)` in each worker."""
    status = 1
    try:
        gc.freeze()  # what was the supervisor's is never freed here: by now its descriptors have other owners
        _forget_supervisor(line)
        prepare()
        if not outlives:
            _be_worker(line, serve)
        try:
            keep_pairs()
        except OSError as error:
            log.warning("not-outliving", worker=number, why=f"no memory that outlives a worker: {error.strerror}")
        _obey(line, serve)
        status = 0
    except BaseException as error:
        log.error("worker-failed", worker=number, why=f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def _forget_supervisor(line: socket.socket) -> None:
    """Ignore signals, which reach the whole group: the supervisor passes on what they mean. Close its descriptors."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    close_others([line.fileno()])
    line.setblocking(True)


def _be_worker(line: socket.socket, serve: Serve) -> None:
    order = receive_now(line)
    if order is not None:
        _start, [channel] = order
        send_now(line, "started", os.getpid())
        serve(Loop(), socket.socket(fileno=channel), set(open_descriptors()), set())


def _obey(line: socket.socket, serve: Serve) -> None:
    loop = Loop()
    kept, text = set(open_descriptors()), ProgramText()
    while (order := receive_now(line)) is not None:
        (_start, condemned), [channel] = order
        pid = clone_worker()
        if pid == 0:
            loop.renew()
            serve(loop, socket.socket(fileno=channel), kept | {channel}, set(condemned))
        text.let_go()
        with contextlib.suppress(OSError):  # the supervisor has ended: the worker will, too
            send_now(line, "started", pid)
        _pid, status = os.waitpid(pid, 0)
        loop.renew()  # or the dead one's would be woken for callers, and nobody else
        with contextlib.suppress(OSError):
            send_now(line, "ended", status, whose_turn())
