"""What cproxy's log says of the carriers of its session, from `connected` and `lost` to `resumed` and `moved`."""

from __future__ import annotations

from mproxy.programs.common import say_carrier, say_seconds, say_session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.service.log import Log


class CarrierLog:
    """Lines in `log`. `stdio`: it says nothing that is not wrong."""

    def __init__(self, log: Log, stdio: bool) -> None:
        self.failures = 0         # dials since there was a carrier
        self._log = log
        self._stdio = stdio
        self._complained = False  # the log has warned of a loss
        self._ends: tuple[str | None, object] | None = None  # what was said last: our host, and the peer

    def connected(self, endpoint: Endpoint) -> None:
        """A new session has its first carrier."""
        self._log.info("connected", session=say_session(endpoint.session.session_id), failures=self.failures or None,
                       **say_carrier(endpoint))
        self._works(endpoint)

    def resumed(self, endpoint: Endpoint, after_us: int, resent: int) -> None:
        """The session goes on, that long after the last byte of the carrier before."""
        session = endpoint.session
        # --stdio says nothing otherwise; but whoever has read that it is lost wants to know that it is back.
        log = self._log.warning if self._complained and self._stdio else self._log.info
        log("resumed", session=say_session(session.session_id), after=say_seconds(after_us), resent=resent,
            streams=session.streams.open_count, epoch=session.epoch, failures=self.failures or None,
            **say_carrier(endpoint))
        self._works(endpoint)

    def _works(self, endpoint: Endpoint) -> None:
        self.failures, self._complained = 0, False
        self._ends = ends_of(endpoint)

    def moved(self, endpoint: Endpoint) -> None:
        """The carrier goes on with another address. If it is only the NAT's that has changed nobody here can name it,
        and there is no line."""
        ends = ends_of(endpoint)
        if ends != self._ends:
            self._ends = ends
            self._log.info("moved", session=say_session(endpoint.session.session_id), **say_carrier(endpoint))

    def lost(self, endpoint: Endpoint, why: str, planned: bool) -> None:
        """There is no carrier; `planned`: a better one is about to follow."""
        session = endpoint.session
        self._complained |= not planned
        (self._log.info if planned else self._log.warning)(
            "lost", session=say_session(session.session_id), why=why, streams=session.streams.open_count,
            unacknowledged=session.streams.out_held)


def ends_of(endpoint: Endpoint) -> tuple[str | None, object]:
    """(our host, the peer's address) of its carrier, as far as they are known."""
    said = say_carrier(endpoint)
    return said.get("local", "").rpartition(":")[0], said.get("peer")
