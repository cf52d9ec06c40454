"""Whether a cproxy that wants a new session is the one it says it is, come back, or has a copy of that one's state; and
whether one that wants its session back may find it elsewhere."""

from __future__ import annotations

from mproxy._wire import HEADER_BYTES, CloseCode, HelloFeature
from mproxy.ground.errors import PeerError
from mproxy.handshake import session_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy._session import Session
    from mproxy.handshake import Hello
    from mproxy.programs.clients import Client

TWIN = "another running cproxy has the same identity: was its state directory copied?"


def check_twin(hello: Hello, former: Client, now: int) -> None:
    """Raise PeerError if a new session's instance is not the former one come back, but has a copy of its state.

    Whoever has a working carrier keeps its session, whatever the other one knows: the copy may be recent. Without one,
    a session with streams is kept for the cproxy that knows it. One without streams, or of which we have only heard
    what went with its HELLO, may never have been known there: its WELCOME may have been lost.
    """
    if not hello.features & HelloFeature.RENAMES:
        return
    session = former.endpoint.session
    if former.endpoint.attached:
        if former.probed_at is None or former.probed_at < former.attached_at:
            former.endpoint.probe()
            former.probed_at = now
        heard = session.received_at > former.probed_at
        raise PeerError(CloseCode.TWIN, TWIN if heard else "the previous session still holds its connection",
                        int(heard))
    if session.met and session.streams.open_count and hello.former != session_tag(session.session_id):
        raise PeerError(CloseCode.TWIN, TWIN, 1)


# A longer list of streams is not an honest one (docs/protocol.md, section 8).
LIST_BYTES = 4 * HEADER_BYTES
LIST_BYTES_MORE = 16385 * HEADER_BYTES


def check_list(hello: Hello, most_streams: int) -> None:
    """Raise PeerError if the list behind a HELLO is longer than one of so many streams can be."""
    if hello.list_bytes > LIST_BYTES * most_streams + LIST_BYTES_MORE:
        raise PeerError(CloseCode.LIMIT_ERROR, "more streams than a session may have")


def check_epoch(hello: Hello, session: Session) -> None:
    """Raise PeerError unless the HELLO is newer than every carrier of the session."""
    if hello.epoch <= session.epoch:
        raise PeerError(CloseCode.STALE_EPOCH, "a newer carrier exists", session.epoch)


def unknown_session(site: int, by_tag: bool) -> PeerError:
    """The refusal of a session that `site` does not have. `by_tag`: a balancer has led its client here by the routing
    tag, so that nobody has it: then the answer names no site, and is final."""
    if by_tag:
        return PeerError(CloseCode.UNKNOWN_SESSION, "no such session; the machine that had it is gone, or has lost it")
    return PeerError(CloseCode.UNKNOWN_SESSION, "no such session; sproxy was restarted, or it expired", site)
