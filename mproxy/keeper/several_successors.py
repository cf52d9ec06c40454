"""The next build's part in an upgrade where several workers run: each of its keepers gets what one worker has, and none
begins before all have loaded that, and the main process says so."""

from __future__ import annotations

import os

from mproxy import __version__
from mproxy.ground.errors import MproxyError
from mproxy.io import heirlooms
from mproxy.keeper.giving import receive_sessions
from mproxy.keeper.loading import load_apart
from mproxy.keeper.main_process import take_place
from mproxy.keeper.upgrade_messages import hear, make_sockets, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, NoReturn

    from mproxy.keeper.branch import Wait
    from mproxy.keeper.loading import Judge
    from mproxy.keeper.successor import Successor


class SeveralSuccessors:
    """Of one program, which has as many workers as the one before. `join(number)`: this process is of that worker;
    `keep_vows` and `judge` as in `Returning.take_over`."""

    def __init__(self, successor: Successor, join: Callable[[int], object],
                 keep_vows: Callable[[Mapping[str, Any]], object], judge: Judge) -> None:
        self._successor = successor
        self._join = join
        self._keep_vows = keep_vows
        self._judge = judge
        self._pairs = [make_sockets() for _ in range(successor.workers)]
        self._facts: dict[str, Any] = {}
        heirlooms.close_rest()

    # ---- in the main process of this build

    def forked(self) -> None:
        """There are all branches, and they listen."""
        self._successor.ask_for_all([theirs for _ours, theirs in self._pairs])
        self._keep(None)

    def settle(self, wait: Wait) -> None:
        """All have been told that everything was loaded; wait for the main process's word."""
        self._successor.wait_for_word(wait)
        self._successor.begin(0)  # its workers know of their own

    def fail(self, why: object) -> NoReturn:
        """There is no upgrade."""
        self._successor.fail(why)

    # ---- in a branch

    def prepare(self, number: int) -> Collection[int]:
        """Get what worker `number` has, and leave the sessions in the arena; returns their descriptors."""
        self._keep(number)
        self._facts, fds = self._next_word()
        heirlooms.give(dict(zip(self._facts["things"], fds, strict=True)))
        self._join(number)
        heirlooms.close_rest()
        self._keep_vows(self._facts["vows"])
        received = receive_sessions(self._socket)
        if received is None:
            raise MproxyError(f"worker {number} of the running one has not given all that it has")
        dump, descriptors = received
        why = load_apart(dump, descriptors, self._judge)
        if why:
            raise MproxyError(why)
        os.close(dump)
        return descriptors

    def confirm(self, number: int) -> None:
        """All have loaded what they got: the other worker can end."""
        try:
            say(self._socket, {"loaded": __version__})
        except OSError:
            os._exit(1)  # it has died; the next one has everything

    def begin(self, number: int) -> None:
        """This keeper has the place of that one."""
        self._socket.close()
        take_place(self._successor.main, self._facts["deaths"], self._successor.upgrades)

    def _next_word(self) -> tuple[dict[str, Any], list[int]]:
        heard = hear(self._socket)
        if heard is None:
            raise MproxyError("a worker of the running one has ended")
        if "refused" in heard[0]:
            raise MproxyError(str(heard[0]["refused"]))
        return heard

    def _keep(self, number: int | None) -> None:
        """Close the sockets that are not this process's."""
        for each, (ours, theirs) in enumerate(self._pairs):
            theirs.close()
            if each == number:
                self._socket = ours
            else:
                ours.close()
        self._pairs = []
