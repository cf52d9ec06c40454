"""What programs/quick_copy.c leaves to Python of a copy: here the answer of an ssh that it has asked (which ssh:
mproxy.policy.via_start) if that is not that the file is written; and on the other host what was asked there.
"""

from __future__ import annotations

import os

# In the environment: numbers of files.
KNOWN = "MPROXY_COPY_KNOWN"  # the secret and what was heard
ASKED = "MPROXY_COPY_ASKED"  # the question

SECRET_BYTES = 32


class Begun:
    """An ssh has been asked: the secret in the question, and what has been heard since."""

    def __init__(self, secret: bytes, heard: bytes) -> None:
        self.secret, self.heard = secret, heard


def take_begun() -> Begun | None:
    """What was begun here; None: nothing."""
    data = _take(KNOWN)
    return Begun(data[:SECRET_BYTES], data[SECRET_BYTES:]) if data else None


def take_asked() -> bytes:
    """What was asked here, if that has been read already."""
    return _take(ASKED)


def _take(variable: str) -> bytes:
    number = os.environ.pop(variable, "")
    if not number:
        return b""
    with open(int(number), "rb") as file:
        return file.read()
