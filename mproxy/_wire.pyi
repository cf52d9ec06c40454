"""Every number of the protocol; see _wire.pxd."""

from enum import IntEnum

DIGEST_BYTES: int
HEADER_BYTES: int
HELLO_BYTES: int
INSTANCE_ID_BYTES: int
MAGIC: int
MAX_ASSOCIATIONS: int
MAX_DATAGRAM_BYTES: int
MAX_DATA_BYTES: int
MAX_IGNORABLE_BYTES: int
MAX_PIECE_BYTES: int
MAX_PLACES: int
MAX_REASON_BYTES: int
MAX_TARGET_BYTES: int
MAX_WINDOW_BYTES: int
MIN_WINDOW_BYTES: int
NONCE_BYTES: int
PREAMBLE_BYTES: int
PROOF_BYTES: int
SECRET_BYTES: int
SERVER_STREAM_BIT: int
SESSION_ID_BYTES: int
VERSION: int
WELCOME_BYTES: int

class CloseCode(IntEnum):
    ORDERLY = 0
    SHUTDOWN = 1
    FRAME_ERROR = 2
    STREAM_ERROR = 3
    OFFSET_ERROR = 4
    LIMIT_ERROR = 5
    STATE_ERROR = 6
    VERSION_ERROR = 7
    UNKNOWN_SESSION = 8
    BAD_PROOF = 9
    STALE_EPOCH = 10
    TOO_MANY = 11
    REPLACED = 12
    EXPIRED = 13
    INTERNAL = 14
    KEY_REFUSED = 15
    ENCRYPTION = 16
    WRONG_ADDRESS = 17
    TWIN = 18

class FrameFlag(IntEnum):
    FIN = 1
    WANT_ACK = 2
    REPLY = 4
    END = 8
    DONE = 16
    ABORTED = 32
    IGNORABLE = 128

class FrameType(IntEnum):
    HELLO = 1
    WELCOME = 2
    RESUME = 3
    HEARTBEAT = 4
    OPEN = 5
    DATA = 6
    ACK = 7
    RESET = 8
    GOODBYE = 9
    LISTEN = 10
    LISTENING = 11
    REST = 12
    ASSOCIATE = 13
    ASSOCIATED = 14
    DATAGRAM = 15

class HelloFeature(IntEnum):
    RENAMES = 1
    ADDRESSED = 2
    STDIO = 1073741824

class PreambleFlag(IntEnum):
    TLS = 1
    PROBE = 2

class ResetCode(IntEnum):
    APPLICATION = 0
    REFUSED = 1
    UNREACHABLE = 2
    TIMED_OUT = 3
    NOT_ALLOWED = 4
    UNKNOWN_STREAM = 5
    STREAM_LIMIT = 6
    ENDED = 7
    LOCAL_ERROR = 8
    WHILE_AWAY = 9
    KILLED = 10

class WelcomeFeature(IntEnum):
    LISTENS = 1
    UDP = 2
    DATAGRAMS = 4
