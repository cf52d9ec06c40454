from mproxy.net._loop import Loop
from mproxy.relay._pipes import PipePool

class Mover:
    def __init__(self, loop: Loop) -> None: ...
    @property
    def pool(self) -> PipePool: ...
