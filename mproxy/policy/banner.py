"""What a command prints before sproxy speaks: a message of the day, warnings of a shell, a proxy's greeting.

Pure. The preamble begins with a byte that no text has, so it is found wherever it begins (docs/protocol.md, section 3).
"""

from __future__ import annotations

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.ground.words import escaped
from mproxy.handshake import encode_preamble

# More than this before the preamble is not a banner.
MOST_BYTES = 65536

# How much of a banner is kept, for the log.
SHOWN_BYTES = 300

# More than a line of announcement (mproxy.policy.announcement).
TAIL_BYTES = 400

MAGIC = encode_preamble()[:4]


class Banner:
    """Skips what comes before the preamble on one connection."""

    def __init__(self) -> None:
        self.length = 0      # bytes that came before the preamble
        self.found = False   # the preamble has begun
        self._shown = b""
        self._held = b""     # may be the beginning of the preamble
        self.tail = b""      # the last bytes before it

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the peer; returns those of the preamble and behind it. PeerError if there is too much."""
        if self.found:
            return data
        data = self._held + data
        at = data.find(MAGIC)
        self.found = at >= 0
        if not self.found:
            at = len(data) - _begun(data)
        self.length += at
        self._shown += data[:min(at, SHOWN_BYTES - len(self._shown))]
        self.tail = (self.tail + data[:at])[-TAIL_BYTES:]
        if self.length > MOST_BYTES:
            raise PeerError(CloseCode.VERSION_ERROR, (
                f"the command printed more than {MOST_BYTES >> 10} KiB, and nothing that an sproxy says; it began with:"
                f" {self.text()[:100]}"))
        self._held = b"" if self.found else data[at:]
        return data[at:] if self.found else b""

    def text(self) -> str:
        """The beginning of the banner, in one line."""
        lines = self._shown.decode(errors="replace").replace("\r", "\n").split("\n")
        return escaped(" ".join(line.strip() for line in lines if line.strip()))


def _begun(data: bytes) -> int:
    """How many bytes at the end may be the beginning of the preamble."""
    return next(n for n in (3, 2, 1, 0) if data.endswith(MAGIC[:n]))
