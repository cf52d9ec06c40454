"""Something to be done in a while, unless something else comes to be done instead."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.io._loop import Loop, Timer


class Delay:
    """One timer of `loop`, or none."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._timer: Timer | None = None

    @property
    def at(self) -> int | None:
        """When the time comes, by the loop's clock in microseconds; None: nothing is to be done."""
        return self._timer.at if self._timer is not None else None

    @property
    def is_set(self) -> bool:
        """Whether something is to be done."""
        return self._timer is not None

    def set(self, us: int, act: Callable[[], object]) -> None:
        """Call `act` after `us` microseconds, and nothing that was to be called before this was said."""
        self.cancel()

        def due() -> None:
            self._timer = None
            act()
        self._timer = self._loop.call_later(us, due)

    def cancel(self) -> None:
        """Call nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
