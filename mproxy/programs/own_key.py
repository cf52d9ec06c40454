"""The key that a proxy shows to the other one."""

from __future__ import annotations

import os
from collections.abc import Callable

from mproxy.carrier._tls import TlsContext
from mproxy.ground._wipe import wipe
from mproxy.ground.errors import UsageError
from mproxy.ground.words import printable
from mproxy.policy.keys import take_identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.shapes import Logger


def open_context(path: str | None, log: Logger, *, is_server: bool, named: str | None = None,
                 use: Callable[[bytearray], object] = lambda pem: None) -> TlsContext:
    """The TlsContext of a key file, which is made if it is missing, unless it is one that the user has `named`.

    `use(pem)` is called before that is wiped.
    """
    if named is not None and not os.path.lexists(named):
        option, word = ("--host-key", " --host") if is_server else ("--key", "")
        raise UsageError(f"{option} {printable(named)}: no such file; create it with 'mproxy keygen{word} -f"
                         f" {printable(named)}'")
    identity, is_new = take_identity(path, outlive=True)
    try:
        use(identity.pem)
        context = TlsContext(identity.pem, is_server=is_server)
    except UsageError as error:
        raise UsageError(f"{path} {error}; move it away and a new key will be created") from None
    finally:
        wipe(identity.pem)
    if path is None:
        log.warning("key-not-kept", fingerprint=identity.fingerprint, why=(
            "HOME is not set, so the key cannot be stored: it lasts as long as this process, and the other side will"
            " not recognize the next one; choose a directory with --state-dir DIR"))
    if is_server:
        log.info("host-key", fingerprint=identity.fingerprint, file=identity.path, new=is_new)
    elif is_new and path is not None:
        log.info("client-key", fingerprint=identity.fingerprint, file=identity.path, new=True)
    return context
