"""The carrier that is a stream socket within this host. What for: _local_carrier.pxd."""

from functools import partial

from mproxy.carrier._carrier cimport PathReport
from mproxy.carrier._tcp_carrier cimport TcpCarrier
from mproxy.carrier._tls cimport Tls
from mproxy.io._loop cimport Loop


cdef class LocalCarrier(TcpCarrier):
    """`fd`, one end of a pair of sockets, now belongs to the carrier."""

    def __init__(self, Loop loop not None, int fd, Tls tls, str kind not None, str through not None, on_close=None):
        TcpCarrier.__init__(self, loop, fd, tls)
        self.kind = kind
        self.through = through
        self.on_close = on_close

    cdef bint report(self, PathReport *path) noexcept:
        return False

    cdef void close(self, bint abort) noexcept:
        on_close, self.on_close = self.on_close, None
        TcpCarrier.close(self, abort)
        if on_close is not None:
            self.loop.soon.append(partial(on_close, bool(abort)))

    def addresses(self):
        """None: there are none."""
        return None

    def describe(self):
        """`kind` (command, command+tls, attached, attached+tls), `through`."""
        return {"kind": f"{self.kind}+tls" if self.sealed else self.kind, "through": self.through}
