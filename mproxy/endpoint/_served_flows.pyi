from collections.abc import Callable

from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint._flow_side import FlowSide
from mproxy.io._loop import Loop
from mproxy.io._socket import Target

class ServedFlows(FlowSide):
    may_open: Callable[[], bool] | None
    def __init__(self, loop: Loop, endpoint: Endpoint, idle_us: int) -> None: ...
    def expect(self, association: int) -> None: ...
    def associate(self, association: int, target: Target | None) -> None: ...
