"""Whether the session of a `mproxy connect` is kept when its ssh has ended, for the next one, and for how long.

Only where ssh has started us, for whoever else did may wait for our end; and where the session goes straight to
sproxy's port, or is about to, for what goes through an ssh would keep a login open that nobody sees.
"""

from __future__ import annotations

import os

from mproxy.ground.errors import MproxyError
from mproxy.policy.via_start import owns_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import CproxyConfig
    from mproxy.io._loop import Loop, Timer
    from mproxy.programs.away import AwayTeller
    from mproxy.programs.standby import Standby

# Of the name of the socket; all of it is the same in quick_start.c.
PROTOCOL = "1"
VARIABLES = ("HOME", "XDG_STATE_HOME", "STATE_DIRECTORY")
OFFSET, PRIME, MASK = 0xcbf29ce484222325, 0x100000001b3, (1 << 64) - 1  # FNV-1a

# After SIGHUP, how long its ssh may take to end: else it was not ssh that sent it.
END_US = 1_000_000

# How often to look whether a session that goes through ssh still has a chance to go straight.
LOOK_US = 1_000_000

# A carrier that was silent for so many heartbeats may have died: who comes then is better off with a dial.
QUIET_HEARTBEATS = 2


def standby_name(words: Iterable[str]) -> str:
    """The name of the socket at which the next ssh with these words of `mproxy connect` finds us. It is made of all
    that might lead to another host, or be another user of it: the words, the network, and where our files are."""
    try:
        network = os.stat("/proc/self/ns/net").st_ino
    except OSError:
        network = 0
    value = OFFSET
    for word in (PROTOCOL, str(network), *(os.environ.get(variable, "") for variable in VARIABLES), *words):
        for byte in os.fsencode(word) + b"\0":
            value = (value ^ byte) * PRIME & MASK
    return f"standby-{value:016x}"


class NextSsh:
    """`finish()` ends the session; it is called when nobody has come for the time of `--idle`. `will_move()` says
    whether one that ssh carries will soon go straight."""

    def __init__(self, config: CproxyConfig, loop: Loop, endpoint: Endpoint, teller: AwayTeller, target: bytes,
                 will_move: Callable[[], bool], finish: Callable[[], object]) -> None:
        self._config = config
        self._loop = loop
        self._endpoint = endpoint
        self._teller = teller
        self._target = target
        self._will_move = will_move
        self._finish = finish
        self._may = bool(config.standby) and config.idle_us > 0 and _called_by_ssh()
        # An ssh that may ask at the terminal has our standard error, for whose end somebody may wait.
        self._lends_errors = self._may and owns_terminal() and not os.isatty(2)
        self._standby: Standby | None = None
        self._timer: Timer | None = None
        self._look_timer: Timer | None = None

    def hung_up(self, end: Callable[[], object]) -> bool:
        """SIGHUP has come: whether that is no end, since our ssh ends by itself. `end()` if it does not."""
        if not self._may or not self._works():
            return False
        self._loop.call_later(END_US, lambda: end() if self._may and self._standby is None else None)
        return True

    def begin(self) -> bool:
        """There is no application any more, or there is another carrier and still none; whether the session is kept."""
        if self._standby is None:
            if not self._may or not self._works() or not self._goes_straight(soon=not self._lends_errors):
                return False
            from mproxy.programs.standby import Standby
            try:
                self._standby = Standby(self._loop, self._config.standby, self._works, self._add)
            except (MproxyError, OSError):
                self._may = False  # another one waits already, or there is no place for a socket
                return False
        else:
            self._standby.rest()
        self._teller.leave_terminal()
        if self._timer is None:
            self._timer = self._loop.call_later(self._config.idle_us, self._finish)
        if self._look_timer is None:
            self._look()
        return True

    def close(self) -> None:
        """Keep it no longer."""
        self._may = False
        self._cancel()
        if self._look_timer is not None:
            self._look_timer.cancel()
        if self._standby is not None:
            self._standby.close()
            self._standby = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _works(self) -> bool:
        """Whether the session has a carrier that is not known to be dead."""
        quiet_us = QUIET_HEARTBEATS * self._config.session.heartbeat_us
        endpoint = self._endpoint
        return bool(endpoint.session.session_id and endpoint.attached and endpoint.receive_silence_us < quiet_us)

    def _goes_straight(self, soon: bool) -> bool:
        """Whether the carrier is the session's own; with `soon`, or will be."""
        carrier = self._endpoint.carrier
        return (carrier is not None and "through" not in carrier.describe()) or (soon and self._will_move())

    def _look(self) -> None:
        self._look_timer = None
        if self._timer is not None and not self._goes_straight(soon=True):
            self._finish()
        elif not self._goes_straight(soon=False):
            self._look_timer = self._loop.call_later(LOOK_US, self._look)

    def _add(self, read_fd: int, write_fd: int) -> None:
        self._cancel()
        self._teller.use_terminal()
        self._endpoint.add_pipes(read_fd, write_fd, self._target)


def _called_by_ssh() -> bool:
    try:
        with open(f"/proc/{os.getppid()}/comm", "rb") as comm:
            return comm.read() == b"ssh\n"
    except OSError:
        return False
