"""What a keeper tells its worker, and how far that has come: some bytes of memory that all its workers have in common
with it. A signal can reach a worker that is just being killed, and dies with it; from here it is known that it was not
carried out, and the next worker is told.
"""

from __future__ import annotations

import mmap
import os
import signal

from mproxy.keeper.signals import STOPPING, pass_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Which signals are orders. An upgrade is no signal to a worker.
ORDERS = (*STOPPING, signal.SIGHUP, signal.SIGUSR1)

# An upgrade in which so many workers were killed is not tried again: perhaps it is what they die of.
MOST_TRIES = 5

# Where in the page: by signal how often it was given and carried out, as bytes that go round, and the rest.
_GIVEN, _DONE, _STOPS, _TRIES, _SPOILT, _READY = 0, 64, 128, 129, 130, 131


class Orders:
    """Of one keeper. It writes what was given, its worker all else; nobody reads anything that is not his."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    # ---- in the keeper

    def await_worker(self) -> None:
        """The next one is about to begin."""
        self._page[_READY] = 0

    @property
    def is_heard(self) -> bool:
        """Whether there is a worker that has closed what the one before has left; what the keeper opens until then it
        may close, too."""
        return bool(self._page[_READY])

    def give(self, pid: int, number: int) -> None:
        """Pass signal `number` on to process `pid`."""
        if number in ORDERS:
            self._page[_GIVEN + number] = (self._page[_GIVEN + number] + 1) & 0xFF
        pass_on(pid, number)

    def take_back(self) -> list[int]:
        """What was given and not carried out; from now on it is as if it had not been given."""
        left: list[int] = [number for number in ORDERS if self._page[_GIVEN + number] != self._page[_DONE + number]]
        for number in left:
            self._page[_DONE + number] = self._page[_GIVEN + number]
        return left

    def give_up_upgrade(self) -> None:
        """A worker has died, and was not killed: an upgrade that was under way is not tried again."""
        self._page[_SPOILT] = 1

    @property
    def is_stopping(self) -> bool:
        """Whether a worker has begun to stop."""
        return bool(self._page[_STOPS])

    # ---- in the worker

    def hear(self) -> None:
        """It has what it begins with, and no more."""
        self._page[_READY] = 1
        os.kill(os.getppid(), signal.SIGCHLD)  # so that the keeper looks

    def carry_out(self, number: int, what: Callable[[], object]) -> None:
        """Do `what` signal `number` means. Of those that come meanwhile one is left to be done."""
        given = self._page[_GIVEN + number]
        what()
        self._page[_DONE + number] = given

    def stop(self, what: Callable[[], object]) -> None:
        """Begin to stop; whoever dies after that has no successor."""
        self._page[_STOPS] = 1
        for number in STOPPING:
            self._page[_DONE + number] = self._page[_GIVEN + number]
        what()

    # ---- upgrades

    def begin_upgrade(self) -> None:
        """One is about to be heard of, and its end is to be told."""
        self._page[_TRIES] = max(1, self._page[_TRIES])

    def end_upgrade(self) -> None:
        """It was told how it ended."""
        self._page[_TRIES] = self._page[_SPOILT] = 0

    @property
    def is_upgrading(self) -> bool:
        """Whether one has begun, perhaps with a worker that has died, and nobody was told how it ended."""
        return bool(self._page[_TRIES])

    def try_again(self) -> bool:
        """Whether the upgrade that ended with the worker before is to be tried once more."""
        if self._page[_SPOILT] or self._page[_TRIES] >= MOST_TRIES:
            return False
        self._page[_TRIES] += 1
        return True
