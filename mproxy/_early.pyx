"""Early words: OPEN and the first bytes of a stream behind HELLO, in one flight. Contract: _early.pxd."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from mproxy._frames cimport Frame, encode_header
from mproxy._ring cimport Ring, iovec, ring_used, ring_view
from mproxy._state cimport StreamState
from mproxy._stream cimport Stream
from mproxy._streams cimport StreamSet
from mproxy._wire cimport HEADER_BYTES, FrameType


cdef enum:
    EARLY_BYTES = 1024             # of the application: every peer holds more (MIN_WINDOW_BYTES), and it is one packet


cdef Stream *early_stream(StreamSet streams) noexcept:
    """The one stream that there is, if nothing was said of it yet; else NULL."""
    cdef Stream *stream = <Stream *>streams.open_list.first
    if streams.open_list.count != 1 or not stream.state.open_due or stream.state.aborted or stream.state.peak > 0:
        return NULL
    return stream


cdef uint8_t *put_frame(
        uint8_t *at, int type, uint32_t id, const Ring *ring, uint64_t offset, uint32_t length) noexcept:
    """Encode a frame whose payload is in a ring; returns where the next one goes."""
    cdef Frame frame
    cdef iovec parts[2]
    cdef int i, n
    frame.type = <uint8_t>type
    frame.flags = 0
    frame.stream = id
    frame.length = length
    frame.seq = offset if type == FrameType.DATA else 0
    frame.ack = 0
    encode_header(at, &frame)
    at += HEADER_BYTES
    n = ring_view(ring, offset, length, parts) if length else 0
    for i in range(n):
        memcpy(at, parts[i].iov_base, parts[i].iov_len)
        at += parts[i].iov_len
    return at


def early_words(StreamSet streams not None):
    """(frames, how many bytes of the application they hold); (b"", 0) unless the session has one stream, and that is
    new."""
    cdef Stream *stream = early_stream(streams)
    cdef const StreamState *state
    cdef uint32_t length
    cdef uint8_t *at
    if stream == NULL:
        return b"", 0
    state = stream.state
    length = min(<uint32_t>EARLY_BYTES, ring_used(&state.out))
    words = PyBytes_FromStringAndSize(
        NULL, HEADER_BYTES + state.target_bytes + (HEADER_BYTES + length if length else 0))
    at = put_frame(<uint8_t *>PyBytes_AS_STRING(words), FrameType.OPEN, state.id, &streams.lasting.targets,
                   state.target, state.target_bytes)
    if length:
        put_frame(at, FrameType.DATA, state.id, &state.out, state.out.head, length)
    return words, length


def note_early(StreamSet streams not None, uint32_t length, uint64_t epoch):
    """The HELLO of this epoch was answered, and OPEN and `length` bytes went with it: on its carrier they are not said
    again. False: the stream has ended meanwhile."""
    cdef Stream *stream = early_stream(streams)
    if stream == NULL:
        return False
    stream.state.open_due = False
    stream.state.sent = stream.state.peak = stream.state.out.head + length
    stream.listed_epoch = epoch  # its list cannot have the stream, and yet it is known there
    return True
