"""What the dialers have in common that try in one way at a time (`datagram_dialer`, `via_dialer`)."""

from __future__ import annotations

from mproxy.ground.errors import MproxyError
from mproxy.policy.dial_schedule import DialSchedule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mproxy.io._loop import Loop
    from mproxy.policy.dialer import DialObserver
    from mproxy.policy.paths import Paths

    class SingleAttempt(Protocol):
        def begin(self) -> None:
            """Dial; from now on the dialer may be told how it went."""

        def close(self) -> None:
            """Give up, without calling the dialer."""


class SingleDialer:
    """As `policy.dialer.Dialer`. Kinds make the attempts."""

    follows_routes = False  # which of our addresses a carrier has is unknown, or changes
    stays = False
    device = None

    def __init__(self, loop: Loop, observer: DialObserver, paths: Paths) -> None:
        self.loop = loop
        self.observer = observer
        self.paths = paths
        self.running = False
        self._schedule = DialSchedule(loop, self._begin)
        self._attempt: SingleAttempt | None = None

    def _make_attempt(self) -> SingleAttempt:
        """One that has not begun. MproxyError or OSError if nothing can be dialled now."""
        raise NotImplementedError

    @property
    def next_try_at(self) -> int | None:
        """When the next attempt begins, in the loop's time; None while none is due."""
        return self._schedule.next_at if self.running else None

    def start(self) -> None:
        """Dial until a carrier is welcomed; does nothing if that is under way."""
        if not self.running:
            self.running = True
            self._schedule.start()

    def stop(self) -> None:
        """Give up what is under way."""
        self._drop_attempt()
        self.ease()

    def ease(self) -> None:
        """Begin nothing more; an attempt, which sproxy may have heard, goes on to its end."""
        self.running = self._attempt is not None
        self._schedule.cancel()

    def hurry(self, newcomer: bool) -> None:
        """An application waits (`newcomer`: it has just connected): do not sit out a long pause."""
        if self.running and self._schedule.hurries(newcomer):
            self._begin()

    def _drop_attempt(self) -> None:
        if self._attempt is not None:
            self._attempt.close()
            self._attempt = None

    def _begin(self) -> None:
        self._schedule.cancel()
        if self._attempt is not None:
            return
        if not self.observer.still_wanted():
            self.ease()
            return
        try:
            attempt = self._make_attempt()
        except (MproxyError, OSError) as error:
            self._schedule.failed()
            self.observer.on_dial_failed(str(error))
            return
        self._attempt = attempt
        attempt.begin()
