"""Keys of `mproxy send` and `mproxy recv`: which one is ours, and whose may be at the other end.

A secret that both sides have needs no trust in anybody's key. With keys of `mproxy keygen` the sender knows the
receiver by --peer or known_hosts, as cproxy knows sproxy, and the receiver its senders by --peer or authorized_keys, as
sproxy its clients.
"""

import os
import time

from mproxy.config import default_state_dir
from mproxy.datagram.keying import DISAGREE, Key, Keying
from mproxy.errors import PeerError, UsageError
from mproxy.policy.keys import fingerprint
from mproxy.policy.trust import AuthorizedKeys, HostTrust
from mproxy.words import parse_fingerprint, parse_name


def add_key_options(parser, group):
    """Options of both programs."""
    parser.add(group, "--key", parse_name, metavar="FILE", help=(
        "seal every packet: FILE holds a secret that both sides have, or a key of 'mproxy keygen'"))
    group.add_argument("--own-key", action="store_true", default=None, help=(
        "the same with the key that 'mproxy keygen' makes when no file is named"))
    parser.add(group, "--peer", parse_fingerprint, metavar="SHA256:...", action="append", help=(
        "fingerprint of a key of 'mproxy keygen' that the other side may have, may be repeated"))


def take_key(given, own_name):
    """The Key of the options `given`, None without; removes them. `own_name` is the file of --own-key."""
    path = given.pop("key", None)
    if given.pop("own_key", None):
        if path is not None:
            raise UsageError("--key and --own-key: one key is enough")
        path = in_state_dir(own_name)
        if path is None or not os.path.exists(path):
            option = " --host" if own_name.startswith("host") else ""
            raise UsageError(f"--own-key: there is no {path or own_name}; 'mproxy keygen{option}' makes it")
    if path is None:
        return None
    return Key(path)


def in_state_dir(name):
    """The usual place of a file of ours; None when the environment tells no place."""
    directory = default_state_dir()
    return directory and os.path.join(directory, name)


def sender_keying(config, log):
    """The Keying of the connection to `config.host`, None without a key."""
    if config.key is None:
        return None
    hosts = HostTrust(config.known_hosts or in_state_dir("known_hosts"),
                      warn=lambda text: log.warning("known-hosts", why=text))

    def judge(spki, _link):
        if config.peers:
            _check_named(spki, config.peers)
        elif hosts.verify(config.host, config.port, spki) == "new":
            log.info("host-remembered", host=config.host, port=config.port, fingerprint=fingerprint(spki),
                     file=hosts.path)

    return Keying(config.key, True, judge)


def explain_refusal(reason, key):
    """What a sender with `key` (None: without) can do about an end with this reason; the reason itself if nothing."""
    if reason == "the other side wants a key":
        return "the receiver takes senders with keys only: give --key FILE, or --own-key"
    if reason == "the other side has no key":
        return "the receiver runs without keys (--open): leave --key out, or give it keys, too"
    if reason != DISAGREE or key is None:
        return reason
    if key.psk:
        return f"{reason}: the receiver has another secret than {key.path}, or a key of 'mproxy keygen'"
    return (f"{reason}: the receiver does not take our key {fingerprint(key.spki)}, which its authorized_keys must have"
            " (the line that 'mproxy keygen' prints) or its --peer must name; or it has a secret instead")


class SenderTrust:
    """Who may send to us."""

    def __init__(self, config, log):
        self._config, self._keys = config, None
        if config.key is None or not config.key.seed or config.peers:
            return
        path = config.authorized_keys or in_state_dir("authorized_keys")
        self._keys = AuthorizedKeys(path, lambda text: log.warning("authorized-keys", why=text))
        if not self._keys.exists:
            raise UsageError("a key of 'mproxy keygen' needs to know who may send: name a fingerprint with --peer, or"
                             f" put the line that 'mproxy keygen' prints into {path or 'a file for --authorized-keys'}")

    def keying(self):
        """The Keying of a new connection, None without a key."""
        return None if self._config.key is None else Keying(self._config.key, False, self._judge)

    def _judge(self, spki, link):
        if self._keys is None:
            _check_named(spki, self._config.peers)
            return
        self._keys.changed()
        grant = self._keys.find(spki, link.peer[0], time.time())
        if grant.targets is not None:
            raise PeerError(None, f"the key is for certain daemons alone (target=): {fingerprint(spki)}")


def _check_named(spki, fingerprints):
    if fingerprint(spki) not in fingerprints:
        raise PeerError(None, f"the peer's key {fingerprint(spki)} is not one that --peer names")
