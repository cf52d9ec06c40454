"""Dials a new carrier: many connection attempts may race, one at a time says HELLO.

Rules:

1. An attempt resolves the name anew and tries the addresses in order, the next one 250 ms after the last or as soon
   as the last has failed (RFC 8305, section 5).
2. After a failure the next attempt begins at the backoff's pace. While one is neither connected nor failed, more
   begin after 0.1 s, 0.2 s, 0.4 s, at last every second: a SYN that was swallowed, as by a link that comes up, does
   not hold things up. At most ATTEMPTS run at once; the oldest gives way.
3. The first that connects becomes the candidate: it alone says HELLO, so that sproxy never sees two of our carriers
   compete. A later one takes its place only when the candidate is overdue.
4. When the network changed, what was sent from an address that is no longer the right one is dropped, and an attempt
   begins at once.
"""

import errno
import os
import socket

from mproxy.errors import PeerError
from mproxy.policy.backoff import Backoff
from mproxy.policy.network import preferred_source
from mproxy.policy.resolver import interleave

# More would only load a path that answers slowly; two are a lost SYN and its successor.
ATTEMPTS = 3

# RFC 8305, section 8: Connection Attempt Delay.
NEXT_ADDRESS_US = 250_000

# A second is when the system repeats a SYN the first time (RFC 6298, section 2.1).
FIRST_SILENT_US = 100_000
LAST_SILENT_US = 1_000_000

# A candidate is overdue after this, or four times what its connection took: TLS and HELLO are two round trips. The
# list of streams comes on top, at what a slow link takes for a byte.
OVERDUE_US = 1_000_000
SLOW_BYTE_US = 20

# Changes of the network come in bursts; past this many in a second an attempt waits for the pace of rule 2.
BURST = 8

RECEIVE_BYTES = 65536


class Dialer:
    """Makes connected, welcomed carriers out of a host and a port.

    The observer answers `still_wanted()` before each attempt and `make_caller()` (a handshake.Caller) when one has
    connected, and is told `on_welcome(socket, caller, welcome)`, `on_dial_failed(why)` when an attempt failed on all
    addresses or timed out, `on_cut_off(why)` when a connection stood and ended before its welcome, and
    `on_turned_away(error, caller)` when sproxy answered with a refusal or nonsense.
    """

    def __init__(self, loop, resolver, config, observer):
        self._loop = loop
        self._resolver = resolver
        self._host, self._port = config.sproxy_host, config.sproxy_port
        self._timeout_us = config.connect_timeout_us
        self._observer = observer
        self._backoff = Backoff()
        self._silent_us = FIRST_SILENT_US
        self._attempts = []
        self._candidate = None
        self._timer = None
        self._burst_at = self._burst = 0
        self.running = False

    def start(self):
        """Dial until a carrier is welcomed; nothing when that is under way."""
        if not self.running:
            self.running = True
            self._backoff.reset()
            self._silent_us = FIRST_SILENT_US
            self._schedule(self._backoff.next_delay_us())

    def stop(self):
        """Give up what is under way."""
        self.running = False
        self._cancel_timer()
        self._drop_candidate()
        for attempt in self._attempts:
            attempt.cancel()
        self._attempts = []

    def network_changed(self):
        """Dial again at once, if a carrier is looked for at all."""
        if not self.running:
            return
        self._resolver.network_changed()
        for attempt in [a for a in self._attempts if a.misplaced()]:
            attempt.cancel()
            self._attempts.remove(attempt)
        if self._candidate and self._candidate.misplaced():
            self._drop_candidate()
        now = self._loop.now()
        if now - self._burst_at > 1_000_000:
            self._burst_at, self._burst = now, 0
        self._burst += 1
        if self._burst <= BURST:
            self._backoff.reset()
            self._silent_us = FIRST_SILENT_US
            self._cancel_timer()
            self._begin_attempt()

    # ---- attempts

    def _schedule(self, delay_us):
        self._cancel_timer()
        self._timer = self._loop.call_later(delay_us, self._begin_attempt)

    def _cancel_timer(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_attempt(self):
        if not self._observer.still_wanted():
            self.stop()
            return
        self._schedule(self._silent_us)
        self._silent_us = min(2 * self._silent_us, LAST_SILENT_US)
        if self._candidate is not None and not self._candidate.overdue():
            return
        if len(self._attempts) >= ATTEMPTS:
            self._attempts.pop(0).cancel()
        attempt = Attempt(self._loop, self._timeout_us, self._on_connected, self._on_failed)
        self._attempts.append(attempt)
        attempt.begin(self._resolver, self._host, self._port)

    def _on_failed(self, attempt, why):
        self._attempts.remove(attempt)
        self._retry()
        self._observer.on_dial_failed(why)

    def _retry(self):
        """Something failed: begin again at the backoff's pace, unless more is under way."""
        if not self._attempts and self._candidate is None:
            self._schedule(self._backoff.next_delay_us())

    def _on_connected(self, attempt, sock, took_us):
        self._attempts.remove(attempt)
        if self._candidate is not None:
            if not self._candidate.overdue():
                sock.close()
                return
            self._drop_candidate()
        self._candidate = Candidate(self._loop, sock, self._observer.make_caller(), took_us, self)
        self._candidate.begin()

    # ---- what the candidate tells

    def _drop_candidate(self):
        if self._candidate is not None:
            self._candidate.close()
            self._candidate = None

    def welcomed(self, candidate, welcome):
        """The candidate has become a carrier."""
        sock, caller = candidate.release(), candidate.caller
        self._candidate = None
        self.stop()
        self._observer.on_welcome(sock, caller, welcome)

    def candidate_failed(self, candidate, error):
        """The candidate is lost; a PeerError means that the other end said so, or is no sproxy."""
        self._drop_candidate()
        self._retry()
        if isinstance(error, PeerError):
            self._observer.on_turned_away(error, candidate.caller)
        else:
            self._observer.on_cut_off(str(error))


class Attempt:
    """One race of connections to all addresses of a host. Calls back once, unless cancelled."""

    def __init__(self, loop, timeout_us, on_connected, on_failed):
        self._loop = loop
        self._timeout_us = timeout_us
        self._began_at = loop.now()
        self._on_connected = on_connected
        self._on_failed = on_failed
        self._addresses = []
        self._racing = {}  # socket -> (Watch, sockaddr)
        self._request = None
        self._timers = []
        self._error = "no answer"

    def begin(self, resolver, host, port):
        """Resolve, then race."""
        self._timers.append(self._loop.call_later(self._timeout_us, self._time_out))
        self._request = resolver.resolve(host, port, self._resolved)

    def cancel(self):
        """End without a word."""
        if self._request is not None:
            self._request.cancel()
        for timer in self._timers:
            timer.cancel()
        for sock in list(self._racing):
            self._drop(sock)
        self._addresses = []
        self._on_connected = self._on_failed = None

    def misplaced(self):
        """It speaks from an address that the kernel would not choose any more (or has not begun to speak)."""
        return bool(self._racing) and all(
            not well_placed(sock, address) for sock, (_watch, address) in self._racing.items())

    def _resolved(self, addresses, error):
        self._request = None
        if error is not None:
            self._fail(error)
            return
        self._addresses = interleave(addresses)
        self._try_next()

    def _try_next(self):
        """Start on the next address; fail when there is none and none is running."""
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                self._connect(family, address)
            except OSError as error:
                self._error = f"{_reason(error)} ({address[0]} port {address[1]})"
                continue
            if self._addresses:
                self._timers.append(self._loop.call_later(NEXT_ADDRESS_US, self._try_next))
            return
        if not self._racing:
            self._fail(self._error)

    def _connect(self, family, address):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            code = sock.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            watch = self._loop.watch(sock.fileno(), lambda _events: self._connected(sock), read=False, write=True)
        except OSError:
            sock.close()
            raise
        self._racing[sock] = watch, address

    def _connected(self, sock):
        if sock not in self._racing:
            return
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        watch, address = self._racing.pop(sock)
        watch.close()
        if code:
            sock.close()
            self._error = f"{os.strerror(code)} ({address[0]} port {address[1]})"
            self._try_next()
            return
        report, took_us = self._on_connected, self._loop.now() - self._began_at
        self.cancel()
        report(self, sock, took_us)

    def _drop(self, sock):
        watch, _address = self._racing.pop(sock)
        watch.close()
        sock.close()

    def _time_out(self):
        self._fail(f"no answer within {self._timeout_us / 1e6:g}s")

    def _fail(self, why):
        report = self._on_failed
        self.cancel()
        if report is not None:
            report(self, why)


class Candidate:
    """A connected socket on which the handshake is under way; tells the dialer how it ends."""

    def __init__(self, loop, sock, caller, connect_us, dialer):
        self._loop = loop
        self._sock = sock
        self.caller = caller
        self._dialer = dialer
        self._began_at = loop.now()
        self._connect_us = connect_us
        self._watch = None
        self._timer = None

    def begin(self):
        """Say the first words and wait for the answer."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch = self._loop.watch(self._sock.fileno(), self._on_ready, read=True, write=True)
        self._timer = self._loop.call_later(3 * self._patience_us, self._time_out)  # or later, once the list is known
        self._on_ready(0)

    @property
    def _patience_us(self):
        return max(OVERDUE_US, 4 * self._connect_us) + SLOW_BYTE_US * self.caller.list_bytes

    def overdue(self):
        """It should have been welcomed by now."""
        return self.overdue_for(1)

    def overdue_for(self, times):
        """It has taken so many times as long as it should have."""
        return self._loop.now() - self._began_at >= times * self._patience_us

    def misplaced(self):
        """It speaks from an address that the kernel would not choose any more."""
        try:
            return not well_placed(self._sock, self._sock.getpeername())
        except OSError:
            return True

    def release(self):
        """Give the socket away; its descriptor belongs to the caller."""
        self._watch.close()
        self._timer.cancel()
        return self._sock

    def close(self):
        """End without a word."""
        self.release().close()

    def _time_out(self):
        if self.overdue_for(3):
            self._dialer.candidate_failed(self, TimeoutError("no welcome"))
        else:
            self._timer = self._loop.call_later(self._patience_us, self._time_out)

    def _on_ready(self, _events):
        if self._sock.fileno() < 0:
            return
        try:
            welcome = self._exchange()
        except (OSError, PeerError) as error:
            self._dialer.candidate_failed(self, error)
            return
        if welcome is not None:
            self._dialer.welcomed(self, welcome)

    def _exchange(self):
        """Send what there is to say, read what there is; returns the Welcome when it has come."""
        welcome = None
        try:
            cut_off = self._try_to_send()
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                raise cut_off or OSError("closed")
            welcome = self.caller.feed(data)
            self._send()
        except BlockingIOError:
            pass
        except OSError as error:
            raise OSError(self._say_end(_reason(error))) from None
        return welcome

    def _try_to_send(self):
        """The error of a connection that takes no more. It may have brought words before it was reset."""
        try:
            self._send()
        except OSError as error:
            return error
        return None

    def _say_end(self, reason):
        if self.caller.met:
            return f"{reason} before the welcome"
        return (f"{reason} without a word: what listens there is no sproxy (a portal or a web server ends like that), or"
                " turns this address away for a while")

    def _send(self):
        """A list of many streams does not leave at once; what comes is read meanwhile all the same."""
        caller = self.caller
        while caller.outgoing:
            try:
                caller.outgoing = caller.outgoing[self._sock.send(caller.outgoing):]
            except BlockingIOError:
                break
        self._watch.set(read=True, write=bool(caller.outgoing))


def _reason(error):
    return os.strerror(error.errno) if error.errno else str(error)


def well_placed(sock, address):
    """Whether the kernel would still choose the local address that `sock` has, towards `address`."""
    try:
        return sock.getsockname()[0] == preferred_source(address)
    except OSError:
        return False
