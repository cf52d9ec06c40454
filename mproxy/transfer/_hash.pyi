is_fast: bool

def four_leaves(
    data: bytes | bytearray | memoryview, parameters: tuple[int, int, int, int, int, int], offset: int, is_last: bool
) -> bytes: ...
