"""--delete for people: what would be deleted is shown, and done when they say so."""

from __future__ import annotations

import os
import sys

from mproxy.ground.errors import UsageError
from mproxy.ground.words import counted
from mproxy.programs.transfer import PARTIAL, show_name, write_line
from mproxy.transfer.deletion_out import DeletionObserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from mproxy.io._loop import Loop
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.service.log import Log
    from mproxy.transfer.deletion_messages import Removed
    from mproxy.transfer.deletion_out import Surplus

SHOWN = 20  # names, before somebody is asked


def check_deletion(given: Mapping[str, Any], paths: Sequence[str]) -> None:
    """UsageError where --delete cannot be, or nobody could be asked."""
    if given.get("yes") and not given.get("delete"):
        raise UsageError("--yes goes with --delete: it deletes without asking")
    if not given.get("delete"):
        return
    if "-" in paths:
        raise UsageError("--delete is for directories: standard input has none, leave one out")
    if not (given.get("yes") or given.get("dry_run") or (os.isatty(0) and os.isatty(2))):
        raise UsageError("--delete asks before it deletes, and there is no terminal here: add --yes to delete without"
                         " being asked, or --dry-run to see what would be deleted")


class Deleting(DeletionObserver):
    """Asks, and tells how it went. `clear()` makes room on a terminal; `where`: the host that has the files."""

    def __init__(self, config: TransferConfig, log: Log, loop: Loop, where: str, clear: Callable[[], None]) -> None:
        self._config, self._log, self._loop = config, log, loop
        self._where, self._clear = where, clear
        self.status = 0
        self.was_asked = False

    def on_surplus(self, surplus: Sequence[Surplus], answer: Callable[[bool], object]) -> None:
        self.was_asked = True
        config = self._config
        if config.dry_run:
            self._list(surplus)
            answer(False)
        elif config.yes:
            answer(True)
        else:
            self._ask(surplus, answer)

    def _list(self, surplus: Sequence[Surplus]) -> None:
        self._clear()
        for path, is_directory in surplus:
            if self._config.json:
                write_line({"file": show_name(path), "kind": "directory" if is_directory else "file", "delete": True})
            else:
                print("delete " + show_name(path) + "/" * is_directory)
        sys.stdout.flush()

    def _ask(self, surplus: Sequence[Surplus], answer: Callable[[bool], object]) -> None:
        """On the terminal, on a thread of its own: whoever thinks must not stop packets."""
        import threading
        self._clear()
        lines = [f"  {show_name(path)}{'/' * is_directory}" for path, is_directory in surplus[:SHOWN]]
        if len(surplus) > SHOWN:
            lines.append(f"  and {len(surplus) - SHOWN} more")
        sys.stderr.write("\n".join((f"{self._where} has what is not copied:", *lines,
                                    f"Delete {_say(surplus)} there? [y/N] ")))
        sys.stderr.flush()

        def wait() -> None:
            said = os.read(0, 1024).strip().lower()
            self._loop.call_soon_threadsafe(lambda: answer(said in (b"y", b"yes")))

        threading.Thread(target=wait, daemon=True).start()

    def on_deleted(self, surplus: Sequence[Surplus], removed: Removed) -> None:
        self._clear()
        if removed.failed:
            self.status = PARTIAL
            self._log.warning("not-deleted", files=removed.failed, why=removed.text)
        elif self._config.json:
            for path, is_directory in surplus:
                write_line({"file": show_name(path), "kind": "directory" if is_directory else "file",
                            "result": "deleted"})
        self._log.info("deleted", files=removed.count)

    def on_not_deleted(self, why: str) -> None:
        self._clear()
        self.status = PARTIAL
        self._log.warning("not-deleted", why=f"--delete: nothing was deleted: {why}")


def _say(surplus: Sequence[Surplus]) -> str:
    directories = sum(1 for _path, is_directory in surplus if is_directory)
    files = len(surplus) - directories
    parts = [counted(files, "file")] * bool(files) + (
        [f"{directories} director{'y' if directories == 1 else 'ies'}"] * bool(directories))
    return " and ".join(parts)
