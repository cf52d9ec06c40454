"""How long to wait before the next dial.

At once, then at most 50 ms, doubling to at most 5 s; each delay is drawn evenly between nothing and that
ceiling ("full jitter", M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog 2015): when a
thousand clients lose the same sproxy, their dials spread out instead of arriving together and tripping a
firewall's rate limit.
"""

import os

# A first retry sooner than a round trip across a continent would only repeat the failure.
FIRST_CEILING_US = 50_000

# The longest a user waits, after the path is good again, when nothing (no address, no route event) tells so.
LAST_CEILING_US = 5_000_000


class Backoff:
    """The delays of one series of dials.

    `draw` gives a float in [0, 1), as random.random does. Call `next_delay_us` before each dial, `reset` when
    a carrier works or when the network changed.
    """

    def __init__(self, draw=None, first_us=FIRST_CEILING_US, last_us=LAST_CEILING_US):
        self._draw = draw or draw_from_system
        self._first_us = first_us
        self._last_us = last_us
        self._ceiling_us = 0

    def next_delay_us(self):
        """Microseconds to wait before the next dial: 0 right after `reset`."""
        ceiling_us = self._ceiling_us
        self._ceiling_us = min(max(self._first_us, 2 * ceiling_us), self._last_us)
        return int(self._draw() * ceiling_us)

    def reset(self):
        """The next dial goes at once."""
        self._ceiling_us = 0


def draw_from_system():
    """A float in [0, 1) from the kernel; importing `random` takes longer than all draws ever made."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)
