"""Looking for the files of a copy while ssh is still at its login: a tree of 50,000 takes as long as that."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from mproxy.transfer.walk import find_sources, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.selection import Rule
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transfer.walk import OnLeftOut


class EarlySearch:
    """Looks for `paths` on a thread of its own; the rest as of `find_sources`. `find` tells what was found."""

    def __init__(self, paths: Sequence[str], links: str, rules: Sequence[Rule], by_time: bool,
                 with_attributes: bool) -> None:
        self._paths, self._links, self._rules = paths, links, rules
        self._by_time, self._with_attributes = by_time, with_attributes
        self._left_out: list[tuple[str, str | OSError]] = []
        self._found: list[SourceFile] = []
        self._error: Exception | None = None  # or why nothing was found
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._found = find_sources(self._paths, self._leave_out, self._links, self._rules, self._by_time,
                                       self._with_attributes)
        except Exception as error:  # whatever it is, `find` raises it
            self._error = error

    def _leave_out(self, path: str, why: str | OSError) -> None:
        self._left_out.append((path, why))

    def serves(self, paths: Sequence[str], renamed: str | None) -> bool:
        """Whether this is what is looked for, after all; patterns are compared with the name that a tree then has."""
        return list(paths) == list(self._paths) and not (renamed and self._rules)

    def find(self, on_left_out: OnLeftOut, renamed: str | None) -> list[SourceFile]:
        """As `find_sources`. Waits; not on the loop's thread."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        for path, why in self._left_out:
            on_left_out(path, why)
        if renamed is not None:
            old, new = len(os.fsencode(name_of(self._paths[0]))), os.fsencode(renamed)
            for source in self._found:
                source.name = new + source.name[old:]
                source.same_as = source.same_as and new + source.same_as[old:]
        return self._found
