"""A program whose work several workers do (`--workers`), from what `run_program` has made of the command line, until
all have ended. Each worker has a loop, an arena and a keeper of its own; what they share the program has made before.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, Protocol

    from mproxy.ground.config import LogConfig
    from mproxy.io._loop import Loop
    from mproxy.keeper.keeper import Keeper
    from mproxy.service.control import Reply
    from mproxy.service.log import Log
    from mproxy.service.rights import User

    class Dividing(Protocol):
        """What it asks of a program (`mproxy.service.run.Program`)."""

        workers: int
        @property
        def authorized_keys_file(self) -> str | None: ...
        def open(self) -> None: ...
        def join(self, number: int) -> None: ...
        def claim(self, fds: list[int], /) -> Collection[int]: ...


def run_several(program: Dividing, config: LogConfig, log: Log, loop: Loop, user: User | None,
                serve: Callable[[Keeper], int]) -> int:
    """Returns in the main process, in every keeper and in every worker: the exit status of each. `serve(keeper)`: what
    a worker does."""
    from mproxy.keeper.branches import Branches
    from mproxy.keeper.keeper import Keeper  # noqa: F401  before rights are gone, and files perhaps with them
    from mproxy.service.log import Log
    from mproxy.service.rights import warn_of_lost_file
    own_log = Log(config.log_level, config.log_format)
    own_log.restrain(lambda _delay_us, _function: None)
    branches = Branches(own_log, program.workers)
    branches.hold_signals()
    program.open()
    if user is not None:
        user.become()
        warn_of_lost_file(program.authorized_keys_file, user, log)

    def work(number: int) -> int:
        own_log.mark(worker=number)
        log.mark(worker=number)
        program.join(number)
        keeper = _make_keeper(program, own_log, loop, branches.mask)
        return keeper.run(lambda: serve(keeper))

    return branches.run(work)


def _make_keeper(program: Dividing, own_log: Log, loop: Loop, mask: set[int]) -> Keeper:
    from mproxy._inherit import culprit, map_arena
    from mproxy.ground.errors import LocalError
    from mproxy.keeper.keeper import Keeper
    try:
        map_arena()
    except OSError as error:
        raise LocalError(f"no memory that outlives a worker: {error.strerror}; start without --workers") from None
    keeper = Keeper(loop, own_log, claim=program.claim, turn=culprit, behind=True)
    keeper.hold_signals(mask)
    return keeper


def refuse_upgrade(_request: dict[str, Any], reply: Reply) -> None:
    """The command of that name."""
    from mproxy.keeper.branches import NO_UPGRADE
    reply({"ok": False, "lines": [f"no upgrade: {NO_UPGRADE}"]})
