"""One stream: two independent directions, each with offsets, a ring and an end.

Offsets of a direction count its bytes from 0; its end (FIN) takes one offset behind the last byte. The state is plain
C without a pointer into a Python object. Contract of each function: _stream.pyx.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._ring cimport Ring


cdef enum Queue:
    NOT_QUEUED
    ACK_LATER             # nothing to send but an ack that can wait for the next heartbeat
    URGENT                # little queued, or a control frame
    BULK                  # much queued: takes turns with other bulk


cdef struct Stream:
    # identity
    uint32_t id           # never 0
    void *owner           # the I/O layer's record of the application socket; while set, the stream is not freed
    # application -> carrier.   out.head + out_done <= sent, peak <= out.tail + out_ended
    Ring out              # head: acknowledged by the peer; tail: written by the application
    uint64_t sent         # next offset to plan for this carrier
    uint64_t peak         # every offset below has left on some carrier
    bint out_ended        # the application ended its direction: FIN has offset out.tail
    bint out_done         # ... and the peer acknowledged it
    bint blocked          # the application has more to give than the stream may hold
    # carrier -> application.   acked <= inp.head + in_done <= inp.tail + in_ended
    Ring inp              # head: handed to the application; tail: received
    uint64_t acked        # last ack put on a carrier
    uint64_t want_ack_at  # acknowledge at once when the application took everything below; 0: not asked
    bint in_ended         # FIN received; its offset is inp.tail
    bint in_done          # ... and handed to the application
    # life
    uint8_t *target       # OPEN not yet confirmed: its payload, ours; NULL: the default daemon
    uint16_t target_bytes  # length of `target`
    bint open_due         # OPEN must still be put on this carrier
    bint confirmed        # cproxy: the peer has shown that it knows the stream
    bint unheard          # ended before the peer can have heard of it: nothing to remember
    bint ack_due          # a bare ACK is owed
    bint aborted          # ended by a reset, ours or the peer's; no byte moves any more
    bint reset_due        # RESET must still be put on this carrier
    bint reset_ours       # the reset began on this side: the peer has to be told
    bint deaf             # the application takes no more: what the peer sends is acknowledged and goes nowhere
    bint drain_reset      # the application vanished: reset once all that it wrote is acknowledged
    uint8_t reset_code    # a ResetCode
    bint retired          # in the session's list of finished streams
    uint64_t retire_after  # may be forgotten once a heartbeat with a higher number is echoed
    uint64_t listed_epoch  # last carrier on which the peer listed the stream
    uint16_t planned      # frames of the batch being sent that point into `out` or `target`: both must stay
    # links
    Queue queue           # which send queue it is in
    Stream *queue_next    # that queue
    Stream *queue_prev    # that queue
    Stream *all_next      # every stream of the session, oldest first; the finished ones in their own list
    Stream *all_prev      # the same list
    bint has_space        # in the session's list of streams whose application may be read again
    Stream *space_next    # that list


cdef struct StreamList:
    Stream *first         # oldest
    Stream *last          # newest


cdef struct StreamTable:
    Stream **slots   # open addressing, linear probing
    uint32_t size         # number of slots: a power of two, or 0
    uint32_t count        # streams in it; at most half of `size`


cdef Stream *stream_new(uint32_t id, size_t *account) noexcept nogil
cdef void stream_free(Stream *stream) noexcept nogil

cdef uint64_t stream_unsent(const Stream *stream) noexcept nogil
cdef bint stream_acked(const Stream *stream) noexcept nogil
cdef int stream_take_ack(Stream *stream, uint64_t ack) noexcept nogil
cdef int stream_rewind(Stream *stream, uint64_t received) noexcept nogil
cdef int stream_receive(
    const Stream *stream, uint64_t seq, uint32_t length, uint32_t window, uint32_t *skip) noexcept nogil
cdef bint stream_finished(const Stream *stream) noexcept nogil

cdef Stream *table_find(const StreamTable *table, uint32_t id) noexcept nogil
cdef int table_add(StreamTable *table, Stream *stream) noexcept nogil
cdef void table_remove(StreamTable *table, const Stream *stream) noexcept nogil

cdef void table_clear(StreamTable *table) noexcept nogil

cdef void queue_push(StreamList *queue, Stream *stream, Queue kind) noexcept nogil
cdef void queue_push_front(StreamList *queue, Stream *stream, Queue kind) noexcept nogil
cdef void queue_remove(StreamList *queue, Stream *stream) noexcept nogil
cdef void all_push(StreamList *streams, Stream *stream) noexcept nogil
cdef void all_remove(StreamList *streams, Stream *stream) noexcept nogil
