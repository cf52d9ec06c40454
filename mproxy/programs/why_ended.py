"""Why sessions end, in words."""

from __future__ import annotations

from mproxy._wire import CloseCode

# sproxy's words when a cproxy with the same identity has begun a session; it replaces sessions for other reasons, too.
STARTED_ANEW = "cproxy started anew"
ONE_AT_A_TIME = "--single: a new session started"


def say_close(code: int, reason: str) -> str:
    """A close code with the peer's words, for the log; the words alone where the code says only that it ended."""
    if reason and code == CloseCode.ORDERLY:
        return reason
    name = CloseCode(code).name.lower().replace("_", "-")
    return f"{name} ({reason})" if reason else name
