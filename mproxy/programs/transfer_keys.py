"""Keys of `mproxy send` and `mproxy recv`: which one is ours, and whose key the other end may have.

With a secret that both sides have there is no key to be trusted. With keys of `mproxy keygen` the sender knows the
receiver by --peer or known_hosts, as cproxy knows sproxy, and the receiver knows its senders by --peer or
authorized_keys, as sproxy knows its clients. Both lists may name a CA, whose certificates the other end shows with its
key.
"""

from __future__ import annotations

import os
import time

from mproxy.ground.config import certificate_beside, default_state_dir
from mproxy.ground.errors import PeerError, UsageError
from mproxy.ground.words import parse_fingerprint, parse_name, printable
from mproxy.policy.keys import fingerprint
from mproxy.policy.trust import AuthorizedKeys, HostTrust
from mproxy.transport.keying import DISAGREE, Key, Keying
from mproxy.transport.one_time import OneTimeKeying

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from mproxy.ground.shapes import Logger
    from mproxy.policy.revoked import RevokedKeys
    from mproxy.programs.options import OneLineParser
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange


def add_key_options(parser: OneLineParser, group: argparse._ActionsContainer) -> None:
    """Options about keys, of both programs."""
    parser.add(group, "--key", parse_name, metavar="FILE", help=(
        "encrypt every packet: FILE is a secret that both sides have, or a key from 'mproxy keygen'"))
    group.add_argument("--own-key", action="store_true", default=None, help=(
        "the same, with the key that 'mproxy keygen' creates by default"))
    parser.add(group, "--certificate", parse_name, metavar="FILE", help=(
        "a CA's certificate for our key (default NAME-cert.pub beside the key NAME.pem, if it is there)"))
    parser.add(group, "--peer", parse_fingerprint, metavar="SHA256:...", action="append", help=(
        "fingerprint of a key (from 'mproxy keygen') that the other side may have; repeatable"))


def take_key(given: dict[str, Any], own_name: str) -> Key | None:
    """The Key of the options `given`, or None; removes these options. `own_name` is the file of --own-key."""
    path = given.pop("key", None)
    if given.pop("own_key", None):
        if path is not None:
            raise UsageError("--key and --own-key cannot be used together")
        path = in_state_dir(own_name)
        if path is None or not os.path.exists(path):
            option = " --host" if own_name.startswith("host") else ""
            raise UsageError(f"--own-key: there is no {path or own_name}; create it with 'mproxy keygen{option}'")
    if path is None:
        return None
    return Key(path)


def in_state_dir(name: str) -> str | None:
    """The usual place of a file of ours; None if the environment names none."""
    directory = default_state_dir()
    return directory and os.path.join(directory, name)


class OwnKey:
    """Our key, one of `mproxy keygen`, and the certificate that it shows, as it is at each new connection. `is_server`:
    we receive. UsageError if the one that was named cannot be used."""

    def __init__(self, key: Key, config: TransferConfig, log: Logger, *, is_server: bool) -> None:
        from mproxy.programs.own_certificate import OwnCertificate
        self._key = key
        self._certificate = OwnCertificate(
            config.certificate or certificate_beside(key.path), log, is_server=is_server,
            named=config.certificate is not None, option="--certificate")
        self._certificate.open(key)

    def keying(self, initiator: bool, judge: Callable[[bytes, bytes, Link], object]) -> Keying:
        """The KeyExchange of one connection; `judge(spki, certificate, link)` raises PeerError."""
        self._certificate.refresh(self._key)
        keying = Keying(self._key, initiator, lambda spki, link: judge(spki, keying.peer_certificate, link))
        return keying


def own_key(config: TransferConfig, log: Logger, *, is_server: bool) -> OwnKey | None:
    """None: we have none, or a secret."""
    if config.key is None or not config.key.seed:
        return None
    return OwnKey(config.key, config, log, is_server=is_server)


class ReceiverTrust:
    """To whom we send: `config.host`."""

    def __init__(self, config: TransferConfig, log: Logger) -> None:
        self._config, self._log = config, log
        self._own = own_key(config, log, is_server=False)
        self._hosts = HostTrust(config.known_hosts or in_state_dir("known_hosts"),
                                warn=lambda text: log.warning("known-hosts", why=text))

    def keying(self) -> KeyExchange | None:
        """The KeyExchange for a new connection; None without a key."""
        config = self._config
        if config.secret is not None:
            return OneTimeKeying(config.secret, True)
        if config.code is not None:
            from mproxy.transport.code_keying import CodeKeying
            return CodeKeying(config.code, True)
        if self._own is not None:
            return self._own.keying(True, self._judge)
        return None if config.key is None else Keying(config.key, True)

    def _judge(self, spki: bytes, certificate: bytes, _link: Link) -> None:
        config = self._config
        if config.peers:
            _check_named(spki, config.peers)
        elif self._hosts.verify(config.host, config.port, spki, certificate) == "new":
            self._log.info("host-remembered", host=config.host, port=config.port, fingerprint=fingerprint(spki),
                           file=self._hosts.path)


def explain_refusal(reason: str, key: Key | None) -> str:
    """What a sender with `key` (None: without) can do about an end with this reason; if nothing, the reason itself."""
    if reason == "the other side wants a key":
        return "the receiver only accepts senders with keys: use --key FILE or --own-key"
    if reason == "the other side has no key":
        return "the receiver runs without keys (--open): leave out --key, or give the receiver keys as well"
    if reason != DISAGREE or key is None:
        return reason
    if key.psk:
        return f"{reason}: the receiver has a different secret from {key.path}, or a key from 'mproxy keygen'"
    return (f"{reason}: the receiver does not accept our key {fingerprint(key.spki)}: add the line that 'mproxy"
            " keygen' prints to its authorized_keys, or name the key with its --peer; or it uses a secret instead")


class SenderTrust:
    """Who may send to us."""

    def __init__(self, config: TransferConfig, log: Logger) -> None:
        self._config, self._keys = config, None
        self._own = own_key(config, log, is_server=True)
        self._revoked: RevokedKeys | None = None
        if config.revoked_keys is not None:
            from mproxy.policy.revoked import RevokedKeys
            self._revoked = RevokedKeys(config.revoked_keys, lambda text: log.warning("revoked-keys", why=text))
            if self._revoked.problem is not None:
                raise UsageError(f"--revoked-keys {printable(config.revoked_keys)}: {self._revoked.problem}")
        if self._own is None or config.peers:
            return
        path = config.authorized_keys or in_state_dir("authorized_keys")
        self._keys = AuthorizedKeys(path, lambda text: log.warning("authorized-keys", why=text))
        if not self._keys.exists:
            raise UsageError("with a key from 'mproxy keygen', say who may send: name a fingerprint with --peer, or"
                             " put the line that 'mproxy keygen' prints into"
                             f" {path or 'a file for --authorized-keys'}")

    def keying(self) -> KeyExchange | None:
        """The KeyExchange for a new connection; None without a key."""
        if self._config.secret is not None:
            return OneTimeKeying(self._config.secret, False)
        if self._own is not None:
            return self._own.keying(False, self._judge)
        return None if self._config.key is None else Keying(self._config.key, False)

    @property
    def path(self) -> str | None:
        """The list of keys that may send; None if none is used."""
        return None if self._keys is None else self._keys.path

    def _judge(self, spki: bytes, certificate: bytes, link: Link) -> None:
        if self._revoked is not None:
            self._revoked.changed(time.monotonic())
            self._revoked.check(spki, certificate, living=False)
        if self._keys is None:
            _check_named(spki, self._config.peers)
            return
        self._keys.changed()
        grant = self._keys.find(spki, link.peer[0], time.time(), certificate)
        if grant.targets is not None or (grant.narrowed_by is not None and grant.narrowed_by.targets is not None):
            raise PeerError(None, f"the key is restricted to certain daemons (target=): {fingerprint(spki)}")


def _check_named(spki: bytes, fingerprints: Sequence[str]) -> None:
    if fingerprint(spki) not in fingerprints:
        raise PeerError(None, f"the peer's key {fingerprint(spki)} is not among those named with --peer")
