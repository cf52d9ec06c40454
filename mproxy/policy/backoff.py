"""When to dial next.

In the first two minutes of an outage somebody is waiting, and most paths come back: when a dial fails the next follows
within a second. While dials are not answered at all (a router drops them) they begin up to two seconds apart, because
each one repeats its SYN by itself.

After that the pauses are at once longer than half a minute, and grow: some firewalls count the connections of the last
half minute, or of ten, and begin to count anew with every try that they have blocked; and a hundred thousand dials a
day help nobody. Each pause is at most 0.6 of the outage so far, so the longest come when it has lasted half an hour.

Every pause is random between a part of its ceiling and the whole (jitter; M. Brooker, Exponential Backoff And Jitter,
AWS Architecture Blog 2015): when a thousand clients lose the same sproxy their dials spread out.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A first retry sooner than a round trip across a continent would only repeat the failure.
FIRST_CEILING_US = 50_000

# The longest that a user waits, in the first two minutes, when the path is good again and nothing announces it.
LAST_CEILING_US = 1_000_000

# The same while attempts are unanswered. The system first repeats a SYN after a second (RFC 6298, section 2.1), and
# then 3 s and 7 s after the start.
FIRST_SILENT_US = 100_000
LAST_SILENT_US = 2_000_000

# How long an outage is new. Unanswered attempts repeat their SYNs for REPEATS_US, so the last begins that much earlier.
NEW_US = 120_000_000
REPEATS_US = 7_000_000

# Pauses in an old outage: the first outlasts a firewall's count over half a minute, the last one over ten minutes.
FIRST_PAUSE_US = 36_000_000
LAST_PAUSE_US = 720_000_000

# A sign that somebody waits, or that something has changed, starts a dial at once, if the last such dial is at least
# this long ago; twice as long each time. Whoever writes again and again may be a program that nobody watches, so in the
# end a firewall has two minutes to forget; an application that has just connected was most likely started by somebody.
FIRST_HURRY_US = 1_000_000
LAST_HURRY_US = 120_000_000
NEWCOMER_US = 30_000_000


class Backoff:
    """The pauses of one series of dials. Times are microseconds; `draw` gives a float in [0, 1)."""

    def __init__(self, draw: Callable[[], float] | None = None) -> None:
        self._draw = draw or draw_from_system
        self._hurried_at: int | None = None  # the last sign that was followed
        self.begin(0)

    def begin(self, now: int) -> None:
        """A series of dials begins, or everything has changed: dial at once next."""
        self._began_at = now
        self._ceiling_us = self._silent_us = 0
        self._pause_us = FIRST_PAUSE_US
        self._hurry_us, self._hurried_at = FIRST_HURRY_US, None

    def is_old(self, now: int) -> bool:
        """Whether the outage is old, so that the pauses are long."""
        return now - self._began_at >= NEW_US

    def after_failure_us(self, now: int) -> int | None:
        """How long to wait when nothing is under way any more: 0 the first time. None: at least as long as said
        before."""
        ceiling_us = self._ceiling_us
        self._ceiling_us = min(max(FIRST_CEILING_US, 2 * ceiling_us), LAST_CEILING_US)
        delay_us = self._jitter(ceiling_us, 0.5)
        return delay_us if now + delay_us - self._began_at < NEW_US else None

    def next_us(self, now: int) -> int:
        """How long to wait for an answer to the attempt just begun before another one, unless it fails first."""
        self._silent_us = min(max(FIRST_SILENT_US, 2 * self._silent_us), LAST_SILENT_US)
        delay_us = self._jitter(self._silent_us, 0.6)
        if now + delay_us - self._began_at < NEW_US - REPEATS_US:
            return delay_us
        if not self.is_old(now):
            return self._began_at + NEW_US - now + self._jitter(FIRST_PAUSE_US, 0.87)
        self._pause_us = min(self._pause_us * 8 // 5, LAST_PAUSE_US)
        return self._jitter(self._pause_us, 0.87)

    def may_hurry(self, now: int, longest_us: int = LAST_HURRY_US) -> bool:
        """Whether to follow a sign that a dial may help, at least each `longest_us`; it then counts as followed."""
        if self._hurried_at is not None and now - self._hurried_at < min(self._hurry_us, longest_us):
            return False
        if self._hurried_at is not None:
            self._hurry_us = min(2 * self._hurry_us, LAST_HURRY_US)
        self._hurried_at = now
        return True

    def _jitter(self, ceiling_us: int, least: float) -> int:
        return int(ceiling_us * (least + (1 - least) * self._draw()))


def draw_from_system() -> float:
    """A float in [0, 1) from the kernel; importing `random` takes longer than all draws ever made."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)
