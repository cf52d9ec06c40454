"""What goes on the carrier next: the send queues, and the batch of frames being sent.

Life of an outbound byte: the application's bytes lie in the stream's ring -> `ready` puts the stream in a queue ->
`poll` plans frames (header built, payload left in the ring) and describes them as iovecs -> the caller's one
`sendmsg` -> `sent` counts them off -> the peer's ack releases them from the ring.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy._datagrams cimport Datagrams
from mproxy._ring cimport Ring, iovec
from mproxy._stream cimport Stream
from mproxy.ground._list cimport LinkedList


cdef enum:
    MAX_PLANS = 128            # frames of one batch
    MAX_IOVECS = 512           # for each: header, at most two ring segments, and bytes that have left the ring
    SMALL_BYTES = 16384        # a stream with no more than this unsent goes before bulk
    URGENT_RUN_BYTES = 131072  # bytes of such streams after which a bulk stream gets a turn
    DATAGRAM_RUN_BYTES = 32768  # the same where the datagrams are as much bulk
    LEAST_FRAME_BYTES = 4096   # least payload for a bulk stream, however little room the batch has
    BULK_FRAME_BYTES = 262144  # most payload of one DATA frame


cdef struct PlannedFrame:
    Stream *stream            # whose frame; NULL: bytes of the control ring, or of a datagram
    uint64_t seq              # DATA: first offset of the payload; control, datagram: offset in the ring
    uint32_t length           # payload bytes (control: all bytes)
    bint of_ring              # the payload is in the stream's ring (DATA), else among the targets (OPEN)
    bint of_datagram          # the payload is in the queue of datagrams
    bint ends                 # carries FIN
    uint8_t header_bytes      # 28, or 0 for control bytes
    uint8_t header[28]        # encoded when planned


cdef class Transmitter:
    cdef LinkedList urgent         # frames without data and small data, in order of arrival
    cdef LinkedList bulk           # much data, in turns
    cdef LinkedList later          # acks that wait for the next heartbeat
    cdef const Ring *targets       # the session's: payloads of OPEN frames
    cdef size_t *account           # bytes of storage of the session's rings; NULL: not counted
    cdef Datagrams datagrams       # those of applications
    cdef bint was_datagram         # what was planned last, unless it was bulk
    cdef Ring control              # encoded frames of the session itself; they go first
    cdef uint64_t control_planned  # control bytes below are in the batch
    cdef PlannedFrame *plans       # the batch: MAX_PLANS of them, borrowed while there is one; else NULL
    cdef int first                 # first plan not wholly sent
    cdef int count                 # plans in the batch
    cdef size_t first_sent         # bytes of plan `first` already sent
    cdef size_t batch_bytes        # bytes of the batch still to be sent
    cdef uint32_t urgent_run       # bytes planned for urgent streams since the last bulk turn
    cdef uint32_t peer_window      # most bytes of one stream beyond its ack
    cdef uint32_t frame_bytes      # most payload of the next DATA frame; less than usual where each packet has its own
    cdef uint64_t overtakes        # small frames planned while bulk waited, ever
    cdef uint64_t frames           # frames planned, ever
    cdef uint64_t resent_bytes     # payload bytes planned below `peak`: repetitions

    cdef void ready(self, Stream *stream) noexcept
    cdef void ack_later(self, Stream *stream) noexcept
    cdef void acks_now(self) noexcept
    cdef void dequeue(self, Stream *stream) noexcept
    cdef int add_control(self, const uint8_t *data, size_t length) noexcept
    cdef bint has_work(self, bint streams_too) noexcept
    cdef bint bulk_waits(self) noexcept
    cdef bint is_datagram_next(self, bint bulk_too) noexcept
    cdef void plan_datagram(self) noexcept
    cdef int poll(self, size_t most, bint streams_too, bint bulk_too, iovec *out) noexcept
    cdef void sent(self, size_t length) noexcept
    cdef void carrier_lost(self) noexcept
    cdef bint begin_batch(self) noexcept
    cdef void end_batch(self) noexcept

    cdef void plan_control(self) noexcept
    cdef void plan_next_stream(self, size_t room, bint bulk_too) noexcept
    cdef void plan_stream(self, Stream *stream, size_t most) noexcept
    cdef void note_planned(self, const PlannedFrame *plan) noexcept
    cdef void plan_frame(self, Stream *stream, int type, int flags, uint64_t seq, uint32_t length) noexcept


cdef int view_payload(const PlannedFrame *plan, iovec *out) noexcept
