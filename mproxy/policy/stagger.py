"""One try beside the other: the next begins when the last has had its time, or has failed (RFC 8305, section 5).

For dials in Python; io/_attempts does it for sockets in C.
"""

from __future__ import annotations

from mproxy.io.delay import Delay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Generic, TypeVar

    from mproxy.io._loop import Loop
    Try = TypeVar("Try")
else:
    Generic, Try = {None: object}, None

# Section 8: Connection Attempt Delay.
NEXT_US = 250_000


class Stagger(Generic[Try]):
    """Begins the tries that are `left`, best first.

    `begin(one)` returns whether it is under way now. `none_left()` is called when another was wanted and there is none.
    `pause_us(one)`: how much time the one before it has.
    """

    def __init__(self, loop: Loop, begin: Callable[[Try], bool], none_left: Callable[[], object],
                 pause_us: Callable[[Try], int] = lambda _one: NEXT_US) -> None:
        self.left: list[Try] = []
        self._begin = begin
        self._none_left = none_left
        self._pause_us = pause_us
        self._delay = Delay(loop)

    def go_on(self) -> None:
        """Begin the next now: the last one failed, or there is none yet."""
        self._delay.cancel()
        while self.left:
            if self._begin(self.left.pop(0)):
                if self.left:
                    self.wait(self._pause_us(self.left[0]))
                return
        self._none_left()

    def wait(self, pause_us: int = NEXT_US) -> None:
        """Begin the next in a while."""
        self._delay.set(pause_us, self.go_on)

    def stop(self) -> None:
        """Begin nothing more."""
        self._delay.cancel()
        self.left = []
