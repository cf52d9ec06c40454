"""What signals mean to a program with a loop: to stop, to read its files again, to leave everything for the next start.

With a keeper they come from there, under other numbers (mproxy/keeper/signals.py), and what is done is noted, so that
the next worker does what is not.
"""

from __future__ import annotations

import os
import signal
import socket

from mproxy.ground.left_ignored import is_left_ignored
from mproxy.keeper.signals import STOPPING, OneWish, passed_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.io._loop import Loop
    from mproxy.keeper.orders import Orders


def install_signals(loop: Loop, stop: Callable[[str], object], reload: Callable[[], bool] | None = None,
                    stop_at_once: Callable[[], object] | None = None, orders: Orders | None = None,
                    one_hangup: bool = False, leave: Callable[[], bool] | None = None) -> None:
    """First SIGTERM, SIGINT or SIGHUP: `stop(its name)`. A second after that on `stop_at_once()`; without one the
    process ends immediately. If there is a `reload`, SIGHUP calls it instead; if that returns False SIGHUP is an end,
    too. `orders`: those of the keeper that passes signals on. `one_hangup`: SIGHUP after SIGHUP says nothing new. If
    there is a `leave`, SIGUSR1 calls it; if that returns, with False, SIGUSR1 is an end, too."""
    arriving = int if orders is None else passed_on
    ends = _Ends(loop, stop, stop_at_once, orders, one_hangup)

    def reload_or_end() -> None:
        if reload is None or not reload():
            ends.hear(signal.SIGHUP)

    def leave_or_end() -> None:
        if not ends.have_begun and leave is not None and not leave():
            ends.hear(signal.SIGUSR1)

    def carry_out(number: int, what: Callable[[], object]) -> None:
        if orders is None:
            what()
        else:
            orders.carry_out(number, what)

    meaning = {arriving(number): number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)}

    def on_signal(arrived: int, _frame: object) -> None:
        number = meaning[arrived]
        if number == signal.SIGHUP and reload is not None:
            loop.call_soon_threadsafe(lambda: carry_out(number, reload_or_end))
        elif number == signal.SIGUSR1:
            loop.call_soon_threadsafe(lambda: carry_out(number, leave_or_end))
        else:
            ends.hear(number)

    # A signal just before the loop sleeps would be seen only after the next event: so make it an event.
    arrived, arrival = socket.socketpair()
    arrived.setblocking(False)
    arrival.setblocking(False)
    signal.set_wakeup_fd(arrival.detach(), warn_on_full_buffer=False)
    loop.watch(arrived.fileno(), lambda _events: arrived.recv(512))
    signal.signal(arriving(signal.SIGTERM), on_signal)
    if not is_left_ignored(signal.SIGINT):
        signal.signal(arriving(signal.SIGINT), on_signal)
    if reload is not None or not is_left_ignored(signal.SIGHUP):
        # The terminal is gone, or the ssh whose ProxyCommand this is has ended.
        signal.signal(arriving(signal.SIGHUP), on_signal)
    # Signals without a meaning here must not end anything; SIGXFSZ comes when a log file is at its size limit.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    if leave is not None:
        signal.signal(arriving(signal.SIGUSR1), on_signal)


class _Ends:
    """The first signal that means the end, and those after it."""

    def __init__(self, loop: Loop, stop: Callable[[str], object], stop_at_once: Callable[[], object] | None,
                 orders: Orders | None, one_hangup: bool) -> None:
        self._loop = loop
        self._stop = stop
        self._stop_at_once = stop_at_once
        self._orders = orders
        self._one_hangup = one_hangup
        self._wish = OneWish()
        self._heard: set[int] = set()

    @property
    def have_begun(self) -> bool:
        return bool(self._heard)

    def hear(self, number: int) -> None:
        """That signal has come."""
        is_first, says_more = not self._heard, self._says_more(number)
        self._heard.add(number)
        if is_first:
            self._loop.call_soon_threadsafe(lambda: self._begin(signal.Signals(number).name))
        elif not says_more:
            pass
        elif self._stop_at_once is not None:
            self._loop.call_soon_threadsafe(self._stop_at_once)
        else:
            os._exit(1)  # an exception could occur while the interpreter ends, where nobody would catch it

    def _says_more(self, number: int) -> bool:
        """Whether it is another wish than those before."""
        is_repeated = self._wish.is_repeated()
        if self._orders is not None and number in STOPPING and self._heard & STOPPING:
            return True  # the keeper has looked, and here signals may come late
        return not (is_repeated or (self._one_hangup and number == signal.SIGHUP and number in self._heard))

    def _begin(self, name: str) -> None:
        if self._orders is None:
            self._stop(name)
        else:
            self._orders.stop(lambda: self._stop(name))
