"""sproxy's door: its key, who may come in, and what who came in may do."""

import os
import time

from mproxy._wipe import wipe
from mproxy._wire import CloseCode
from mproxy.errors import PeerError, UsageError
from mproxy.net._tls import Tls, TlsContext
from mproxy.policy.keys import take_identity
from mproxy.policy.tags import Tags
from mproxy.policy.trust import AuthorizedKeys
from mproxy.words import parse_host_port, printable

# How often to look whether authorized_keys has changed, or a key's time is over.
LOOK_US = 500_000


class Door:
    """What sproxy asks about a peer's key. Without encryption there are no keys, and everybody may come in."""

    def __init__(self, config, log):
        self._config = config
        self._log = log
        self._context = None
        self._keys = AuthorizedKeys(None)
        self._changed = False  # the file was read, and `changed` has not told yet
        self.tags = Tags(os.urandom(32), config.session.session_ttl_us)  # until there is a key: of this process alone
        self._targets = {(config.daemon_host, config.daemon_port), *config.allow}

    def open(self):
        """Read the keys; makes the host's at the first start."""
        config = self._config
        if config.plaintext:
            if not all(is_loopback(address) for address in config.bind_addresses):
                self._log.warning("plaintext", why="--plaintext: whoever is on the path reads and changes everything")
            return
        self._context = open_context(config.host_key_file, self._log, is_server=True, use=self._make_tags)
        self._keys = AuthorizedKeys(
            config.authorized_keys_file, lambda text: self._log.warning("authorized-keys", why=text))
        if not self._keys.exists and config.authorized_keys is not None:
            raise UsageError(f"--authorized-keys {printable(config.authorized_keys)}: there is no such file; make it"
                             " (an empty one lets nobody in)")
        if not self._keys.exists:
            self._log.warning("open-door", why=(
                "no authorized_keys: whoever can reach the port can reach the daemon"))

    def _make_tags(self, pem):
        """Tags by a secret of the host key: they hold when sproxy is started anew."""
        import hmac
        secret = hmac.digest(pem, b"mproxy 2 tag key", "sha256")
        self.tags = Tags(secret, self._config.session.session_ttl_us)

    @property
    def guarded(self):
        """Only some keys may come in, so every stream has to be asked for."""
        return self._keys.exists

    def make_tls(self):
        """The server's end of a new connection; None without encryption."""
        return Tls(self._context) if self._context is not None else None

    def changed(self):
        """Whether authorized_keys has been read anew since this was last asked; `grant` reads it, too."""
        self._read_keys()
        changed, self._changed = self._changed, False
        return changed

    def _read_keys(self):
        if self._keys.changed():
            self._changed = True
            self._log.info("keys-read", file=self._keys.path, keys=len(self._keys))

    def grant(self, spki, host):
        """The Grant of a key that comes from an address, None where everybody may come in; PeerError."""
        self._read_keys()
        if not self._keys.exists:
            return None
        return self._keys.find(spki, host, time.time())

    def target(self, words, grant):
        """(host, port) that a stream may be connected to; None when it may not. `words`: as OPEN has them."""
        config = self._config
        host, port = config.daemon_host, config.daemon_port
        if words:
            try:
                host, port = parse_host_port(words.decode())
            except (UsageError, ValueError):
                return None
        allowed = (host, port) in self._targets and (grant is None or grant.allows_target(host, port))
        return (host, port) if allowed else None


def open_context(path, log, *, is_server, use=lambda pem: None):
    """The TlsContext of a key file, which is made when there is none; `use(pem)` is called before that is wiped."""
    identity, is_new = take_identity(path)
    try:
        use(identity.pem)
        context = TlsContext(identity.pem, is_server=is_server)
    except UsageError as error:
        raise UsageError(f"{path} {error}; move it away to have a new key made") from None
    finally:
        wipe(identity.pem)
    if is_server:
        log.info("host-key", fingerprint=identity.fingerprint, file=identity.path, new=is_new)
    elif is_new and path is not None:
        log.info("client-key", fingerprint=identity.fingerprint, file=identity.path, new=True)
    return context


def is_loopback(host):
    """Whether a host's name or address means this host alone."""
    import ipaddress  # 5 ms, needed with --plaintext alone
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_same_key(spki, expected):
    """PeerError unless a session's client has the key that it began with."""
    if spki != expected:
        raise PeerError(CloseCode.BAD_PROOF, "the session belongs to another key")

