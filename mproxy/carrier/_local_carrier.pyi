from collections.abc import Callable

from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.handshake import Encryption
from mproxy.io._loop import Loop

class LocalCarrier(TcpCarrier):
    def __init__(self, loop: Loop, fd: int, tls: Encryption | None, kind: str, through: str,
                 on_close: Callable[[bool], object] | None = None) -> None: ...
