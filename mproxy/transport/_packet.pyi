import enum

class ControlType(enum.IntEnum):
    PADDING = 0
    PING = 1
    ACK_RANGES = 2
    ACK_NEXT = 3
    PATH_CHALLENGE = 4
    PATH_RESPONSE = 5
    CLOSE = 6

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

class PacketFlag(enum.IntEnum):
    FIN = 1
    WANT_ACK = 2
    WANT_CREDIT = 4

class PacketType(enum.IntEnum):
    SYN = 1
    SYN_ACK = 2
    ACK = 3
    HANDSHAKE = 4
    DATA = 5

BASE_PACKET_BYTES: int
CRC_BYTES: int
DATAGRAM_VERSION: int
MAX_HANDSHAKE_BYTES: int
MAX_PACKET_BYTES: int
MIN_PACKET_BYTES: int
PACKET_HEADER_BYTES: int

def checksum(data, crc=0, *, by_table=False): ...
