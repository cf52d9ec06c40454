"""DATA packets in and out: everything of an open connection but its states, its addresses and its end. What a
Connection has as `channel`.

Life of an outbound byte: the application writes into `out.ring`; `fill` asks the controller, the pacer and the peer's
credit; `build` writes the header and control messages and has the bytes sealed from the ring straight into the packet;
`recovery` remembers what the packet carried until it is acknowledged or lost.
Life of an inbound byte: `take` opens the packet straight into its place in `inp.ring`, in order or not; it is the
application's when everything before it has come.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.transport._acks cimport Acks
from mproxy.transport._congestion cimport Congestion
from mproxy.transport._inflow cimport Inflow
from mproxy.transport._mtu cimport Mtu
from mproxy.transport._outflow cimport Chunk, Outflow
from mproxy.transport._pacer cimport Pacer
from mproxy.transport._parcels cimport Parcel, Parcels
from mproxy.transport._packet cimport Header, PeerAddress, Seal
from mproxy.transport._recovery cimport Recovery


cdef struct Transmit:
    uint8_t *data           # in: where to write packets
    uint32_t room           # in: its size; at least packet_bytes, and up to 64 KiB are used at once
    uint32_t most           # in: most packets in one run (UDP_SEGMENT takes 64; 1 where GSO does not work)
    uint32_t length         # out: bytes written
    uint32_t segment_bytes  # out: size of each packet but the last, which may be shorter
    uint32_t count          # out: packets
    const PeerAddress *to   # out: the destination, valid until the next call


cdef struct PlannedPacket:
    Chunk chunk             # data of the packet
    uint32_t control_bytes  # control messages, already written
    uint32_t parcel_bytes   # of the parcel; 0: there is none
    uint32_t flags          # SENT_*; 0: it needs no ack
    uint32_t size           # of a full packet


cpdef enum Taken:
    ACCEPTED     # new and authentic
    REPEATED     # seen before
    CORRUPT      # not authentic
    WRONG        # authentic, but against the protocol: the connection ends
    NO_ROOM      # no memory: treated as if it had not arrived


cdef class Channel:
    # both ends
    cdef readonly uint64_t local_id      # destination id of packets to us
    cdef readonly uint64_t remote_id     # destination id of packets to the peer
    cdef Seal sending                    # of our packets
    cdef Seal receiving                  # of the peer's
    cdef bint go_back                    # recovery gbn
    # halves of the stream
    cdef Outflow out                     # what we send
    cdef Inflow inp                      # what the peer sends
    # parts
    cdef Acks acks                       # of the peer's packets
    cdef readonly Recovery recovery      # of ours
    cdef readonly Congestion congestion  # of ours
    cdef Pacer pacer                     # of ours
    cdef Mtu mtu                         # largest packet of the path
    cdef int64_t peer_delay_us           # longest time that the peer holds back an ack
    cdef readonly Parcels parcels        # that travel in packets beside the stream; None: there are none
    # what is to be sent
    cdef Parcel *parcel                  # of the packet that is being built
    cdef bint parcels_wait               # there may be one for the next packet
    cdef int probes                      # packets that may leave regardless of the window
    cdef bint on_trial                   # packets are built for an address that is not proven: small, and few
    cdef bint ping_due                   # ask for a sign of life
    cdef bint credit_due                 # announce the credit in a packet that gets acknowledged
    cdef uint32_t unasked                # packets sent since one asked for an ack
    cdef uint64_t asked                  # number of the packet that asked
    cdef bint starved                    # the last `fill` ended for want of data, not of permission
    cdef int64_t pace_at                 # when the pacer lets the next run leave; NEVER: nothing waits for it
    # outcome of `take`, whatever it returned
    cdef bint newest                     # the packet has the highest number so far
    cdef uint64_t came_to                # the id in its header
    cdef bint eliciting                  # it wants an ack
    cdef bint answered                   # it acknowledged something
    cdef int64_t woken_at                # the last one after timeouts in vain at which something was repeated
    cdef bint challenged                 # it asks whether we are where it went: PATH_CHALLENGE
    cdef uint64_t challenge              # with these eight bytes
    cdef bint responded                  # it answers such a question: PATH_RESPONSE
    cdef uint64_t response               # with these
    cdef const uint8_t *carried          # the parcel it carries; NULL: none
    cdef uint32_t carried_bytes          # its length
    cdef const uint8_t *close            # the peer gives up: code, length of the reason, reason; NULL: it does not
    cdef int calm_turns                  # in a row, with next to nothing under way
    # the end
    cdef bint peer_done                  # the peer has everything and will not answer much longer
    # counters
    cdef readonly uint64_t in_packets    # accepted
    cdef readonly uint64_t in_bytes      # of those packets
    cdef readonly uint64_t out_packets   # sent, of all kinds
    cdef readonly uint64_t out_bytes     # of those packets
    cdef readonly uint64_t corrupt       # packets not authentic
    cdef readonly uint64_t repeated      # packets seen before
    cdef readonly uint64_t discarded     # gbn: out of order
    cdef readonly uint64_t acks_sent     # acks

    cdef int begin(self, uint64_t first_out, uint64_t first_in, bint go_back, int64_t now) noexcept
    cdef Taken take(self, uint8_t *packet, uint32_t length, int64_t now) noexcept
    cdef int fill(self, Transmit *out, int64_t now) noexcept
    cdef uint32_t build_bare(self, Transmit *out, uint32_t control_bytes, uint32_t flags, int64_t now) noexcept
    cdef void lose(self, int64_t now) noexcept
    cdef void time_out(self, int64_t now) noexcept
    cdef int64_t wake_at(self) noexcept
    cdef int64_t timeout_us(self, int backoff) noexcept
    cdef int build_clear(self, Transmit *out, int kind, uint64_t number, uint32_t control_bytes) noexcept
    cdef uint64_t expected(self) noexcept
    cdef void carry(self, Parcels parcels) noexcept
    cdef uint64_t say_again(self, uint64_t low, uint64_t high, uint32_t most, int64_t before) noexcept
    cdef void leave_path(self, uint64_t trial_from, int64_t now) noexcept
    cdef void hurry(self, int64_t now) noexcept
    cdef void repeat_oldest(self, int64_t before) noexcept
    cdef void woken(self, int64_t now) noexcept
    cdef void tidy(self) noexcept
    cdef dict statistics(self)

    # inner
    cdef int open_parts(self, const Header *header, uint8_t *packet, uint32_t length, iovec *parts) noexcept
    cdef Taken take_data(self, const Header *header, const uint8_t *data, uint32_t length, bint placed) noexcept
    cdef Taken take_control(self, const uint8_t *p, const uint8_t *end, int64_t now) noexcept
    cdef int take_ack(self, const uint8_t *p, const uint8_t *end, int64_t now) noexcept
    cdef void after_acks(self, int64_t now) noexcept
    cdef uint32_t build(self, uint8_t *p, PlannedPacket *plan, int64_t now) noexcept
    cdef void write_control(self, uint8_t *p, PlannedPacket *plan, int64_t now) noexcept
    cdef int add_parcel(self, uint8_t *control, PlannedPacket *plan, iovec *parts) noexcept
    cdef bint pick(self, PlannedPacket *plan) noexcept
    cdef bint should_ask(self, const PlannedPacket *plan) noexcept
    cdef uint32_t fill_probe(self, Transmit *out, int64_t now) noexcept
    cdef Taken take_close(self, const uint8_t *p) noexcept
    cdef int64_t late(self, int64_t now) noexcept
    cdef bint may_send(self, uint32_t size, bint is_first, int64_t now) noexcept
    cdef bint has_more(self) noexcept
    cdef void note_end(self, int64_t now) noexcept
