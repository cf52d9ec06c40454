"""How often sproxy's worker looks at everything for garbage in cycles.

While sessions begin, or note an outage each, Python looks at every object of all of them, again and again: 90 ms with
3,000, in which nobody is served. What a look has found in use is left out of the next ones (gc.freeze). Once that has
doubled the next look is a whole one: so what has ended in the meantime, in cycles, is at most as much again.
"""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Fewer objects than these are looked at in some milliseconds.
LEAST = 50_000


class Cycles:
    """Of this process, from `begin` on."""

    def __init__(self) -> None:
        self._most = 0  # objects that may be left out

    def begin(self) -> None:
        """Let looks at everything be few."""
        gc.callbacks.append(self._looked)

    def end(self) -> None:
        """Have Python's own way again."""
        gc.callbacks.remove(self._looked)
        gc.unfreeze()

    def _looked(self, phase: str, info: dict[str, Any]) -> None:
        if phase != "stop" or info["generation"] < 2:
            return
        was_whole = gc.get_freeze_count() == 0
        gc.freeze()
        count = gc.get_freeze_count()
        if was_whole:
            self._most = 2 * max(count, LEAST)
        elif count > self._most:
            gc.unfreeze()
