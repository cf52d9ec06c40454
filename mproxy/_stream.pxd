"""One stream: two independent directions, each with offsets, a ring and an end.

Offsets of a direction count its bytes from 0; its end (FIN) takes one offset after the last byte. What must outlive
the process is the stream's StreamState (_state.pxd); a Stream is what this process knows besides. Contract of each
function: _stream.pyx.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._disorder cimport Disorder
from mproxy._state cimport StreamState
from mproxy.ground._list cimport ListLink


cdef enum Queue:
    NOT_QUEUED
    ACK_LATER             # nothing to send but an ack that can wait for the next heartbeat
    URGENT                # little to send, or a frame without data
    BULK                  # much to send: takes turns with other bulk


cdef struct Stream:
    StreamState *state    # offsets, rings, flags
    void *owner           # the I/O layer's record of the application socket; while set, the stream is not freed
    int64_t began_at      # when the I/O layer had the application; 0: not yet
    # of this carrier
    Disorder *disorder    # what is out of order on a carrier that does not keep order; NULL: nothing ever was
    uint64_t listed_epoch  # last carrier on which the peer listed the stream
    uint64_t want_ack_at  # acknowledge at once when the application has taken everything below; 0: not asked
    uint64_t retire_after  # finished: may be forgotten once a heartbeat with a higher number is echoed
    uint16_t planned      # frames of the batch being sent that point into `out`: it must stay
    uint8_t ack_due       # a bare ACK is owed
    uint8_t reset_due     # RESET must still be put on this carrier
    uint8_t blocked       # the application has more to give than the stream may hold
    uint8_t has_space     # in the session's list of streams whose application may be read again
    # places
    uint8_t queue         # which send queue it is in: a Queue
    ListLink in_queue     # that queue
    ListLink in_all       # every stream of the session, oldest first; the finished ones in their own list
    ListLink in_space     # the list of `has_space`


cdef struct StreamTable:
    Stream **slots   # open addressing, linear probing
    uint32_t size         # number of slots: a power of two, or 0
    uint32_t count        # streams in it; at most half of `size`


cdef Stream *stream_new(StreamState *state) noexcept nogil
cdef void stream_free(Stream *stream, size_t *account) noexcept nogil

cdef uint64_t stream_unsent(const StreamState *state) noexcept nogil
cdef bint stream_acked(const StreamState *state) noexcept nogil
cdef int stream_take_ack(StreamState *state, uint64_t ack, size_t *account) noexcept nogil
cdef int stream_rewind(StreamState *state, uint64_t received) noexcept nogil
cdef int stream_receive(
    const StreamState *state, uint64_t seq, uint32_t length, uint32_t window, uint32_t *skip) noexcept nogil
cdef void stream_end_arrived(StreamState *state) noexcept nogil
cdef void stream_abort(StreamState *state, int code, bint tell_peer) noexcept nogil
cdef void stream_mend(StreamState *state, size_t *account) noexcept nogil
cdef Disorder *stream_disorder(Stream *stream) noexcept nogil
cdef void stream_restore_order(Stream *stream, uint64_t *early_held, size_t *account) noexcept nogil
cdef void restore_order(Stream *stream, uint64_t *early_held, size_t *account) noexcept nogil
cdef bint stream_finished(const Stream *stream) noexcept nogil

cdef Stream *table_find(const StreamTable *table, uint32_t id) noexcept nogil
cdef int table_add(StreamTable *table, Stream *stream) noexcept nogil
cdef void table_remove(StreamTable *table, const Stream *stream) noexcept nogil

cdef void table_clear(StreamTable *table) noexcept nogil

cdef uint8_t *list_streams(const Stream *stream, uint8_t *at) noexcept
