import enum

class Cipher(enum.IntEnum):
    AESGCM = 1
    CHACHAPOLY = 2

class PacketKey:
    def __init__(self, key: bytes, cipher: int, first: int, sealing: bool) -> None: ...
    @property
    def failed(self) -> int: ...
