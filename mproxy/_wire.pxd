"""Every number of the protocol, and the byte order.

The page to read is docs/protocol.md; a test holds its tables against the enums below. Nothing else in the program
knows a field's offset or a message's number. Implementation limits (buffer sizes, scheduling) do not belong here.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from *:
    """
    #define mproxy_bswap16(x) __builtin_bswap16(x)
    #define mproxy_bswap32(x) __builtin_bswap32(x)
    #define mproxy_bswap64(x) __builtin_bswap64(x)
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #undef mproxy_bswap16
    #undef mproxy_bswap32
    #undef mproxy_bswap64
    #define mproxy_bswap16(x) (x)
    #define mproxy_bswap32(x) (x)
    #define mproxy_bswap64(x) (x)
    #endif
    """
    uint16_t mproxy_bswap16(uint16_t) nogil
    uint32_t mproxy_bswap32(uint32_t) nogil
    uint64_t mproxy_bswap64(uint64_t) nogil


cpdef enum FrameType:
    HELLO = 1      # cproxy's first frame on a carrier: new or resumed session
    WELCOME = 2    # sproxy's answer: the session lives, on this carrier
    RESUME = 3     # where one stream stands; one with flag END closes the list
    HEARTBEAT = 4  # session id, timestamp and echo: liveness, round-trip time, barrier
    OPEN = 5       # a stream starts: cproxy's, or one that came to where cproxy has sproxy listen
    DATA = 6       # application bytes; seq is the offset of the first
    ACK = 7        # nothing but the ack of the header
    RESET = 8      # abrupt end of one stream
    GOODBYE = 9    # end of the session, with the reason
    LISTEN = 10    # cproxy asks sproxy to listen
    LISTENING = 11  # sproxy's answer: it does, or why not
    REST = 12      # IGNORABLE: cproxy's heartbeats come less often now; seq is their interval
    ASSOCIATE = 13   # cproxy asks sproxy to send datagrams with a number to a target
    ASSOCIATED = 14  # sproxy's answer: it does, or why not
    DATAGRAM = 15    # a datagram of a flow, or a piece of one; never sent again


cpdef enum FrameFlag:
    FIN = 0x01        # DATA: the direction ends after this payload
    WANT_ACK = 0x02   # DATA, ACK: the sender's buffer is full: acknowledge once all up to here is delivered
    REPLY = 0x04      # HEARTBEAT: answer to a heartbeat, not to be answered
    # RESUME: last of the list, stream 0; seq and ack say which streams cproxy knew. LISTEN, ASSOCIATE: the last
    END = 0x08
    DONE = 0x10       # RESUME: this side has finished with the stream
    ABORTED = 0x20    # RESUME, with DONE: it ended by a reset
    IGNORABLE = 0x80  # a receiver that does not know the type skips the frame


cpdef enum CloseCode:
    ORDERLY = 0          # the session is no longer needed
    SHUTDOWN = 1         # the program ends
    FRAME_ERROR = 2      # unknown type, wrong flag, wrong length
    STREAM_ERROR = 3     # frame for a stream that was never opened, or opened twice
    OFFSET_ERROR = 4     # an offset or ack outside what this side holds
    LIMIT_ERROR = 5      # more bytes or streams than the limits agreed
    STATE_ERROR = 6      # a frame that is wrong at this point of the session
    VERSION_ERROR = 7    # no protocol version in common
    UNKNOWN_SESSION = 8  # no such session here (any more)
    BAD_PROOF = 9        # the resuming peer does not hold the session's secret
    STALE_EPOCH = 10     # a newer carrier was already seen; the header's ack is its epoch
    TOO_MANY = 11        # this program serves its greatest number of sessions
    REPLACED = 12        # the client started anew, or --single: a newer session took this one's place
    EXPIRED = 13         # without a carrier for longer than --session-ttl
    INTERNAL = 14        # this side failed (no memory)
    KEY_REFUSED = 15     # the peer's key is not trusted, or not any more
    ENCRYPTION = 16      # one side encrypts and the other does not, or TLS failed
    WRONG_ADDRESS = 17   # the peer's key may not be used from where it comes; it may from elsewhere
    TWIN = 18            # another cproxy with this instance id has a session; the header's ack says how sure that is


cpdef enum ResetCode:
    APPLICATION = 0      # the application reset its connection
    REFUSED = 1          # the daemon refused the connection
    UNREACHABLE = 2      # no route to the daemon, or its name is unknown
    TIMED_OUT = 3        # the daemon did not answer
    NOT_ALLOWED = 4      # the target is not on sproxy's list
    UNKNOWN_STREAM = 5   # the other side no longer knows this stream
    STREAM_LIMIT = 6     # too many streams
    ENDED = 7            # its session ended
    LOCAL_ERROR = 8      # this side failed (descriptors, memory)
    WHILE_AWAY = 9       # the application reset its connection while there was no carrier
    KILLED = 10          # somebody ended this one stream; the frame says why


cpdef enum PreambleFlag:
    TLS = 0x01           # what follows is TLS, and frames inside it
    PROBE = 0x02         # nothing follows: the client wants to know whether the server answers


cpdef enum:
    VERSION = 2
    MAGIC = 0xAB6D7078            # 0xAB 'm' 'p' 'x': first byte neither text nor TLS (0x16)
    PREAMBLE_BYTES = 16
    HEADER_BYTES = 28
    SESSION_ID_BYTES = 16
    INSTANCE_ID_BYTES = 16
    SECRET_BYTES = 32
    PROOF_BYTES = 32
    NONCE_BYTES = 16
    DIGEST_BYTES = 32
    HELLO_BYTES = 144             # payload of HELLO
    WELCOME_BYTES = 168           # payload of WELCOME, without an address
    HEARTBEAT_BYTES = 16          # payload of HEARTBEAT: the session id
    MAX_TARGET_BYTES = 300        # payload of OPEN, LISTEN, ASSOCIATE: HOST:PORT, HOST at most 255 bytes; of answers
    MAX_REASON_BYTES = 200        # payload of RESET and GOODBYE: UTF-8 text
    MAX_IGNORABLE_BYTES = 4096    # payload of a type we do not know and may skip
    MAX_DATA_BYTES = 1048576      # payload of DATA
    MAX_PLACES = 32               # where sproxy listens for one session
    SERVER_STREAM_BIT = 31        # set in the ids of streams that sproxy opens, and in no other
    MAX_ASSOCIATIONS = 32         # targets of datagrams of one session
    MAX_DATAGRAM_BYTES = 65507    # of an application: the most that UDP over IPv4 takes
    MAX_PIECE_BYTES = 4096        # payload of DATAGRAM
    MIN_WINDOW_BYTES = 4096       # smallest stream window and session budget that may be offered
    MAX_WINDOW_BYTES = 1073741824


# Unaligned big-endian loads and stores.

cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return mproxy_bswap16(v)

cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return mproxy_bswap32(v)

cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return mproxy_bswap64(v)

cdef inline void put16(uint8_t *p, uint16_t v) noexcept nogil:
    v = mproxy_bswap16(v)
    memcpy(p, &v, 2)

cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    v = mproxy_bswap32(v)
    memcpy(p, &v, 4)

cdef inline void put64(uint8_t *p, uint64_t v) noexcept nogil:
    v = mproxy_bswap64(v)
    memcpy(p, &v, 8)
