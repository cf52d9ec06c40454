from collections.abc import Callable

from mproxy.endpoint._endpoint import Endpoint
from mproxy.io._accept import AcceptGate

class AppListener:
    def __init__(self, gate: AcceptGate, fd: int, endpoint: Endpoint, target: bytes = b"",
                 greet: Callable[[int], object] | None = None) -> None: ...
    def close(self) -> None: ...
