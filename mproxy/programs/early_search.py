"""Looking for the files of a copy while ssh is still at its login."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from mproxy.transfer.source_queue import Search, SourceQueue
from mproxy.transfer.walk import Walk, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.io._loop import Loop
    from mproxy.programs.transfer_config import TransferConfig


COUNT_AFTER_US = 1_500_000


def begin_search(loop: Loop, config: TransferConfig, paths: Sequence[str], renamed: str | None = None) -> Search:
    """Look for `paths`, with the other options of `config`."""
    return Search(lambda leave_out: Walk(paths, leave_out, config.links, config.rules, config.update, config.xattrs,
                                         renamed).in_runs(), loop.call_soon_threadsafe)


def count_later(loop: Loop, config: TransferConfig, sources: SourceQueue, renamed: str | None = None) -> None:
    """If looking for `sources` goes on for COUNT_AFTER_US, count on a thread of its own what there is: for somebody who
    watches, as it means to look at everything twice."""
    def count() -> None:
        total = Walk(config.paths, lambda _path, _why: None, config.links, config.rules, renamed=renamed).count()
        loop.call_soon_threadsafe(lambda: sources.note_counted(total))

    def begin() -> None:
        if sources.total_bytes is None and not sources.ended:
            threading.Thread(target=count, daemon=True).start()
    loop.call_later(COUNT_AFTER_US, begin)


class EarlySearch:
    """Looks for `paths` before it is known what they will be called."""

    def __init__(self, loop: Loop, config: TransferConfig, paths: Sequence[str]) -> None:
        self._paths, self._has_rules = tuple(paths), bool(config.rules)
        self._search = begin_search(loop, config, paths)

    def serves(self, config: TransferConfig) -> bool:
        """Whether this is what is looked for, after all; patterns are compared with the name that a tree then has."""
        return tuple(config.paths) == self._paths and not (config.renamed and self._has_rules)

    def sources(self, renamed: str | None) -> SourceQueue:
        """What is found."""
        sources = SourceQueue(search=self._search)
        if renamed is not None:
            sources.rename(len(os.fsencode(name_of(self._paths[0]))), os.fsencode(renamed))
        return sources

    def close(self) -> None:
        """Look for no more."""
        self._search.close()
