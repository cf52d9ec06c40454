"""Errors by whose fault they are: the user's, the peer's, or our own.

A lost carrier is none of these: it is an event, handled by the session.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy._wire import CloseCode


class MproxyError(Exception):
    """Base of every error that mproxy raises on purpose; its text is one line to be shown."""

    def lines(self) -> list[str]:
        """The lines to be shown: one, unless several things are wrong at once."""
        return [str(self)]


class UsageError(MproxyError):
    """The command line, a file or the system's setup is wrong. Programs print the text and exit with status 2."""


class PeerError(MproxyError):
    """The peer broke the protocol. Costs that peer's session or connection, never the process.

    `code` is a member of `mproxy._wire.CloseCode`; both sides log it. `detail` is a number that goes with some codes:
    with STALE_EPOCH the newest epoch seen, with UNKNOWN_SESSION and KEY_REFUSED the site that says so, with TWIN
    whether it is sure.
    """

    def __init__(self, code: CloseCode | None, reason: str, detail: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.detail = detail


class LocalError(MproxyError):
    """A method was called in a state that forbids it: a fault in this program."""
