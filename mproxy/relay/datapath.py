"""One interface to what carries out rules: workers in user space (`relay/supervisor`) or the kernel (`kernel/`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.ground.errors import MproxyError
    from mproxy.relay.rules import Rule

    Facts = dict[str, Any]  # as in the JSON of `status`: docs/relay.md


class Datapath:
    """Carries out one set of rules at a time, from `start` to `stop`."""

    def start(self, rules: Sequence[Rule], on_ready: Callable[[], object],
              on_failed: Callable[[MproxyError], object]) -> None:
        """Begin; `on_ready()` once every rule is served. MproxyError, or later `on_failed(error)`, if it cannot be."""
        raise NotImplementedError

    def apply(self, rules: Sequence[Rule]) -> tuple[int, int, int]:
        """Change to other rules; returns how many were added, changed, removed. MproxyError: nothing was changed."""
        raise NotImplementedError

    def when_followed(self, callback: Callable[[], object]) -> None:
        """Call `callback()` when the present rules are followed everywhere."""
        raise NotImplementedError

    def status(self, callback: Callable[[Facts], object]) -> None:
        """Call `callback` with {"workers": [...], "rules": [...], "totals": {...}, ...}."""
        raise NotImplementedError

    def listening_fds(self) -> list[int]:
        """Descriptors of all listening sockets."""
        raise NotImplementedError

    def stop(self, patience_us: int, on_ended: Callable[[], object]) -> None:
        """Take no new connection, wait at most `patience_us` for the existing ones to end; then `on_ended()`."""
        raise NotImplementedError

    def stop_at_once(self) -> None:
        """End at once."""
        raise NotImplementedError

    def reopen_access(self) -> None:
        """Open the access log again, if there is one; UsageError when that fails, and the former goes on."""

    def reopen_log(self, fd: int) -> None:
        """From now on the log goes to another file, open as `fd`."""
        raise NotImplementedError
