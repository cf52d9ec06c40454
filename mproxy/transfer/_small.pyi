from collections.abc import Sequence

MOST_BYTES: int
HERE: int

def read_files(wanted: Sequence[tuple[int, bytes, int]]) -> list[tuple[int, int, int, int, bytes] | None]: ...
def pack_files(
    wanted: Sequence[tuple[int, bytes, int, int, int, bytes, bytes]]
) -> tuple[bytes, list[tuple[int, bytes] | None]]: ...
def make_files(data: bytes | bytearray | memoryview,
               wanted: Sequence[tuple[int, bytes, int, int, int, int, bytes]]) -> list[int]: ...
