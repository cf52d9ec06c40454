"""What a refusal of sproxy means for the session that cproxy has."""

from __future__ import annotations

from mproxy._wire import CloseCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.errors import PeerError
    from mproxy.io._loop import Loop

# Codes by which sproxy says that the session is gone. Every other refusal may pass; BAD_PROOF, too, because somebody on
# the path can cause it by changing the preamble, which the proof covers.
FINAL = {CloseCode.EXPIRED, CloseCode.REPLACED, CloseCode.LIMIT_ERROR}

# A key that is refused for this long is no longer authorised: before, authorized_keys may just be being written.
KEY_REFUSED_US = 5_000_000


class Refusals:
    """Remembers whose word counts, and since when our key has been refused."""

    def __init__(self, loop: Loop, endpoint: Endpoint) -> None:
        self.site = 0  # which of the sproxies with its key has our session, 0: unknown
        self._loop = loop
        self._endpoint = endpoint
        self._key_refused_at: int | None = None

    def forget(self) -> None:
        """What was refused is no longer the newest that is known of sproxy."""
        self._key_refused_at = None

    def is_final(self, error: PeerError) -> bool:
        """Whether this one ends the session."""
        if error.code == CloseCode.KEY_REFUSED:
            return not self.is_elsewhere(error) and self._has_lasted()
        if error.code == CloseCode.UNKNOWN_SESSION:
            return not self.is_elsewhere(error) or self._endpoint.session.streams.open_count == 0
        return error.code in FINAL

    def is_elsewhere(self, error: PeerError) -> bool:
        """Whether one that counts only from the site that has the session came from another one."""
        says_where = error.code in (CloseCode.UNKNOWN_SESSION, CloseCode.KEY_REFUSED) and error.detail
        return bool(says_where and self.site and error.detail != self.site)

    def _has_lasted(self) -> bool:
        """Whether our key has been refused for KEY_REFUSED_US; this time counts."""
        now = self._loop.now()
        self._key_refused_at = self._key_refused_at or now
        return now - self._key_refused_at >= KEY_REFUSED_US
