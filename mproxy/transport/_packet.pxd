"""The layout of a packet, every number of the protocol over UDP, CRC32C, and what sealing is to the engine.

The page to read is docs/datagram.md; a test holds its tables against the enums below. Big-endian throughout.

    0      1       2               4                  12       20       28
    +------+-------+---------------+------------------+--------+--------+---------+------+---------+
    | type | flags | control bytes | destination id   | number | offset | control | data | trailer |
    +------+-------+---------------+------------------+--------+--------+---------+------+---------+

The header is in the clear and authenticated; control and data are what is sealed. The trailer is the tag of the
sealing (16 bytes), or CRC32C over the whole packet before it (4 bytes).
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy._wire cimport get16, get64, put16, put64


cpdef enum PacketType:
    SYN = 1        # active side's first packet: its options; destination id 0
    SYN_ACK = 2    # passive side's answer, made without keeping anything: options and cookie
    ACK = 3        # active side shows the cookie; carries the first handshake message, if there is one
    HANDSHAKE = 4  # the other handshake messages, in turns
    DATA = 5       # everything after: control messages, bytes of the stream
    UNKNOWN = 6    # answer of who listens to DATA of no connection of his: its destination id is in the place of offset


cpdef enum PacketFlag:
    FIN = 0x01          # DATA: the stream ends behind the data of this packet
    WANT_ACK = 0x02     # DATA: acknowledge at once
    WANT_CREDIT = 0x04  # DATA: the credit is less than this sender could use


cpdef enum ControlType:
    PADDING = 0         # nothing
    PING = 1            # nothing, but it has to be acknowledged
    ACK_RANGES = 2      # recovery sack: packet numbers received; credit
    ACK_NEXT = 3        # recovery gbn: offset expected next; credit
    PATH_CHALLENGE = 4  # 8 bytes to be sent back to the address they came from
    PATH_RESPONSE = 5   # those 8 bytes
    CLOSE = 6           # the connection is over: code and reason
    PARCEL = 7          # what goes beside the stream: length 2, bytes; the last message of its packet


cpdef enum EndCode:
    DONE = 0            # both streams arrived completely
    ABORTED = 1         # one of the programs gave up; the reason says why
    TIMED_OUT = 2       # too many tries without an answer
    IDLE = 3            # nothing heard for the idle time
    BAD_PACKET = 4      # an authentic packet breaks the protocol
    HANDSHAKE_FAILED = 5  # the keys do not agree
    NO_MEMORY = 6       # this side has no memory
    VERSION = 7         # no protocol version, or no way of sealing, in common
    STOPPED = 8         # the program was stopped, and may be started again


cpdef enum:
    DATAGRAM_VERSION = 1
    PACKET_HEADER_BYTES = 28
    CRC_BYTES = 4
    MIN_PACKET_BYTES = 32      # header and the shorter trailer
    BASE_PACKET_BYTES = 1200   # every path carries this much (RFC 9000 section 14); SYN is padded to it
    SMALL_PACKET_BYTES = 548   # where a path has become narrower than that: IPv4's 576 (RFC 1122 section 3.3.3)
    MAX_PACKET_BYTES = 65507   # UDP over IPv4 (RFC 768)
    MAX_HANDSHAKE_BYTES = 1024  # one handshake message


cdef struct PeerAddress:
    uint8_t length      # bytes used
    uint8_t bytes[28]   # a struct sockaddr_in or sockaddr_in6; only compared, and hashed into cookies


# Write `parts` one after the other, sealed, to `out`, the trailer behind; parts[0] may be at `out`. `header` is
# authenticated, `number` is the nonce and never comes twice. Returns 0, or -1: the key is used up.
ctypedef int (*SealPacket)(void *context, uint64_t number, const uint8_t *header, uint32_t header_bytes,
                           const iovec *parts, int count, uint8_t *out) noexcept nogil

# Open `length` bytes at `data`, trailer included, into `parts`, which together take length - trailer_bytes; parts[0]
# may be at `data`. Returns 0, or -1: not authentic, and then what was written is garbage and nobody reads it.
ctypedef int (*OpenPacket)(void *context, uint64_t number, const uint8_t *header, uint32_t header_bytes,
                           const uint8_t *data, uint32_t length, const iovec *parts, int count) noexcept nogil


cdef struct Seal:
    SealPacket seal         # for outgoing packets
    OpenPacket open         # for incoming packets
    void *context           # of this direction's key
    uint32_t trailer_bytes  # bytes at the packet's end: 16 for a tag
    bint veils              # number and offset of a packet are hidden (_veil)
    uint8_t veil_key[32]    # by this key


cdef struct Header:
    uint8_t type           # PacketType
    uint8_t flags          # PacketFlag
    uint16_t control_bytes  # length of the control part
    uint64_t destination   # id that the receiver of this packet has given the connection
    uint64_t number        # of this packet, never twice in one direction of a connection
    uint64_t offset        # of the first byte of data, or of the FIN, in the stream


cdef inline bint same_address(const PeerAddress *one, const PeerAddress *other) noexcept nogil:
    cdef int i
    if one.length != other.length:
        return False
    for i in range(one.length):
        if one.bytes[i] != other.bytes[i]:
            return False
    return True

cdef inline int packet_type(const uint8_t *packet, uint32_t length) noexcept nogil:
    """A PacketType, or 0: this is not a packet of ours."""
    return packet[0] if length >= MIN_PACKET_BYTES and 1 <= packet[0] <= 6 else 0

cdef inline uint64_t packet_id(const uint8_t *packet) noexcept nogil:
    """The connection a packet (of MIN_PACKET_BYTES at least) is for."""
    return get64(packet + 4)

cdef inline void put_header(uint8_t *p, const Header *header) noexcept nogil:
    p[0] = header.type
    p[1] = header.flags
    put16(p + 2, header.control_bytes)
    put64(p + 4, header.destination)
    put64(p + 12, header.number)
    put64(p + 20, header.offset)

cdef inline void get_header(const uint8_t *p, Header *header) noexcept nogil:
    header.type = p[0]
    header.flags = p[1]
    header.control_bytes = get16(p + 2)
    header.destination = get64(p + 4)
    header.number = get64(p + 12)
    header.offset = get64(p + 20)

cdef uint32_t crc32c(uint32_t crc, const uint8_t *data, size_t length) noexcept nogil
cdef void crc_seal(Seal *seal) noexcept nogil
cdef int put_varint(uint8_t *p, uint64_t value) noexcept nogil
cdef int get_varint(const uint8_t *p, const uint8_t *end, uint64_t *value) noexcept nogil
