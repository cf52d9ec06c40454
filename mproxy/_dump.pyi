from collections.abc import Callable, Sequence
from mmap import mmap

from mproxy.ground.errors import MproxyError

VERSION: int
OLDEST: int

class DumpError(MproxyError): ...

def dump_sessions(version: int, about: bytes, room: Callable[[int], mmap | bytearray]) -> list[int]: ...
def load_sessions(data: mmap | bytes | bytearray, descriptors: Sequence[int]) -> tuple[list[int], bytes]: ...
