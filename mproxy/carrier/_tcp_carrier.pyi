from mproxy.carrier._carrier import Carrier
from mproxy.handshake import Encryption
from mproxy.io._loop import Loop

class TcpCarrier(Carrier):
    def __init__(self, loop: Loop, fd: int, tls: Encryption | None = None) -> None: ...
