from collections.abc import Callable

from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint._flow_side import FlowSide
from mproxy.io._loop import Loop

class ClientFlows(FlowSide):
    def __init__(self, loop: Loop, endpoint: Endpoint, idle_us: int, waiting: Callable[[], object]) -> None: ...
    def listen(self, fd: int, association: int, target: str) -> None: ...
