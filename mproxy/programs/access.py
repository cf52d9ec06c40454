"""Access to sproxy: its key, who may connect, and what they may do then."""

from __future__ import annotations

import hmac
import os
import shlex
import time

from mproxy._wire import CloseCode
from mproxy.carrier._tls import Tls
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import PeerError, UsageError
from mproxy.ground.forwarding import (
    is_path,
    is_wide,
    is_wide_place,
    parse_target,
    permits,
    permits_place,
    say_target,
)
from mproxy.ground.words import is_loopback, printable
from mproxy.io._moves import Moves
from mproxy.policy.keys import find_spki, fingerprint
from mproxy.policy.sources import source_of
from mproxy.policy.tags import Tags
from mproxy.policy.trust import AuthorizedKeys, directory_of
from mproxy.programs.own_certificate import OwnCertificate
from mproxy.programs.own_key import open_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mproxy.carrier._tls import TlsContext
    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Logger, Spot
    from mproxy.io._loop import Loop
    from mproxy.policy.grants import Grant
    from mproxy.policy.revoked import RevokedKeys
    from mproxy.programs.keys_command import KeysCommand
    from mproxy.transport.keying import Keying, KeyPair

# How often to look whether authorized_keys has changed, or a key's time is over.
LOOK_US = 500_000

# How often to say that everybody may come in.
DAY_US = 24 * 3600 * 1_000_000

# How often the addresses of connected sessions are noted as those of known people.
NEIGHBOURS_US = 3_600_000_000


class Access:
    """What sproxy asks about a peer's key. Without encryption there are no keys, and everybody may come in."""

    def __init__(self, config: SproxyConfig, log: Logger) -> None:
        self._config = config
        self._log = log
        self._context: TlsContext | None = None
        self._pair: KeyPair | None = None  # our key, for datagrams
        self.fingerprint = ""  # of our key
        self._keys = AuthorizedKeys(None)
        self._revoked: RevokedKeys | None = None
        self._command: KeysCommand | None = None
        self._certificate = OwnCertificate(
            config.certificate_file, log, is_server=True, named=config.host_certificate is not None)
        self.worker = 0        # in which this process is
        self._moves: list[list[Moves]] = []  # of the lists, some a worker: each event is told once
        # Without a key: for this run.
        self.tags = Tags(os.urandom(32), config.session.session_ttl_us, config.node)
        self._targets = {(config.daemon_host, config.daemon_port), *config.allow}
        self._named = {target for target in self._targets if not is_wide(target)}

    def open(self) -> None:
        """Read the keys; makes the host's at the first start."""
        config = self._config
        if config.plaintext:
            if not all(is_loopback(address) for address in config.bind_addresses):
                self._log.warning("plaintext", why="--plaintext: anyone on the path can read and change everything")
            return
        self._context = open_context(config.host_key_file, self._log, is_server=True, named=config.host_key,
                                     use=self._take_key)
        self._certificate.open(self._context)
        self._keys = self._open_list(config.authorized_keys_file)
        if config.authorized_keys is not None:
            name = printable(config.authorized_keys)
            if not self._keys.exists:
                raise UsageError(f"--authorized-keys {name}: no such file; create it (an empty one lets nobody in)")
            if self._keys.problem is not None:
                raise UsageError(f"--authorized-keys {name}: {self._keys.problem}")
        if self._keys.exists:
            self._tell_keys()
        if config.revoked_keys is not None:
            self._open_revoked(config.revoked_keys)
        if config.authorized_keys_command is not None:
            from mproxy.programs.keys_command import KeysCommand
            self._command = KeysCommand(
                config.authorized_keys_command, config.authorized_keys_command_user, config.user, self._log)

    def start(self, loop: Loop, living: Callable[[], Iterable[bytes]]) -> None:
        """Begin to ask --authorized-keys-command; `living()` gives the keys that have sessions."""
        if self._command is not None:
            self._command.start(loop, living)

    def _open_revoked(self, path: str) -> None:
        from mproxy.policy.revoked import RevokedKeys
        self._revoked = RevokedKeys(path, lambda text: self._log.warning("revoked-keys", why=text))
        if self._revoked.problem is not None:
            raise UsageError(f"--revoked-keys {printable(path)}: {self._revoked.problem}")
        self._tell_revoked(self._revoked)

    def _open_list(self, path: str | None) -> AuthorizedKeys:
        def warn(text: str) -> None:
            self._log.warning("authorized-keys", why=text)
        if path is None:
            return AuthorizedKeys(None, closed=self._is_closed)
        self._moves = [[Moves(path), Moves(directory_of(path), inside=True), Moves(path, inside=True)]
                       for _ in range(self._config.workers)]
        return AuthorizedKeys(path, warn, self._moved_in, self._is_closed)

    @property
    def _is_closed(self) -> bool:
        """Nobody comes in without a key that is listed, whether there is a file or not."""
        return self._config.closed or self._config.authorized_keys_command is not None

    def _moved_in(self) -> bool:
        """Whether all that has happened to the lists is that files took their names by rename."""
        news = {moves.last_was_move() for moves in self._moves[self.worker]}
        return True in news and False not in news

    def _take_key(self, pem: bytearray) -> None:
        """Tags are made with a secret of the host key, so that they survive a restart of sproxy."""
        self.fingerprint = fingerprint(find_spki(pem, "the host key"))
        secret = hmac.digest(pem, b"mproxy 2 tag key", "sha256")
        self.tags = Tags(secret, self._config.session.session_ttl_us, self._config.node)
        if self._config.may_take_udp:
            from mproxy.transport.keying import KeyPair
            self._pair = KeyPair(pem, self._config.host_key_file or "the key")

    @property
    def guarded(self) -> bool:
        """Only some keys may come in, so every stream has to be asked for."""
        return self._keys.exists

    def holder(self, spki: bytes, address: str) -> bytes | str:
        """Whose place a session takes: its key's, if keys mean something."""
        return spki if self.guarded else source_of(address)

    def make_tls(self) -> Tls | None:
        """The server's end of a new connection; None without encryption."""
        return Tls(self._context) if self._context is not None else None

    def make_keying(self) -> Keying:
        """Our side of the agreement on keys for one link. The peer's key is judged afterwards, as with TLS."""
        from mproxy.transport.keying import SESSION_PURPOSE, Keying
        assert self._pair is not None
        self._pair.certificate = self._certificate.shown
        return Keying(self._pair, False, lambda _spki, _link: None, SESSION_PURPOSE)

    def changed(self) -> bool:
        """Whether running sessions have to be checked by `grant_living` again; looks at our own certificate, too."""
        if self._context is not None:
            self._certificate.refresh(self._context)
        self._read_keys()
        now = time.monotonic()
        news = self._revoked is not None and self._revoked.settles(now)
        if self._command is not None:
            news |= self._command.has_news
            self._command.has_news = False
        return self._keys.settles(now) or news

    def reload(self) -> int | None:
        """Take authorized_keys as it is now, for everybody; how many keys may connect, None: everybody may."""
        self._read_keys()
        self._keys.settle()
        if self._revoked is not None:
            self._revoked.settle()
        if self._command is not None:
            self._command.forget()
        return self._keys.in_force(time.time()) if self._keys.exists else None

    def _read_keys(self) -> None:
        if self._keys.changed(time.monotonic()):
            self._tell_keys()
        if self._revoked is not None and self._revoked.changed(time.monotonic()):
            self._tell_revoked(self._revoked)

    def _tell_keys(self) -> None:
        self._log.info("keys-read", file=self._keys.path, keys=self._keys.in_force(time.time()))

    def _tell_revoked(self, revoked: RevokedKeys) -> None:
        if revoked.problem is None:
            self._log.info("revoked-read", file=revoked.path, revoked=len(revoked))

    def enrol(self, spki: bytes, comment: str) -> None:
        """Add a key to the list, unless it is in it."""
        self._read_keys()
        if self._keys.exists and self._keys.add(spki, comment):
            self._log.info("key-added", key=fingerprint(spki), file=self._keys.path, why=comment)

    def grant(self, spki: bytes, host: str, certificate: bytes = b"") -> Grant | None:
        """The Grant for a key, with the certificate that it has shown, at an address; None if everybody may come in.
        PeerError."""
        self._read_keys()
        if self._revoked is not None:
            self._revoked.check(spki, certificate, living=False)
        if not self._keys.exists:
            return None
        try:
            return self._keys.find(spki, host, time.time(), certificate)
        except PeerError as refusal:
            if self._command is None or refusal.code != CloseCode.KEY_REFUSED:
                raise
        return self._command.find(spki, host, time.time(), certificate)

    def judge(self, spki: bytes, host: str, certificate: bytes) -> None:
        """PeerError if a key that has been shown will not have a session, as far as is known without asking anybody."""
        self._read_keys()
        if self._revoked is not None:
            self._revoked.check(spki, certificate, living=True)
        if self._keys.exists:
            try:
                self._keys.find_living(spki, host, time.time(), certificate)
            except PeerError as refusal:
                if self._command is None or refusal.code != CloseCode.KEY_REFUSED:
                    raise
                self._command.check(spki)

    def ask(self, spki: bytes, host: str, certificate: bytes, living: bool, then: Callable[[], object]) -> bool:
        """Whether somebody has to be asked about a key, who calls `then`; `living`: it has a session."""
        if self._command is None:
            return False
        try:
            if self._keys.find_living(spki, host, time.time(), certificate) is not None:
                return False
        except PeerError:
            pass
        return self._command.ask(spki, living, then)

    def grant_living(self, spki: bytes, host: str, certificate: bytes = b"") -> Grant | None:
        """The same for a key that has a session, about which a file that is just being written decides nothing, and
        whose certificate may have expired since."""
        self._read_keys()
        if self._revoked is not None:
            self._revoked.check(spki, certificate, living=True)
        if not self._keys.exists:
            return None
        try:
            return self._keys.find_living(spki, host, time.time(), certificate)
        except PeerError as refusal:
            if self._command is None or refusal.code != CloseCode.KEY_REFUSED:
                raise
        return self._command.find_living(spki, host, time.time(), certificate)

    def open_to(self, listeners: Sequence[tuple[str, int]]) -> str | None:
        """Who comes in without a key that is listed; None: nobody. `listeners` are the addresses on which sproxy
        listens, [(host, port)]."""
        if self.guarded:
            return None
        if all(is_loopback(address[0]) for address in listeners):
            return "every user of this host"
        return "anyone whose packets arrive here"

    def say_open(self, listeners: Sequence[tuple[str, int]]) -> None:
        """Log who can reach what, and how to end that; does nothing if only some may connect. `listeners`: as above."""
        who = self.open_to(listeners)
        if who is None:
            return
        config, log = self._config, self._log.warning
        daemons = [say_target(*target) for target in sorted(self._named)]
        places = " or ".join(format_host_port(*address[:2]) for address in listeners)
        if who.startswith("anyone ") and any(is_here(host) for host, _port in self._named):
            who, log = f"ANYONE {who.removeprefix('anyone ')}, not only this host,", self._log.error
        reason = "--plaintext" if config.plaintext else "no authorized_keys"
        log("open-door", daemons=", ".join(daemons), why=f"{reason}: {who} can use them through {places}",
            close=self.how_to_close())

    def how_to_close(self) -> str:
        """The command after which nobody comes in without a key that is listed."""
        path = self._config.authorized_keys_file
        if self._config.plaintext:
            return "start sproxy and cproxy without --plaintext"
        if path is None:
            return "start sproxy with --state-dir DIR --closed"
        return f"touch {shlex.quote(os.path.abspath(path))}"

    def target(self, words: bytes, grant: Grant | None) -> tuple[str, int] | None:
        """(host, port) to which a stream may be connected; None if it may not. `words`: as in OPEN."""
        target = self._config.daemon_host, self._config.daemon_port
        if words:
            try:
                target = parse_target(words.decode())
            except (UsageError, ValueError):
                return None
        if grant is None:
            return target if self.is_named(target) else None
        permitted = any(permits(each, target) for each in self._targets)
        return target if permitted and grant.allows_target(*target) else None

    def may_listen(self, place: Spot, grant: Grant | None) -> bool:
        """Whether a client may have us listen there. A `*` on the command line counts only for keys that are listed."""
        permitted = [each for each in self._config.allow_listen
                     if permits_place(each, place) and (grant is not None or not is_wide_place(each))]
        return bool(permitted) and (grant is None or grant.allows_place(place))

    def why_not(self, grant: Grant | None) -> str:
        """Why a target is refused."""
        if grant is None and self._named != self._targets:
            return "target is not allowed: a * in --allow counts only for keys in authorized_keys (mproxy authorize)"
        return "target is not allowed"

    def is_named(self, target: Spot) -> bool:
        """Whether the command line names the target's host, or its path, and not only a `*`: that is meant for hosts
        elsewhere, and for keys that are listed, or everybody could reach everything from here."""
        return target in self._named or any(permits(each, target) for each in self._named)


def is_here(host: str) -> bool:
    """Whether a connection to `host` reaches only this host: connecting to no address is connecting to oneself."""
    return is_loopback(host) or host in ("0.0.0.0", "::") or is_path(host)


def check_same_key(spki: bytes, expected: bytes) -> None:
    """Raise PeerError unless a session's client has the key with which it began."""
    if spki != expected:
        raise PeerError(CloseCode.BAD_PROOF, "the session belongs to another key")

