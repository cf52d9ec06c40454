"""Whom an endpoint tells what happens. Python is called only for events, never for frames or bytes."""

from __future__ import annotations

from mproxy._wire import ResetCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.endpoint._endpoint import Endpoint


class EndpointObserver:
    """Base class of an endpoint's observers. Exceptions of a method go to the loop's `on_error`."""

    # ---- the carrier

    def on_resumed(self, endpoint: Endpoint) -> None:
        """Streams flow on a new carrier."""

    def on_suspect(self, endpoint: Endpoint) -> None:
        """Nothing has been heard on the carrier for too long."""

    def on_denied(self, endpoint: Endpoint) -> None:
        """cproxy: who is at sproxy's address says that he does not know the carrier. Nothing proves it."""

    def on_stuck(self, endpoint: Endpoint, certain: bool) -> None:
        """Small packets pass, full ones get lost: certainly, or perhaps."""

    def on_lost(self, endpoint: Endpoint, why: str) -> None:
        """The carrier is gone, or counts as lost: then it is kept until another one works (sproxy: over UDP)."""

    def on_revived(self, endpoint: Endpoint) -> None:
        """The carrier that counted as lost brings bytes again."""

    def on_moved(self, endpoint: Endpoint) -> None:
        """The peer has another address, or cproxy may have one (or its NAT has), and the carrier went on."""

    def on_waiting(self, endpoint: Endpoint) -> None:
        """cproxy: a dial may help now. An application came or wrote while there is no carrier, or something answered on
        the one that counted as lost."""

    def on_closed(self, endpoint: Endpoint, code: int, reason: str, local: bool) -> None:
        """The session is over and its applications were reset. `code` is a CloseCode; `local`: this side found the
        reason."""

    # ---- places where sproxy listens

    def on_listen(self, endpoint: Endpoint, number: int, was_last: bool, place: str) -> None:
        """sproxy: the peer wants it to listen at `place`, which has that number, to be answered with `answer_place`;
        or, with `was_last`, nowhere but at what it has asked for on this carrier."""

    def on_listening(self, endpoint: Endpoint, number: int, listens: bool, text: str) -> None:
        """cproxy: sproxy's answer; `text`: where it listens, or why it does not."""

    # ---- applications

    def on_opened(self, endpoint: Endpoint, stream: int, target: bytes) -> None:
        """The peer opened a stream to `target` (HOST:PORT, empty: the default daemon; at cproxy the number of a place
        where sproxy listens). To be answered with `Endpoint.connect` or `Endpoint.refuse`, now or later."""
        endpoint.refuse(stream, ResetCode.NOT_ALLOWED)

    def on_refused(self, endpoint: Endpoint, stream: int, target: str, error: int) -> None:
        """The daemon cannot be reached (errno). In a flood only some are told."""

    def on_reset(self, endpoint: Endpoint, stream: int, code: int, why: str) -> None:
        """The peer reset a stream (ResetCode); its application was reset after all that the peer's had written. `why`:
        the peer's words, if it has any."""

    def on_left_away(self, endpoint: Endpoint, stream: int, broken: bool) -> None:
        """An application ended its direction, or broke, while there is no carrier. In a flood only some are told."""

    def on_idle(self, endpoint: Endpoint) -> None:
        """The last application has gone."""
