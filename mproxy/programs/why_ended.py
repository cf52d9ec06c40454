"""Why sessions end, in words."""

from __future__ import annotations

from mproxy._wire import CloseCode

# Codes by which sproxy says that the session is gone. Every other refusal may pass; BAD_PROOF, too, because somebody on
# the path can cause it by changing the preamble, which the proof covers.
FINAL = {CloseCode.EXPIRED, CloseCode.REPLACED, CloseCode.LIMIT_ERROR}

# A key that is refused for this long is no longer authorised.
KEY_REFUSED_US = 5_000_000

# sproxy's words when a cproxy with the same identity has begun a session; it replaces sessions for other reasons, too.
STARTED_ANEW = "cproxy started anew"
ONE_AT_A_TIME = "--single: a new session started"


def say_close(code: int, reason: str) -> str:
    """A close code with the peer's words, for the log."""
    name = CloseCode(code).name.lower().replace("_", "-")
    return f"{name} ({reason})" if reason else name
