from collections.abc import Sequence

MOST_BYTES: int
HERE: int

def read_files(wanted: Sequence[tuple[int, bytes, int]]) -> list[tuple[int, int, int, int, bytes] | None]: ...
def pack_files(
    wanted: Sequence[tuple[int, bytes, int, int, int, bytes, bytes]]
) -> tuple[bytes, list[tuple[int, bytes] | None]]: ...
def pack_run(directory: int, names: list[bytes], how: int, flags: int,
             above: bytes) -> tuple[bytes, bytes, bytes, list[int]]: ...
