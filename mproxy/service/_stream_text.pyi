from collections.abc import Sequence

class StreamText:
    text: bytes
    count: int
    keys: bytes
    ends: int

    def __len__(self) -> int: ...
    def say(self, more: Sequence[bytes]) -> bytes: ...

def take_streams(answer: bytes) -> tuple[bytes, list[StreamText]] | None: ...
