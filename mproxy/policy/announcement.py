"""What `sproxy --attach --start` says before anything else: how to reach that sproxy without the pipe.

Pure. One line of text, which is a banner for those who do not look for it. It is believed by those who believe the
pipe: ssh has proven who is at the other end.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LINE = re.compile(rb"(?:^|\n)mproxy-attached ports=([0-9,]{0,120}) key=(SHA256:[A-Za-z0-9+/]{43})?\r?\n")


class Announcement:
    """Ports of an sproxy, none if it listens on none, and its key's fingerprint, empty without encryption."""

    def __init__(self, ports: tuple[int, ...], key: str) -> None:
        self.ports = ports
        self.key = key


def announce(ports: Iterable[int], key: str) -> bytes:
    """The line."""
    return f"mproxy-attached ports={','.join(map(str, ports))} key={key}\n".encode()


def is_announcement(text: str) -> bool:
    """Whether a banner is nothing else."""
    return text.startswith("mproxy-attached ports=") and text.count(" ") == 2


def find_announcement(banner: bytes) -> Announcement | None:
    """The announcement in what came before the preamble; None: there is none."""
    match = _LINE.search(banner)
    if match is None:
        return None
    ports = tuple(int(word) for word in match[1].decode().split(",") if word and 0 < int(word) < 65536)
    return Announcement(ports, (match[2] or b"").decode())
