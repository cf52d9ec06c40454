from collections.abc import Buffer

is_fast: bool

def four_leaves(data: Buffer, parameters: tuple[int, int, int, int, int, int], offset: int, is_last: bool) -> bytes: ...
