from typing import Self, final

SUM_BYTES: int
KEY_BYTES: int

def sums_of(data: bytes | bytearray | memoryview, block_bytes: int, key: bytes) -> bytes: ...

@final
class Sketch:
    block_bytes: int
    count: int
    def __new__(cls, block_bytes: int, key: bytes, sums: bytes | bytearray) -> Self: ...
    def find(self, text: bytes | bytearray | memoryview, begin: int, end: int,
             guess: int) -> list[tuple[int, int, int]]: ...
