"""A session's frames on a connection over datagrams: DATA and ACK frames as parcels, all others in its ordered stream.

Sending: `prepare` moves encoded frames of the session itself into the stream; `fill` plans frames of streams for one
packet, payload left in the streams' rings, and notes what each DATA and ACK frame said. When the packet is lost the
stream is asked again for that: no copy of a frame is kept.
Receiving: `take` gives the session first what has come in order, then the parcel.

    parcel      after 8, then whole frames

after: how much of the sender's ordered stream the session must have read before: the RESUME list, and the OPEN of each
stream that the parcel has a frame of. A parcel that comes too early is refused, hence sent again.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._session cimport Session
from mproxy._stream cimport Stream
from mproxy._transmit cimport PlannedFrame
from mproxy.transport._connection cimport Connection
from mproxy.transport._parcels cimport Parcel, Parcels


cdef enum:
    AFTER_BYTES = 8       # of a parcel, before its frames
    MOST_FRAMES = 14      # of one parcel
    LEAST_PAYLOAD = 64    # of a packet's rest that is worth a frame
    FIRST_RECORDS = 16    # places at the start, and at rest
    DATAGRAM_BYTES = 8192  # most of datagrams in one parcel


cdef struct FrameRecord:
    uint64_t seq          # DATA: first offset
    uint64_t end          # DATA: offset behind the last, FIN included; ACK: seq
    uint32_t stream       # whose frame
    uint16_t more         # further records of the same parcel
    bint settled          # it is known what became of it


cdef class FrameParcels(Parcels):
    cdef Session session          # whose frames; None: the carrier is over
    cdef bint held                # none of a stream may leave: the peer is where it may not be
    cdef Connection connection    # what carries them
    cdef uint64_t base            # ordered stream up to the end of our RESUME list
    cdef bint based               # `base` is known
    cdef uint8_t after[8]         # of the parcel made last, encoded
    cdef uint32_t copied          # bytes of its datagrams, which are in `copies`
    # what was sent, by number, in a ring
    cdef FrameRecord *records     # mask + 1 of them
    cdef uint64_t mask            # places, less one
    cdef uint64_t oldest          # every record below is settled
    cdef uint64_t next            # number of the next record

    cdef void close(self) noexcept
    cdef void rest(self) noexcept
    cdef bint deliver(self, const uint8_t *data, uint32_t length, int64_t now) noexcept
    cdef void deliver_ordered(self, int64_t now) noexcept

    # inner
    cdef bint write(self, const uint8_t *data, uint32_t length) noexcept
    cdef uint32_t room_in_order(self) noexcept
    cdef uint64_t add_plans(self, int first, Parcel *parcel) noexcept
    cdef uint64_t add_frame(self, PlannedFrame *plan, Parcel *parcel) noexcept
    cdef bint takes_datagram(self, uint32_t room) noexcept
    cdef void add_datagram(self, PlannedFrame *plan, Parcel *parcel) noexcept
    cdef void add_ordered(self, PlannedFrame *plan) noexcept
    cdef bint record(self, uint32_t stream, uint64_t seq, uint64_t end) noexcept
    cdef bint resize(self, uint64_t places) noexcept
    cdef bint settle(self, uint64_t tag, bint lost) noexcept
    cdef void say_again(self, Stream *stream, const FrameRecord *entry) noexcept
