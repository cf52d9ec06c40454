"""Asks the addresses of targets whether they are well: health.py. One of these for all workers, in the supervisor.

1. Every place is asked for the first time within FIRST_US, so that not all are at once, then every `interval_us`, give
   or take a tenth.
2. TCP: connect; with `proxy` send a header that names nobody; send; read until the answer has what is expected, ends,
   or is too long. UDP: the same with a datagram.
3. MOST_AT_ONCE are under way at the same time; others wait in line. What cannot be asked for want of descriptors or
   memory of our own says nothing about a target.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections import deque
from functools import partial

from mproxy.ground.config import SECOND_US, format_duration
from mproxy.relay._proxy_header import make_header
from mproxy.relay.health import CheckedState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mproxy.io._loop import Loop, Timer, Watch
    from mproxy.relay.health import CheckedPlace

FIRST_US = SECOND_US
PATIENCE_US = 5 * SECOND_US
JITTER = 0.1
MOST_AT_ONCE = 128
LONGEST_ANSWER = 16_384

_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EAGAIN}
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a server need not keep what was only a check


class Checker:
    """`changed(place)` is called when a place has become well, or is no more; also after the first check."""

    def __init__(self, loop: Loop, changed: Callable[[CheckedPlace], object]) -> None:
        self._loop = loop
        self._changed = changed
        self._watched: dict[CheckedPlace, _Watched] = {}
        self._due: deque[_Watched] = deque()
        self._running = 0
        self.asked = 0   # checks ever, and failed ones: also of places that are gone
        self.failed = 0

    def want(self, places: Iterable[CheckedPlace]) -> None:
        """From now on check these, and no others."""
        wanted = set(places)
        failing = {place.address for place, one in self._watched.items() if not one.state.well}
        for place in self._watched.keys() - wanted:
            self._watched.pop(place).forget()
        for place in wanted - self._watched.keys():
            one = self._watched[place] = _Watched(place)
            one.state.well = place.address not in failing  # only its rule has changed
            one.wait(self._loop, random.uniform(0, min(FIRST_US, place.check.interval_us)), self._start)

    def state(self, place: CheckedPlace) -> CheckedState | None:
        """What is known of a place; None: it is not checked."""
        one = self._watched.get(place)
        return one.state if one else None

    def is_failing(self, place: CheckedPlace) -> bool:
        """Whether a place that is checked does not answer as it should."""
        state = self.state(place)
        return state is not None and not state.well

    @property
    def most_descriptors(self) -> int:
        """How many may be used at the same time."""
        return min(MOST_AT_ONCE, len(self._watched))

    def close(self) -> None:
        """Check nothing any more."""
        self.want(())

    def _start(self, one: _Watched) -> None:
        self._due.append(one)
        self._start_what_fits()

    def _start_what_fits(self) -> None:
        while self._due and self._running < MOST_AT_ONCE:
            one = self._due.popleft()
            if one.gone:
                continue
            self._running += 1
            one.probe = Probe(self._loop, one.place, partial(self._ended, one))
            one.probe.begin()

    def _ended(self, one: _Watched, why: str | ProbeShortage | None) -> None:
        """A probe has ended, or was given up."""
        self._running -= 1
        one.probe = None
        if not one.gone:
            interval_us = one.place.check.interval_us
            one.wait(self._loop, interval_us * random.uniform(1 - JITTER, 1 + JITTER), self._start)
            if not isinstance(why, ProbeShortage):
                self.asked += 1
                self.failed += why is not None
                if one.state.result(why):
                    self._changed(one.place)
        self._start_what_fits()


class _Watched:
    """A place, its state, and the timer or probe that goes on with it."""

    __slots__ = ("place", "state", "probe", "gone", "_timer")

    def __init__(self, place: CheckedPlace) -> None:
        self.place = place
        self.state = CheckedState(place.check)
        self.probe: Probe | None = None
        self.gone = False
        self._timer: Timer | None = None

    def wait(self, loop: Loop, delay_us: float, then: Callable[[_Watched], object]) -> None:
        self._timer = loop.call_later(int(delay_us), lambda: then(self))

    def forget(self) -> None:
        self.gone = True
        if self._timer is not None:
            self._timer.cancel()
        if self.probe is not None:
            self.probe.end("not wanted any more")


class ProbeShortage:
    """Why nothing was found out: this host lacks something."""


class Probe:
    """One check. `ended(why)` is called once, perhaps by `begin` itself: None: well; a text: not; ProbeShortage."""

    def __init__(self, loop: Loop, place: CheckedPlace, ended: Callable[[str | ProbeShortage | None], object]) -> None:
        self._loop = loop
        self._place = place
        self._ended: Callable[[str | ProbeShortage | None], object] | None = ended
        self._socket: socket.socket | None = None
        self._watch: Watch | None = None
        self._timer: Timer | None = None
        self._to_send = b""
        self._answer = b""
        self._heard = 0

    def begin(self) -> None:
        """Connect, and go on when there is an answer."""
        place = self._place
        kind = socket.SOCK_DGRAM if place.protocol == "udp" else socket.SOCK_STREAM
        patience_us = min(place.check.interval_us, PATIENCE_US)
        self._to_send = (_header(place.proxy) if place.proxy else b"") + place.check.send
        try:
            self._socket = socket.socket(place.family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self._bind(place)
            error = self._socket.connect_ex(place.sockaddr)
        except OSError as problem:
            error = problem.errno or errno.EINVAL
        if error not in (0, errno.EINPROGRESS):
            self.end(ProbeShortage() if error in _SHORTAGES else os.strerror(error))
            return
        assert self._socket is not None
        self._timer = self._loop.call_later(patience_us, lambda: self.end(
            f"no answer within {format_duration(patience_us)}"))
        self._watch = self._loop.watch(self._socket.fileno(), self._ready, read=True, write=True)

    def _bind(self, place: CheckedPlace) -> None:
        assert self._socket is not None
        for address in place.source if place.protocol == "tcp" else ():
            if (":" in address) == (place.family == socket.AF_INET6):
                self._socket.bind((address, 0))

    def end(self, why: str | ProbeShortage | None) -> None:
        """Close everything and tell; the second time does nothing."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.close()
        if self._socket is not None:
            if self._place.protocol == "tcp" and not (self._place.check.send or self._place.check.expect):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._socket.close()
        ended(why)

    def _ready(self, _events: int) -> None:
        sock, watch = self._socket, self._watch
        if self._ended is None or sock is None or watch is None:
            return
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.end(os.strerror(error))
            return
        try:
            if self._to_send:
                self._to_send = self._to_send[sock.send(self._to_send):]
            if not self._to_send and (not self._place.check.expect or self._hears(sock)):
                self.end(None)
                return
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as problem:
            self.end(os.strerror(problem.errno or errno.EINVAL))
            return
        if self._ended is not None:
            watch.set(read=True, write=bool(self._to_send))

    def _hears(self, sock: socket.socket) -> bool:
        """Read what there is: whether the answer has what is expected. It ends the check if it never will."""
        expect = self._place.check.expect
        while self._heard < LONGEST_ANSWER:
            data = sock.recv(LONGEST_ANSWER)
            self._heard += len(data) + 1  # empty datagrams are no reason to go on for ever
            if self._place.protocol == "udp":
                self._answer = data
            elif not data:
                self.end(f"the answer ended after {len(self._answer)} bytes, without what is expected")
                return False
            else:
                self._answer += data
            if expect in self._answer:
                return True
        self.end(f"the first {LONGEST_ANSWER} bytes of the answer do not contain what is expected")
        return False


def _header(version: int) -> bytes:
    """A PROXY header with which the relay speaks for itself."""
    header = make_header(version, None)  # of UDP it is the same
    return header if version == 1 else header[:12] + b"\x20" + header[13:]
