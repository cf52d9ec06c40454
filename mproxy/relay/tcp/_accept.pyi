from typing import Any

from mproxy.io._loop import Loop
from mproxy.relay._tally import Tally

class Gate:
    kept: int
    def __init__(self, loop: Loop, observer: Any, room: int, tally: Tally) -> None: ...
