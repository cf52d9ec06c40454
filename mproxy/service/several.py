"""A program whose work several workers do (`--workers`), from what `run_program` has made of the command line, until
all have ended. Each worker has a loop, an arena and a keeper of its own; what they share the program has made before.
"""

from __future__ import annotations

from mproxy.ground.errors import LocalError, MproxyError
from mproxy.io import heirlooms

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Protocol

    from mproxy.ground.config import LogConfig
    from mproxy.io._loop import Loop
    from mproxy.keeper.branch import Branch, Preparing
    from mproxy.keeper.handing_out import HandingOut
    from mproxy.keeper.keeper import Keeper
    from mproxy.keeper.leaving import Part
    from mproxy.keeper.successor import Successor
    from mproxy.service.log import Log
    from mproxy.service.restart import Restart
    from mproxy.service.rights import User

    class Dividing(Protocol):
        """What it asks of a program (`mproxy.service.run.Program`)."""

        workers: int
        @property
        def is_kept(self) -> bool: ...
        @property
        def authorized_keys_file(self) -> str | None: ...
        def open(self) -> None: ...
        def join(self, number: int) -> None: ...
        def claim(self, fds: list[int], /) -> Collection[int]: ...
        def understands(self, record: bytes, /) -> bool: ...
        def vows(self) -> dict[str, Any]: ...
        def keep_vows(self, vows: Mapping[str, Any]) -> None: ...

    # What a worker does: (its keeper, where the main process speaks and hears, its part in upgrades and in restarts).
    Serve = Callable[[Keeper, socket.socket, HandingOut, Part], int]


def run_several(program: Dividing, config: LogConfig, log: Log, loop: Loop, user: User | None, restart: Restart,
                successor: Successor | None, serve: Serve, reopen_log: Callable[[], object]) -> int:
    """Returns in the main process, in every keeper and in every worker: the exit status of each. `serve`: what a worker
    does; `successor`: it has the place of another build; `reopen_log()`: the log file may have been moved away."""
    # All that an upgrade needs is read now: by then the files are those of the next build.
    from mproxy.keeper import handing_over  # noqa: F401
    from mproxy.keeper.branches import Branches
    from mproxy.keeper.handing_out import HandingOut
    from mproxy.keeper.inboxes import Inboxes
    from mproxy.keeper.keeper import Keeper
    from mproxy.keeper.leaving import Part
    from mproxy.keeper.upgrades import Upgrades
    from mproxy.service.log import Log
    from mproxy.service.rights import warn_of_lost_file
    if not program.is_kept and successor is not None:
        raise MproxyError("without a keeper no sessions can be taken over")
    own_log = Log(config.log_level, config.log_format)
    own_log.restrain(lambda _delay_us, _function: None)
    upgrades = Upgrades(own_log, successor.main_socket if successor is not None else None)

    def stand_in_front(owed: list[int]) -> int:
        return Keeper(loop, own_log, upgrades=upgrades).stand_in_front(owed)

    branches = Branches(own_log, program.workers, upgrades, stand_in_front, reopen_log)
    branches.hold_signals()
    program.open()
    inboxes = Inboxes(program.workers)
    shared = set(heirlooms.noted())
    if user is not None:
        user.become()
        if successor is None:
            warn_of_lost_file(program.authorized_keys_file, user, log)

    joined: list[int] = []

    def join(number: int) -> None:
        if joined:
            return
        joined.append(number)
        own_log.mark(worker=number)
        log.mark(worker=number)
        program.join(number)
        _map_arena()

    def work(number: int, branch: Branch, given: Collection[int]) -> int:
        from mproxy._inherit import culprit
        join(number)
        keeper = Keeper(loop, own_log, claim=program.claim, turn=culprit, branch=branch)
        keeper.hold_signals(branches.mask)
        handing_out = HandingOut(inboxes, shared, program.vows)
        part = Part(number, program.workers, shared)
        return keeper.run(lambda: serve(keeper, upgrades.worker_end, handing_out, part), given)

    preparing: Preparing | None = restart.several
    if successor is not None:
        from mproxy.keeper.several_successors import SeveralSuccessors
        preparing = SeveralSuccessors(successor, join, program.keep_vows, program.understands)
    elif restart.several is not None:
        restart.several.when_joined(join, program.keep_vows, program.understands)
    return branches.run(work, preparing)


def _map_arena() -> None:
    from mproxy._inherit import map_arena
    try:
        map_arena()
    except OSError as error:
        raise LocalError(f"no memory that outlives a worker: {error.strerror}; start without --workers") from None
