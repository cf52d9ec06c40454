"""When the next attempt begins: what every kind of dialer shares (mproxy.policy.dialer, mproxy.policy.via_dialer)."""

from __future__ import annotations

from mproxy.io.delay import Delay
from mproxy.policy.backoff import LAST_HURRY_US, NEWCOMER_US, Backoff

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.io._loop import Loop

# If an application writes again after being quiet for this long, somebody is waiting.
QUIET_US = 10_000_000


class DialSchedule:
    """One timer, at whose end `begin()` is called; how long it takes is for the backoff to say."""

    def __init__(self, loop: Loop, begin: Callable[[], object]) -> None:
        self._backoff = Backoff()
        self._loop = loop
        self._begin = begin
        self._delay = Delay(loop)
        self._waited_at = 0  # when we were last told that an application waits

    @property
    def next_at(self) -> int | None:
        """When the next attempt begins, in the loop's time; None: none is due."""
        return self._delay.at

    def anew(self) -> None:
        """A series begins, or everything has changed."""
        self._backoff.begin(self._loop.now())

    def start(self) -> None:
        """Begin a series: at once, but not within this call."""
        self.anew()
        self._delay.set(self._backoff.after_failure_us(self._loop.now()) or 0, self._begin)

    def is_old(self) -> bool:
        """Whether the outage is old, so that the pauses are long."""
        return self._backoff.is_old(self._loop.now())

    def cancel(self) -> None:
        """Begin nothing more."""
        self._delay.cancel()

    def begun(self) -> None:
        """An attempt begins: while it is not answered another one follows."""
        self._delay.set(self._backoff.next_us(self._loop.now()), self._begin)

    def failed(self) -> None:
        """Nothing is under way any more: the next one follows sooner, while the outage is new."""
        now = self._loop.now()
        delay_us = self._backoff.after_failure_us(now)
        if delay_us is not None:
            self._delay.set(delay_us, self._begin)
        elif not self._delay.is_set:
            self._delay.set(self._backoff.next_us(now), self._begin)

    def hurries(self, newcomer: bool) -> bool:
        """Whether to try at once, since an application waits (`newcomer`: it has just connected). One that merely keeps
        writing does not count."""
        now = self._loop.now()
        is_news = newcomer or now - self._waited_at > QUIET_US
        self._waited_at = now
        return is_news and self._backoff.is_old(now) and self._backoff.may_hurry(
            now, NEWCOMER_US if newcomer else LAST_HURRY_US)

    def changed(self) -> bool:
        """Whether to try at once, since the network has changed, though not the way to sproxy."""
        return self._backoff.may_hurry(self._loop.now())
