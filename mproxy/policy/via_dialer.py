"""Finds a new carrier by running a command (`--via`), where `dialer` connects to an address.

One command at a time tries; the one that carries the session goes on beside it until the next is welcomed, as an old
connection does. A command whose path has died may hang for minutes, so a change of the network ends one that has
brought nothing yet. The pauses are those of every dial (mproxy.policy.backoff).
"""

from __future__ import annotations

from mproxy.carrier._local_carrier import LocalCarrier
from mproxy.ground.errors import PeerError
from mproxy.policy.announcement import is_announcement
from mproxy.policy.attempt import reason_of
from mproxy.policy.banner import Banner
from mproxy.policy.paths import Paths
from mproxy.policy.single_dialer import SingleDialer
from mproxy.policy.via_command import ViaCommand
from mproxy.policy.via_start import owns_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from mproxy.carrier._tcp_carrier import TcpCarrier
    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Logger, Spot
    from mproxy.handshake import Caller, Encryption, Welcome
    from mproxy.io._loop import Loop
    from mproxy.policy.dialer import DialObserver

# A command whose output has ended is about to end, and then says why.
LAST_WORDS_US = 1_000_000

# For what was sent last: the peer's acknowledgement is not seen here. At the end of cproxy, and else.
LEAVE_US = 1_000_000
GOODBYE_US = 10_000_000

# A command that has brought nothing for this long is not spared when the network has changed.
SILENT_US = 1_000_000

# Time to type a password, before sproxy answers.
PERSON_US = 120_000_000

RECEIVE_BYTES = 65536

# Exit status of a shell: there is no such command. Where ssh ends, only a login shell looks where pipx and
# 'mproxy push' install.
NOT_FOUND = 127
NOT_ON_PATH = "; if it is installed there, name it by its path, such as .local/bin/sproxy"


class ViaDialer(SingleDialer):
    """As `policy.dialer.Dialer`, by a command. `heard(the last bytes before it)` is called when a preamble comes, and
    may raise PeerError."""

    def __init__(self, loop: Loop, config: CproxyConfig, observer: DialObserver, log: Logger,
                 heard: Callable[[bytes], object] = lambda banner: None) -> None:
        super().__init__(loop, observer, Paths())  # nothing is learned of these
        self.heard = heard
        self.log = log
        self.timeout_us = config.connect_timeout_us
        self.last_banner = ""  # logged once, not at every dial
        self._command = config.via or ""
        self._lends_terminal = config.via_terminal
        self._lends_once = config.stdio  # for the application needs it then
        self._attempt: ViaAttempt | None
        self._commands: dict[ViaCommand, ViaAttempt | None] = {}  # that run
        self._carrying: ViaCommand | None = None  # of the last welcome
        self._closed: Callable[[], object] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether a command has brought a preamble, and no welcome yet."""
        return self._attempt is not None and self._attempt.is_answered

    def network_changed(self) -> None:
        """Try again at once, if a carrier is wanted at all."""
        if not self.running or not self._schedule.changed():
            return
        if self._attempt is not None and self._attempt.silent_for(SILENT_US):
            self._drop_attempt()
        self._begin()

    def advertised(self, spot: Spot | None) -> None:
        """Where sproxy itself can be reached over UDP: the command leads there."""

    def shun_answered(self) -> None:
        """There is no other address."""

    def close(self, closed: Callable[[], object]) -> None:
        """End all commands, then call `closed`."""
        self.stop()
        self._closed = closed
        for command in self._commands:
            command.dismiss(0 if command.dismissed and not command.carries else LEAVE_US)
        self._close_if_done()

    def make_carrier(self, sock: socket.socket, tls: Encryption | None) -> TcpCarrier:
        """The carrier on the socket of the last welcome."""
        command = self._carrying
        return LocalCarrier(self.loop, sock.detach(), tls, "command", self._command,
                            lambda abort: command.dismiss(0 if abort else GOODBYE_US) if command else None)

    def keep_terminal(self) -> None:
        """A session has begun, by this way or another: whose terminal it is needs it now."""
        self._lends_terminal = self._lends_terminal and not self._lends_once

    # ---- commands

    def _make_attempt(self) -> ViaAttempt:
        try:
            command = ViaCommand(self.loop, self._command, self.log, self._ended,
                                 self._lends_terminal and owns_terminal())
        except OSError as error:
            raise OSError(f"cannot start the command: {reason_of(error)}") from None
        attempt = self._commands[command] = ViaAttempt(self, command)
        return attempt

    def _ended(self, command: ViaCommand) -> None:
        """A command has ended."""
        attempt = self._commands.pop(command)
        if attempt is not None and attempt is self._attempt:
            attempt.command_ended()
        elif command.carries and not command.dismissed:
            # In order: sproxy has closed it, perhaps because it has a newer one, whose welcome is still on its way.
            (self.log.info if command.status == 0 else self.log.warning)("via-ended", why=command.say_end())
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closed is not None and not self._commands:
            closed, self._closed = self._closed, None
            closed()

    # ---- what an attempt tells

    def welcomed(self, attempt: ViaAttempt, welcome: Welcome) -> None:
        """It has become a carrier."""
        self._carrying = attempt.command
        self.keep_terminal()
        self._commands[attempt.command] = None
        sock = attempt.release()
        self._attempt = None
        self.stop()
        self.observer.on_welcome(sock, attempt.caller, welcome)

    def attempt_failed(self, attempt: ViaAttempt, error: Exception) -> None:
        """It has not; a PeerError means that the other end said so, or is not an sproxy."""
        self._drop_attempt()
        self._schedule.failed()
        if isinstance(error, PeerError):
            self.observer.on_turned_away(error, attempt.caller)
        elif attempt.caller.met:
            self.observer.on_cut_off(str(error))
        else:
            self.observer.on_dial_failed(str(error))


class ViaAttempt:
    """One command that has to bring a WELCOME. Its patience is `--connect-timeout` from one sign of life to the
    next."""

    def __init__(self, dialer: ViaDialer, command: ViaCommand) -> None:
        self.command = command
        self.caller: Caller = dialer.observer.make_caller()
        self._dialer = dialer
        self._sock = command.sock
        self._banner = Banner()
        self._heard_at = dialer.loop.now()
        self._patience_us = max(dialer.timeout_us, PERSON_US) if command.has_terminal else dialer.timeout_us
        self._is_open = True
        self._watch = dialer.loop.watch(self._sock.fileno(), lambda _events: self._exchange(), write=True)
        self._timer = dialer.loop.call_later(self._patience_us, self._look)

    def begin(self) -> None:
        """Send the first bytes."""
        self._exchange()

    def silent_for(self, us: int) -> bool:
        """Whether nothing has come for so long, and nobody may be typing a password."""
        return not self.command.has_terminal and self._dialer.loop.now() - self._heard_at >= us

    @property
    def is_answered(self) -> bool:
        """Whether a preamble has come."""
        return self._banner.found

    def release(self) -> socket.socket:
        """Give the socket to the caller, whose it is from now on."""
        if self._is_open:
            self._is_open = False
            self._watch.close()
            self._timer.cancel()
            self._tell_banner()
        return self._sock

    def close(self) -> None:
        """End the command, without calling the dialer."""
        self.release().close()
        self.command.dismiss()

    def command_ended(self) -> None:
        """What it said last may still be in the socket, and may be a refusal."""
        if self._is_open:
            self._exchange()
        if self._is_open:
            self._fail(OSError(self._say_end()))

    def _say_end(self) -> str:
        met = "before the welcome" if self.caller.met else "without an answer from sproxy"
        hint = NOT_ON_PATH if self.command.status == NOT_FOUND and not self.caller.met else ""
        return f"the command ended {met}: {self.command.say_end()}{hint}"

    def _fail(self, error: Exception) -> None:
        if self._is_open:
            self._dialer.attempt_failed(self, error)

    def _look(self) -> None:
        left_us = self._heard_at + self._patience_us - self._dialer.loop.now()
        if left_us > 0:
            self._timer = self._dialer.loop.call_later(left_us, self._look)
            return
        words = f"; its last words: {self.command.last_words}" if self.command.last_words else ""
        text = self._banner.text()
        words += f"; it printed: {text}" if text else ""
        self._fail(OSError(f"the command brought no answer from sproxy within {self._patience_us / 1e6:g}s{words}"))

    def _exchange(self) -> None:
        try:
            self._send()
            data = self._sock.recv(RECEIVE_BYTES)
            if not data:
                self._wait_for_end()
                return
            self._heard_at = self._dialer.loop.now()
            was_answered = self._banner.found
            data = self._banner.feed(data)
            if self._banner.found and not was_answered:
                self._patience_us = self._dialer.timeout_us
                self._dialer.heard(self._banner.tail)
            welcome = self.caller.feed(data) if data else None
            self._send()
        except BlockingIOError:
            return
        except PeerError as error:
            self._fail(error)
        except OSError:
            self._wait_for_end()
        else:
            if welcome is not None:
                self.command.carries = True
                self._dialer.welcomed(self, welcome)

    def _wait_for_end(self) -> None:
        """Its output has ended: its exit status says why."""
        self._watch.close()
        self._timer.cancel()
        self._timer = self._dialer.loop.call_later(
            LAST_WORDS_US, lambda: self._fail(OSError("the command closed its output, but is still running")))

    def _send(self) -> None:
        """As much as the socket takes. What cannot be sent does not matter if there is an answer to be read."""
        caller = self.caller
        try:
            while caller.outgoing:
                caller.outgoing = caller.outgoing[self._sock.send(caller.outgoing):]
        except BlockingIOError:
            pass
        except OSError:
            caller.outgoing = b""  # reading shows how it ended
        self._watch.set(read=True, write=bool(caller.outgoing))

    def _tell_banner(self) -> None:
        text = self._banner.text()
        if text and text != self._dialer.last_banner and not is_announcement(text):
            self._dialer.last_banner = text
            self._dialer.log.info("banner", bytes=self._banner.length, text=text)
