"""How a cproxy introduces itself to sproxy, with its key and HELLO, and whom it accepts as sproxy."""

from __future__ import annotations

import hashlib
import os
import time

from mproxy import _wire
from mproxy._early import early_words, note_early
from mproxy._wire import CloseCode, HelloFeature
from mproxy.carrier._tls import Tls
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.ground.words import is_loopback, parse_host_port
from mproxy.handshake import Caller, Hello
from mproxy.policy.instance import stdio_name
from mproxy.policy.keys import fingerprint
from mproxy.policy.trust import HostTrust
from mproxy.programs.own_certificate import OwnCertificate
from mproxy.programs.own_key import open_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mproxy._session import Session
    from mproxy.carrier._tls import TlsContext
    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Logger
    from mproxy.handshake import Welcome
    from mproxy.policy.instance import Instance, LeftBehind
    from mproxy.transport.keying import Keying, KeyPair, LinkKeys


class Introduction:
    """The client's side of every handshake for the present session of `endpoint`."""

    def __init__(self, config: CproxyConfig, log: Logger, instance: Instance | LeftBehind, endpoint: Endpoint) -> None:
        self._config = config
        self._log = log
        self._instance = instance
        self._endpoint = endpoint
        self._context: TlsContext | None = None    # our key; None without encryption
        self._pem: bytes | None = None             # the same for datagrams, until they are needed
        self._pair: KeyPair | None = None          # and from then on
        self._certificate = OwnCertificate(
            config.certificate_file, log, is_server=False, named=config.certificate is not None)
        self._host_spki = b""  # the key of the sproxy that has our session
        self._host_trust = HostTrust(
            config.known_hosts_file, config.host_fingerprint, lambda text: log.warning("known-hosts", why=text))
        self._tag = 0           # of the last WELCOME: by it sproxy recognises us before anything else
        self._epoch = 0
        self._early: dict[int, int] = {}  # by a HELLO's epoch, how many bytes of the application went with it
        self.under_way = False  # HELLO was said and is waiting for its answer

    def open_key(self) -> None:
        """Read our key; makes it at the first start."""
        config = self._config
        if not config.plaintext:
            self._context = open_context(config.key_file, self._log, is_server=False, named=config.key,
                                         use=self._take_key)
            self._certificate.open(self._context)
        elif not is_loopback(config.sproxy_host):
            self._log.warning("plaintext", why="--plaintext: anyone on the path can read and change everything")

    def _take_key(self, pem: bytearray) -> None:
        if self._config.carrier != "tcp":
            self._pem = bytes(pem)

    @property
    def host_fingerprint(self) -> str | None:
        """The fingerprint of the sproxy that has our session; None without encryption, or before there is one."""
        return fingerprint(self._host_spki) if self._host_spki else None

    def trust(self, key: str) -> None:
        """sproxy has the key with that fingerprint and no other, as a trusted channel says; empty: none is trusted."""
        self._host_trust = HostTrust(None, (key,))

    @property
    def tag(self) -> int:
        """That of the last WELCOME; 0: there was none."""
        return self._tag

    def memory(self) -> tuple[int, bytes]:
        """For `recall` in another process: the last tag, and the key of the sproxy that has our session."""
        return self._tag, self._host_spki

    def recall(self, tag: int, host_spki: bytes, epoch: int) -> None:
        """Go on with the session of another process, whose newest carrier has that epoch."""
        self._tag, self._host_spki, self._epoch = tag, host_spki, max(self._epoch, epoch)

    def vows(self) -> dict[str, str]:
        """For the next start of this cproxy, which goes on with the session."""
        return {"sproxy": self._config.sproxy_name}

    def keep_vows(self, vows: Mapping[str, Any]) -> None:
        """MproxyError: the session is another sproxy's."""
        ours = self._config.sproxy_name
        if vows.get("sproxy", ours) != ours:
            raise MproxyError(f"it led to {vows['sproxy']}, and this cproxy leads to {ours}")

    def make_caller(self, keys: LinkKeys | None = None) -> Caller:
        """Our side of the handshake on one connection; on a link `keys` were agreed on by `make_keying`."""
        tls = keys or self._make_tls()
        return Caller(self._compose_hello, tls, lambda spki: self._judge_host(
            spki, tls.peer_certificate() if tls is not None else b""), self._tag)

    def _make_tls(self) -> Tls | None:
        if self._context is None:
            return None
        self._certificate.refresh(self._context)
        return Tls(self._context)

    def make_keying(self) -> Keying:
        """Our side of the agreement on keys for one link."""
        from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair
        if self._pair is None:
            assert self._pem is not None
            self._pair, self._pem = KeyPair(self._pem, self._config.key_file or "the key"), None
        assert self._context is not None
        self._pair.certificate = self._certificate.refresh(self._context)
        keying = Keying(self._pair, True, lambda spki, _link: self._judge_host(spki, keying.peer_certificate),
                        SESSION_PURPOSE)
        return keying

    def welcomed(self, welcome: Welcome) -> None:
        """HELLO was answered."""
        self.under_way = False
        self._tag = welcome.routing_tag
        length = self._early.get(welcome.epoch)
        if length is not None:
            note_early(self._endpoint.session.streams, length, welcome.epoch)
        self._early.clear()

    def is_stale(self, epoch: int) -> None:
        """sproxy has seen a carrier of that epoch: the next HELLO has a higher one."""
        self._epoch = max(self._epoch, epoch)

    def _judge_host(self, spki: bytes, certificate: bytes) -> None:
        """Raise PeerError unless sproxy's key, with that certificate, is the expected one: during a session the one
        with which it began."""
        name = self._config.sproxy_name
        known = bool(self._endpoint.session.session_id)
        if known and spki == self._host_spki:
            return
        try:
            verdict = self._host_trust.verify(self._config.sproxy_host, self._config.sproxy_port or 0, spki,
                                              certificate)
        except PeerError:
            raise
        except MproxyError as error:
            raise PeerError(CloseCode.KEY_REFUSED, str(error)) from None
        if known and self._host_spki:
            raise PeerError(CloseCode.KEY_REFUSED, (
                f"{name} offers a different key from the one at the start of this session:"
                f" offered {fingerprint(spki)}, expected {fingerprint(self._host_spki)}"))
        self._host_spki = spki
        if verdict in ("new", "unwritten"):
            event = "host-remembered" if verdict == "new" else "host-not-remembered"
            self._log.info(event, sproxy=name, fingerprint=fingerprint(spki),
                           file=self._host_trust.path)

    def _compose_hello(self) -> tuple[Hello, bytes, bytes]:
        """HELLO for the session as it is now, the list after it, and the secret that proves both."""
        self.under_way = True
        session = self._endpoint.session
        # The time, so that a cproxy that lost its memory is not taken for an older carrier of itself.
        self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
        former = 0 if session.session_id else self._instance.former
        hello = make_hello(self._config, session.session_id, self._instance.id, self._epoch, former)
        return hello, session.streams.resume_list() + self._early_words(session), session.secret

    def _early_words(self, session: Session) -> bytes:
        """What goes with the HELLO of a new session, where the daemon is known to be sshd: should nobody answer, it is
        said again on another connection."""
        if session.session_id or self._config.direct is None:
            return b""
        words, length = early_words(session.streams)
        if words:
            self._early[self._epoch] = length
        return words


def make_hello(config: CproxyConfig, session_id: bytes, instance_id: bytes, epoch: int, former: int = 0) -> Hello:
    """HELLO of a cproxy with these settings; `former` is the tag of a session that it left behind."""
    return Hello(
        session_id, instance_id, os.urandom(_wire.NONCE_BYTES), epoch,
        config.session.session_budget_bytes, config.session.window_bytes,
        HelloFeature.RENAMES | HelloFeature.ADDRESSED | (HelloFeature.STDIO if config.stdio else 0), former)


def advertised(welcome: Welcome) -> tuple[str, int] | None:
    """Where sproxy says that it can be reached by itself; None: it does not, or not in words that mean anything."""
    if not welcome.address:
        return None
    try:
        return parse_host_port(welcome.address.decode("ascii"))
    except (UsageError, UnicodeDecodeError):
        return None


def instance_name(config: CproxyConfig) -> str | None:
    """Whose identity this cproxy has: that of its first port or path, or of its name where it has none of its own, or
    of --stdio clients of its sproxy; None: only for this run."""
    if config.stdio:
        return stdio_name(config.sproxy_host, config.sproxy_port)
    place = config.first_place
    if isinstance(place, str):
        return f"path-{digest_of(place)}"
    if place is None and (config.remote or config.udp):
        return f"remote-{digest_of(config.shown_name)}"
    return str(place) if place else None


def digest_of(text: str) -> str:
    """Enough of a hash to tell texts apart, in the name of a file."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
