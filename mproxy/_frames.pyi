# (type, flags, stream, seq, ack, payload, offset of the payload in its frame)
_Frame = tuple[int, int, int, int, int, bytes, int]

class FrameParser:
    @property
    def unparsed(self) -> bytes: ...
    def feed(self, data: bytes, *, limit: int = 0) -> list[_Frame]: ...

def encode_frame(
    type: int, *, flags: int = 0, stream: int = 0, seq: int = 0, ack: int = 0, payload: bytes = b""
) -> bytes: ...
