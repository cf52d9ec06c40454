"""The parts of the datagram engine as Python sees them, and the ciphers below it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from mproxy._ring cimport iovec
from mproxy.ground._siphash cimport siphash13, siphash24
from mproxy.transport._congestion cimport AckSample, Congestion
from mproxy.emulator._path_emulator cimport Held, PathEmulator
from mproxy.transport._mtu cimport Mtu, mtu_acked, mtu_black_hole, mtu_init, mtu_lost, mtu_probe, mtu_too_big
from mproxy.transport._packet cimport (
    PACKET_HEADER_BYTES, Header, Seal, get_header, get_varint, packet_type, put_header, put_varint,
)
from mproxy.ground._ranges cimport (
    RangeSet, ranges_add, ranges_at, ranges_drop_below, ranges_drop_lowest, ranges_free, ranges_has, ranges_init,
    ranges_overlap, ranges_remove,
)
from mproxy.transport._rtt cimport Rtt, rtt_init, rtt_sample, rtt_timeout
from mproxy.transport._seal cimport TAG_BYTES, PacketKey
from mproxy.ground._aead cimport (
    AEAD_NONCE_BYTES, AEAD_TAG_BYTES, Aead, AeadCipher, aead_agrees, aead_begin, aead_end, aead_key_bytes, aead_pass,
    aead_start, aead_tag, aead_take_key,
)


# ---- packets

def pack_header(int kind, int flags, int control_bytes, uint64_t destination, uint64_t number, uint64_t offset):
    """The 28 bytes of a header."""
    cdef Header header = Header(kind, flags, control_bytes, destination, number, offset)
    cdef uint8_t out[PACKET_HEADER_BYTES]
    put_header(out, &header)
    return (<char *>out)[:PACKET_HEADER_BYTES]


def unpack_header(bytes packet):
    """(type, flags, control_bytes, destination, number, offset) of a packet; ValueError when it is none of ours."""
    cdef Header header
    if not packet_type(packet, <uint32_t>len(packet)):
        raise ValueError("not a packet")
    get_header(packet, &header)
    return header.type, header.flags, header.control_bytes, header.destination, header.number, header.offset


def pack_varint(uint64_t value):
    """`value` as 1 to 10 bytes."""
    cdef uint8_t out[10]
    return (<char *>out)[:put_varint(out, value)]


def unpack_varint(bytes data):
    """(value, length) at the start of `data`; length 0: cut off or too long."""
    cdef uint64_t value
    cdef const uint8_t *at = data
    cdef int length = get_varint(at, at + len(data), &value)
    return value, length


cdef class Ranges:
    """A set of numbers."""

    cdef RangeSet set  # the C set behind this view

    def __cinit__(self):
        ranges_init(&self.set)

    def __dealloc__(self):
        ranges_free(&self.set)

    def __iter__(self):
        """(start, end) of every range, the lowest first."""
        cdef uint32_t i
        return iter([(ranges_at(&self.set, i).start, ranges_at(&self.set, i).end) for i in range(self.set.count)])

    def __contains__(self, uint64_t number):
        return bool(ranges_has(&self.set, number))

    def __len__(self):
        """The number of ranges."""
        return self.set.count

    def add(self, uint64_t start, uint64_t end):
        """Put [start, end) in."""
        if ranges_add(&self.set, start, end) < 0:
            raise MemoryError

    def remove(self, uint64_t start, uint64_t end):
        """Take [start, end) out."""
        if ranges_remove(&self.set, start, end) < 0:
            raise MemoryError

    def drop_below(self, uint64_t number):
        """Forget every number below `number`."""
        ranges_drop_below(&self.set, number)

    def drop_lowest(self):
        """Forget the lowest range."""
        ranges_drop_lowest(&self.set)

    def overlaps(self, uint64_t start, uint64_t end):
        """Whether any number of [start, end) is in."""
        return bool(ranges_overlap(&self.set, start, end))


# ---- cookies

def sip(bytes key, bytes data, *, bint short=False):
    """SipHash-2-4 of `data` under a key of 16 bytes; `short`: SipHash-1-3."""
    if len(key) != 16:
        raise ValueError("the key has 16 bytes")
    if short:
        return siphash13(key, <const char *>data, len(data))
    return siphash24(key, <const char *>data, len(data))


# ---- the path

cdef class RttEstimator:
    """An estimator of round trips."""

    cdef Rtt rtt  # the C struct behind this view

    def __cinit__(self):
        rtt_init(&self.rtt)

    def sample(self, int64_t sample, int64_t ack_delay=0, int64_t now=0):
        """Take a measurement, microseconds."""
        rtt_sample(&self.rtt, sample, ack_delay, now)

    def timeout(self, int64_t ack_delay=0, int backoff=0):
        """The timeout in microseconds."""
        return rtt_timeout(&self.rtt, ack_delay, backoff)

    @property
    def smoothed(self):
        """SRTT in microseconds."""
        return self.rtt.smoothed

    @property
    def variation(self):
        """RTTVAR in microseconds."""
        return self.rtt.variation

    @property
    def minimum(self):
        """The least round trip of the last ten seconds, microseconds."""
        return self.rtt.minimum


cdef class MtuSearch:
    """A search for the packet size of a path."""

    cdef Mtu mtu  # the C struct behind this view

    def __init__(self, uint32_t base, uint32_t ceiling, int64_t now=0):
        mtu_init(&self.mtu, base, ceiling, now)

    @property
    def current(self):
        """Packets are at most so large."""
        return self.mtu.current

    def probe(self, int64_t now, uint64_t most=65535):
        """Size of a probe of at most `most` bytes to be sent now, 0: none."""
        return mtu_probe(&self.mtu, most, now)

    def acked(self, uint32_t size, int64_t now):
        """A probe came through."""
        mtu_acked(&self.mtu, size, now)

    def lost(self, uint32_t size, int64_t now):
        """A probe was lost."""
        mtu_lost(&self.mtu, size, now)

    def too_big(self, uint32_t size, int64_t now):
        """The host refuses this size."""
        mtu_too_big(&self.mtu, size, now)

    def black_hole(self, int64_t now):
        """Full packets vanish."""
        mtu_black_hole(&self.mtu, now)


def feed(Congestion controller, *, int64_t now, uint64_t acked_bytes, uint64_t lost_bytes=0,
         int64_t newest_lost_sent_at=0, int64_t rtt=0, uint64_t delivered=0, uint64_t prior_delivered=0,
         int64_t interval=0, bint burst=False, uint64_t in_flight=0, bint limited=True):
    """Give the controller one sample."""
    cdef AckSample sample
    sample.now = now
    sample.acked_bytes = acked_bytes
    sample.lost_bytes = lost_bytes
    sample.newest_lost_sent_at = newest_lost_sent_at
    sample.rtt = sample.smoothed_rtt = rtt
    sample.delivered = delivered
    sample.prior_delivered = prior_delivered
    sample.interval = interval
    sample.burst = burst
    sample.in_flight = sample.sent_in_flight = in_flight
    sample.lost_since = lost_bytes
    sample.limited = limited
    sample.packet_bytes = controller.packet_bytes
    controller.on_ack(&sample)


def time_out(Congestion controller, int64_t now, uint64_t in_flight=0):
    """Tell the controller of timeouts."""
    controller.on_timeout(in_flight, now)


# ---- a bad network

cdef class DrivenPathEmulator(PathEmulator):
    """A PathEmulator that Python puts packets into."""

    def send(self, bytes data, int64_t now, uint64_t client=0):
        """A packet enters."""
        self.put(data, <uint32_t>len(data), client, now)

    def arrived(self, int64_t now):
        """[(arrival, client, packet), ...] up to now."""
        cdef Held held
        result = []
        while self.take(now, &held):
            result.append((held.at, held.client, (<char *>held.data)[:held.length]))
            free(held.data)
        return result

    def next_arrival(self):
        """When the next packet arrives; None: nothing is on its way."""
        return self.heap[0].at if self.count else None


# ---- sealing

def pass_message(AeadCipher cipher, bint sealing, bytes key, bytes nonce, bytes header, list parts, bytes tag=b""):
    """(all parts sealed or opened, in place; the tag). ValueError: opened, it does not agree with `tag`."""
    cdef Aead aead
    cdef uint8_t own[16]
    cdef bytearray out = bytearray(b"".join(parts))
    cdef uint8_t *at = out
    cdef bint done
    memset(&aead, 0, sizeof(aead))
    if (len(key) != <int>aead_key_bytes(cipher) or len(nonce) != AEAD_NONCE_BYTES
            or not sealing and len(tag) != AEAD_TAG_BYTES):
        raise ValueError("a key, nonce or tag of another length")
    done = (aead_begin(&aead, cipher, sealing) and aead_take_key(&aead, key)
            and aead_start(&aead, nonce, header, len(header)))
    for part in parts:
        done = done and aead_pass(&aead, at, at, len(part))
        at += len(part)
    done = done and (aead_tag(&aead, own) if sealing else aead_agrees(&aead, tag))
    aead_end(&aead)
    if not done:
        raise ValueError("not authentic")
    return bytes(out), own[:AEAD_TAG_BYTES] if sealing else tag


cdef class DrivenKey(PacketKey):
    """A PacketKey that seals and opens for Python."""

    def seal(self, uint64_t number, bytes header, bytes data):
        """`data` sealed, the tag behind; None when the number must not be used."""
        cdef Seal functions
        cdef iovec part
        cdef bytearray out = bytearray(len(data) + TAG_BYTES)
        part.iov_base = <char *>data
        part.iov_len = len(data)
        self.fill(&functions)
        if functions.seal(functions.context, number, header, <uint32_t>len(header), &part, 1, out) < 0:
            return None
        return bytes(out)

    def open(self, uint64_t number, bytes header, bytes data):
        """What `seal` was given; None when it is not authentic."""
        cdef Seal functions
        cdef iovec part
        cdef bytearray out = bytearray(max(0, len(data) - TAG_BYTES))
        part.iov_base = <char *>out
        part.iov_len = len(out)
        self.fill(&functions)
        if functions.open(functions.context, number, header, <uint32_t>len(header), data, <uint32_t>len(data),
                          &part, 1) < 0:
            return None
        return bytes(out)
