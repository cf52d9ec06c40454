"""A restart by the service manager where several workers run: what each had is in the store under names of its own, and
is taken over by the keeper that follows its one.
"""

from __future__ import annotations

from mproxy.ground.errors import MproxyError
from mproxy.io import heirlooms
from mproxy.keeper.descriptor_store import Names
from mproxy.keeper.returning import GivenStore, Returning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, NoReturn

    from mproxy.ground.shapes import Logger
    from mproxy.keeper.branch import Wait
    from mproxy.keeper.loading import Judge


class SeveralReturning:
    """Of a program that has as many workers as the run before. Made before it opens anything."""

    def __init__(self, program: str, log: Logger, workers: int) -> None:
        self._store = GivenStore()
        self._workers = [Returning(program, log, self._store, Names(number)) for number in range(workers)]
        listening = set(self._store.fds)
        for each in self._workers:
            each.take_listeners()
        self._store.forget(listening.difference(self._store.fds))

    def when_joined(self, join: Callable[[int], object], keep_vows: Callable[[Mapping[str, Any]], object],
                    judge: Judge) -> None:
        """How branches go on: as in `SeveralSuccessors`."""
        self._join, self._keep_vows, self._judge = join, keep_vows, judge

    def forked(self) -> None:
        """Each branch has all descriptors; nobody needs the others'."""

    def prepare(self, number: int) -> Collection[int]:
        """Take over what worker `number` had; returns the descriptors of its connections."""
        own = self._workers[number]
        for each in self._workers:
            if each is not own:
                each.let_go()
        own.take_listeners(own=True)
        self._join(number)
        heirlooms.close_rest()
        return own.take_over(self._keep_vows, self._judge)

    def confirm(self, number: int) -> None:
        """Nobody waits for that."""

    def settle(self, _wait: Wait) -> None:
        """All have taken over, so nothing is needed in the store, nor in the main process."""
        heirlooms.close_rest()
        self._store.forget_all()

    def begin(self, number: int) -> None:
        """There is nothing more to be done."""

    def fail(self, why: object) -> NoReturn:
        """The start has failed; what is in the store stays there."""
        raise MproxyError(str(why))
