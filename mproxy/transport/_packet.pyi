import enum

class PacketType(enum.IntEnum):
    SYN = 1

class EndCode(enum.IntEnum):
    DONE = 0
    ABORTED = 1
    TIMED_OUT = 2
    IDLE = 3
    BAD_PACKET = 4
    HANDSHAKE_FAILED = 5
    NO_MEMORY = 6
    VERSION = 7
    STOPPED = 8

BASE_PACKET_BYTES: int
MAX_PACKET_BYTES: int
