"""Frame codec: header to bytes, and a parser for whatever the carrier brings.

The parser never buffers application bytes: DATA payloads are passed on in the parts in which they arrived, straight
from the caller's buffer. Frames of all other types are small (bounded before anything is stored) and passed on whole.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy cimport _wire


cdef struct Frame:
    uint8_t type      # a FrameType
    uint8_t flags     # FrameFlag bits
    uint32_t stream   # 0: the session itself
    uint32_t length   # bytes of payload
    uint64_t seq      # meaning by type; DATA: offset of the first payload byte
    uint64_t ack      # stream frames: every byte below was handed to the application


cdef enum ParseResult:
    NEED_MORE    # input used up
    WHOLE_FRAME  # `frame` complete, its payload at `payload` (length bytes)
    DATA_PART    # `payload` holds the next `part` bytes of a DATA frame
    BROKEN       # `error` says why; it stays broken


cdef struct Parser:
    Frame frame              # the frame being read, valid once its header is complete
    uint32_t have            # bytes of the frame that were kept
    uint32_t need            # bytes of it to be kept before it can be passed on
    uint32_t remaining       # DATA: payload bytes still to come
    bint in_data             # inside a DATA payload
    const uint8_t *payload   # payload passed on; valid until the next call
    uint32_t part            # DATA_PART: how many bytes; 0 for an empty DATA frame
    uint32_t part_offset     # DATA_PART: how far into the frame's payload it begins
    int error                # BROKEN: a CloseCode
    const char *reason       # BROKEN: text for the log and the peer
    uint8_t header[28]       # of the frame being read, as far as it has come
    uint8_t *kept            # the payload of a frame that came in pieces; NULL: none does


cdef void parser_init(Parser *parser) noexcept nogil
cdef void parser_free(Parser *parser) noexcept nogil
cdef ParseResult parser_next(Parser *parser, const uint8_t **data, const uint8_t *end) noexcept nogil
cdef const char *frame_of_packet(const uint8_t **data, const uint8_t *end, Frame *frame,
                                 const uint8_t **payload) noexcept nogil
cdef void encode_header(uint8_t *out, const Frame *frame) noexcept nogil


cdef class FrameParser:
    cdef Parser parser  # the C parser behind this view
    cdef bytes left     # input not yet parsed
