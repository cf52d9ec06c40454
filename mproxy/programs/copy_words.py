"""What the two ends of `mproxy copy` say to each other through ssh, before anything else: a line each way.

    here: {"version": 1, "secret": ..., "target": "dir/" or "paths": [...], ...}    what is to be done, and the key
    there: mproxy-copy {"port": 6200, ...}    or    mproxy-copy {"error": "...", "status": 1}

Then both send packets, if they have to (packet_pipe). What the other host's shell says before that line is skipped.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

VERSION = 1

# Of what is asked: it goes into the socket's buffer in one piece.
MOST_REQUEST_BYTES = 100_000

# Before the answer, of what a shell says; and of an answer, which may be a list of a million names.
MOST_NOISE_BYTES = 65536
MOST_ANSWER_BYTES = 1 << 30

_MARK = b"mproxy-copy "


def pack_request(request: Mapping[str, Any]) -> bytes:
    """The line; paths may have any bytes."""
    return json.dumps({"version": VERSION, **request}).encode() + b"\n"


def pack_answer(answer: Mapping[str, Any]) -> bytes:
    """The line."""
    return _MARK + json.dumps(answer).encode() + b"\n"


class AnswerReader:
    """Takes what comes from the other end until the answer is there."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = None
        self.rest = b""  # what came after it
        self._arrived = bytearray()

    def take(self, data: bytes) -> bool:
        """Whether the answer is there; ValueError if what comes is none."""
        self._arrived += data
        at = self._arrived.find(_MARK)
        if at < 0 or b"\n" not in data:
            if len(self._arrived) > (MOST_NOISE_BYTES if at < 0 else MOST_ANSWER_BYTES):
                raise ValueError("no answer")
            return False
        end = self._arrived.find(b"\n", at)
        if end < 0:
            return False
        answer = json.loads(self._arrived[at + len(_MARK):end])
        if not isinstance(answer, dict):
            raise ValueError("not an object")
        self.answer, self.rest = answer, bytes(self._arrived[end + 1:])
        return True
