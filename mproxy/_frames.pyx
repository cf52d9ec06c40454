"""Frame codec. Byte layout: docs/protocol.md; contract of the C functions: _frames.pxd.

What can be checked from a frame alone is checked here: type, flags, length, whether the stream is zero. What depends on
the session (offsets, streams, order) is checked in _session.
"""

from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from mproxy._wire cimport (
    HEADER_BYTES, MAX_DATA_BYTES, MAX_IGNORABLE_BYTES, MAX_PIECE_BYTES, MAX_REASON_BYTES, MAX_TARGET_BYTES,
    HELLO_BYTES, WELCOME_BYTES, HEARTBEAT_BYTES,
    CloseCode, FrameFlag, FrameType, get16, get32, get64, put16, put32, put64,
)
from mproxy import _wire as numbers  # for Python; the cimported enums exist only in C
from mproxy.ground.errors import PeerError


cdef struct Shape:
    uint32_t min_length  # payload bytes, least
    uint32_t max_length  # payload bytes, most
    uint8_t flags        # flags that the type may carry
    int of_stream        # 1: stream must be non-zero, 0: must be zero, -1: either


cdef Shape shapes[16]
memset(shapes, 0, sizeof(shapes))
shapes[<int>FrameType.HELLO] = Shape(HELLO_BYTES, HELLO_BYTES, 0, 0)
shapes[<int>FrameType.WELCOME] = Shape(WELCOME_BYTES, WELCOME_BYTES + MAX_TARGET_BYTES, 0, 0)
shapes[<int>FrameType.RESUME] = Shape(
    0, 0, FrameFlag.END | FrameFlag.DONE | FrameFlag.ABORTED, -1)
shapes[<int>FrameType.HEARTBEAT] = Shape(HEARTBEAT_BYTES, HEARTBEAT_BYTES, FrameFlag.REPLY, 0)
shapes[<int>FrameType.OPEN] = Shape(0, MAX_TARGET_BYTES, 0, 1)
shapes[<int>FrameType.DATA] = Shape(0, MAX_DATA_BYTES, FrameFlag.FIN | FrameFlag.WANT_ACK, 1)
shapes[<int>FrameType.ACK] = Shape(0, 0, FrameFlag.WANT_ACK, 1)
shapes[<int>FrameType.RESET] = Shape(0, MAX_REASON_BYTES, 0, 1)
shapes[<int>FrameType.GOODBYE] = Shape(0, MAX_REASON_BYTES, 0, 0)
shapes[<int>FrameType.LISTEN] = Shape(0, MAX_TARGET_BYTES, FrameFlag.END, 0)
shapes[<int>FrameType.LISTENING] = Shape(0, MAX_TARGET_BYTES, 0, 0)
shapes[<int>FrameType.REST] = Shape(0, 0, 0, 0)
shapes[<int>FrameType.ASSOCIATE] = Shape(0, MAX_TARGET_BYTES, FrameFlag.END, 0)
shapes[<int>FrameType.ASSOCIATED] = Shape(0, MAX_TARGET_BYTES, 0, 0)
shapes[<int>FrameType.DATAGRAM] = Shape(0, MAX_PIECE_BYTES, 0, 1)


cdef void encode_header(uint8_t *out, const Frame *frame) noexcept nogil:
    out[0] = frame.type
    out[1] = frame.flags
    put16(out + 2, 0)
    put32(out + 4, frame.stream)
    put32(out + 8, frame.length)
    put64(out + 12, frame.seq)
    put64(out + 20, frame.ack)


cdef void decode_header(const uint8_t *data, Frame *frame) noexcept nogil:
    frame.type = data[0]
    frame.flags = data[1]
    frame.stream = get32(data + 4)
    frame.length = get32(data + 8)
    frame.seq = get64(data + 12)
    frame.ack = get64(data + 20)


cdef ParseResult broken(Parser *parser, const char *reason) noexcept nogil:
    parser.error = CloseCode.FRAME_ERROR
    parser.reason = reason
    return ParseResult.BROKEN


cdef const char *check_header(const Frame *frame, uint32_t reserved) noexcept nogil:
    """Return what is wrong with a header that was just read, or NULL."""
    cdef const Shape *shape
    if reserved != 0:
        return "frame header with reserved bits set"
    if frame.type == 0 or frame.type > FrameType.DATAGRAM:
        if not frame.flags & FrameFlag.IGNORABLE:
            return "frame of unknown type"
        if frame.length > MAX_IGNORABLE_BYTES:
            return "frame of unknown type is too long to skip"
        return NULL
    shape = &shapes[frame.type]
    if frame.flags & ~(shape.flags | FrameFlag.IGNORABLE):
        return "frame with a flag its type does not have"
    if not shape.min_length <= frame.length <= shape.max_length:
        return "frame with a length its type does not have"
    if shape.of_stream >= 0 and (frame.stream != 0) != shape.of_stream:
        return "frame with a stream number its type does not have"
    if frame.type == FrameType.RESUME and (frame.stream == 0) != ((frame.flags & FrameFlag.END) != 0):
        return "RESUME with a stream number its flags do not have"
    if frame.type == FrameType.DATA and frame.length == 0 and not frame.flags & FrameFlag.FIN:
        return "DATA frame without data"
    return NULL


cdef void parser_init(Parser *parser) noexcept nogil:
    """Make `parser`, which was all zero or used, ready for the first byte of a carrier."""
    parser_free(parser)
    parser.have = 0
    parser.need = HEADER_BYTES
    parser.remaining = 0
    parser.in_data = False
    parser.payload = NULL
    parser.part = 0
    parser.part_offset = 0
    parser.error = 0
    parser.reason = NULL


cdef void parser_free(Parser *parser) noexcept nogil:
    """Give its memory back."""
    free(parser.kept)
    parser.kept = NULL


cdef ParseResult parser_next(Parser *parser, const uint8_t **data, const uint8_t *end) noexcept nogil:
    """Advance `data` towards `end` by at most one frame, or one part of a DATA payload; returns what was found."""
    cdef uint32_t take
    if parser.have == 0 and parser.kept != NULL:
        parser_free(parser)  # the frame before, which was passed on
    if parser.error:
        return ParseResult.BROKEN
    if parser.in_data:
        return next_part(parser, data, end)
    while True:
        if not gather(parser, data, end):
            return ParseResult.NEED_MORE
        if parser.need > HEADER_BYTES:
            parser.payload = parser.kept
            return whole_frame(parser)
        decode_header(parser.header, &parser.frame)
        parser.reason = check_header(&parser.frame, get16(parser.header + 2))
        if parser.reason != NULL:
            return broken(parser, parser.reason)
        if parser.frame.type == FrameType.DATA:
            parser.have = 0
            parser.remaining = parser.frame.length
            parser.in_data = True
            return next_part(parser, data, end)
        take = parser.frame.length
        if take <= end - data[0]:
            parser.payload = data[0]
            data[0] += take
            return whole_frame(parser)
        parser.kept = <uint8_t *>malloc(take)
        if parser.kept == NULL:
            parser.error = CloseCode.INTERNAL
            parser.reason = "out of memory"
            return ParseResult.BROKEN
        parser.need = HEADER_BYTES + take


cdef inline bint gather(Parser *parser, const uint8_t **data, const uint8_t *end) noexcept nogil:
    """Collect input until there are `need` bytes; true when there are."""
    cdef uint32_t take = parser.need - parser.have
    cdef uint8_t *at = &parser.header[0] if parser.need == HEADER_BYTES else parser.kept - HEADER_BYTES
    if take > end - data[0]:
        take = <uint32_t>(end - data[0])
    memcpy(at + parser.have, data[0], take)
    parser.have += take
    data[0] += take
    return parser.have == parser.need


cdef inline ParseResult whole_frame(Parser *parser) noexcept nogil:
    parser.have = 0
    parser.need = HEADER_BYTES
    return ParseResult.WHOLE_FRAME


cdef inline ParseResult next_part(Parser *parser, const uint8_t **data, const uint8_t *end) noexcept nogil:
    cdef uint32_t take = parser.remaining
    if take > end - data[0]:
        take = <uint32_t>(end - data[0])
    if take == 0 and parser.remaining != 0:
        return ParseResult.NEED_MORE
    parser.payload = data[0]
    parser.part = take
    parser.part_offset = parser.frame.length - parser.remaining
    parser.remaining -= take
    parser.in_data = parser.remaining != 0
    data[0] += take
    return ParseResult.DATA_PART


cdef const char *frame_of_packet(const uint8_t **data, const uint8_t *end, Frame *frame,
                                 const uint8_t **payload) noexcept nogil:
    """Read the next frame, which is there as a whole, and advance `data` behind it; returns what is wrong, or NULL."""
    cdef const char *wrong
    if end - data[0] < HEADER_BYTES:
        return "frame cut off by the end of its packet"
    decode_header(data[0], frame)
    wrong = check_header(frame, get16(data[0] + 2))
    if wrong != NULL:
        return wrong
    payload[0] = data[0] + HEADER_BYTES
    if frame.length > end - payload[0]:
        return "frame cut off by the end of its packet"
    data[0] = payload[0] + frame.length
    return NULL


# ---- the codec for tests, tools and the handshake

def encode_frame(int type, *, int flags=0, uint32_t stream=0, uint64_t seq=0, uint64_t ack=0, bytes payload=b""):
    """Header and payload as bytes. Nothing is checked: tests build wrong frames, too."""
    cdef Frame frame
    cdef uint8_t header[HEADER_BYTES]
    frame.type = <uint8_t>type
    frame.flags = <uint8_t>flags
    frame.stream = stream
    frame.length = <uint32_t>len(payload)
    frame.seq = seq
    frame.ack = ack
    encode_header(header, &frame)
    return (<char *>header)[:HEADER_BYTES] + payload


cdef class FrameParser:
    """The parser as Python sees it: `feed` bytes, get what they complete.

    Raises PeerError at the first byte that no valid peer can have sent, and again at every later call.
    """

    def __cinit__(self):
        parser_init(&self.parser)
        self.left = b""

    def __dealloc__(self):
        parser_free(&self.parser)

    def feed(self, bytes data, *, Py_ssize_t limit=0):
        """Return [(type, flags, stream, seq, ack, payload, part_offset)]; DATA comes in parts.

        With `limit` stop after that many; the rest of the input is then in `unparsed`.
        """
        cdef const uint8_t *start
        cdef const uint8_t *at
        cdef ParseResult result
        cdef Frame *frame = &self.parser.frame
        data = self.left + data
        start = at = data
        frames = []
        while limit == 0 or len(frames) < limit:
            result = parser_next(&self.parser, &at, start + len(data))
            if result == ParseResult.NEED_MORE:
                break
            if result == ParseResult.BROKEN:
                raise PeerError(numbers.CloseCode(self.parser.error), self.parser.reason.decode())
            size = self.parser.part if result == ParseResult.DATA_PART else frame.length
            offset = self.parser.part_offset if result == ParseResult.DATA_PART else 0
            payload = (<const char *>self.parser.payload)[:size] if size else b""
            frames.append((frame.type, frame.flags, frame.stream, frame.seq, frame.ack, payload, offset))
        self.left = data[at - start:]
        return frames

    def count(self, bytes data):
        """Parse all of `data` and keep nothing; returns the number of frames and parts. To measure the parser alone."""
        cdef const uint8_t *at = data
        cdef const uint8_t *end = at + len(data)
        cdef ParseResult result
        cdef int found = 0
        while True:
            result = parser_next(&self.parser, &at, end)
            if result == ParseResult.NEED_MORE:
                return found
            if result == ParseResult.BROKEN:
                raise PeerError(CloseCode(self.parser.error), self.parser.reason.decode())
            found += 1

    @property
    def unparsed(self):
        """Input that is not parsed yet (only after a `feed` with `limit`)."""
        return self.left
