"""The certificate that a proxy shows with its key, from a file that is read again when it changes: whoever renews it
just writes it there."""

from __future__ import annotations

import os

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from mproxy.ground.shapes import Logger
    from mproxy.policy.trust import Stamp

    class Vouched(Protocol):
        """A key that shows a certificate: a TlsContext, or the key of a transfer."""

        @property
        def spki(self) -> bytes: ...
        def vouch(self, certificate: bytes, /) -> None: ...

MOST_BYTES = 4096


class OwnCertificate:
    """The one in the file `path`; None: there is no place for one. `named`: by the user, with `option`, so that it must
    be there."""

    def __init__(self, path: str | None, log: Logger, *, is_server: bool, named: bool,
                 option: str | None = None) -> None:
        self._path = path
        self._option = option or ("--host-certificate" if is_server else "--certificate")
        self._log = log
        self._is_server = is_server
        self._named = named
        self._stamp: Stamp | None = None  # of the file last read
        self.shown = b""  # empty: none

    def open(self, context: Vouched) -> None:
        """Show it; UsageError if it was named and cannot be used."""
        if self._named and self._path is not None:
            try:
                self._read(self._path, context.spki)
            except (MproxyError, OSError) as error:
                raise UsageError(f"{self._option} {printable(self._path)}:"
                                 f" {getattr(error, 'strerror', None) or error}") from None
        self.refresh(context)

    def refresh(self, context: Vouched) -> bytes:
        """Show it as it is now, from the next connection on; returns it. What cannot be used costs a warning. Costs one
        stat(2) if nothing has changed."""
        if self._path is not None:
            self._look(self._path, context)
        return self.shown

    def _look(self, path: str, context: Vouched) -> None:
        try:
            status = os.stat(path)
            stamp = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        except PermissionError:
            return  # --user: what was read before the rights were given up stays
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return
        self._stamp = stamp
        data = b""
        if stamp is not None:
            try:
                data = self._read(path, context.spki)
            except (MproxyError, OSError) as error:
                self._log.warning("certificate", file=path, why=(
                    f"not used: {getattr(error, 'strerror', None) or error}"))
                return
        if data or self.shown:
            context.vouch(data)
            self.shown = data
            if not data:
                self._log.warning("certificate", file=path, why="it is gone, and no longer shown")

    def _read(self, path: str, spki: bytes) -> bytes:
        """The certificate for our key in that file; MproxyError, OSError."""
        import time

        from mproxy.policy.certificates import CLIENT, HOST, parse_certificate, parse_certificate_line, say_time
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            data = parse_certificate_line((file.read(MOST_BYTES) or b"").decode(errors="replace"))
        certificate = parse_certificate(data)
        certificate.check(spki, HOST if self._is_server else CLIENT)
        now = time.time()
        if not certificate.valid_after <= now < certificate.valid_before:
            self._log.warning("certificate", file=path, why=(
                f"it is valid from {say_time(certificate.valid_after)} to {say_time(certificate.valid_before)} only"))
        return data
