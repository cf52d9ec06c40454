"""Carriers as Python drives them in the endpoint's place, and a kind that carries bytes within this process."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stddef cimport size_t
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.carrier._carrier cimport Carrier, PathReport
from mproxy.carrier._flight cimport Flight, FlightReport, FlightState, flight_bound, flight_idle, flight_init
from mproxy.io._loop cimport Loop, Work


cdef void count_wake(Work *work) noexcept:
    (<DrivenCarrier>work.owner).wakes += 1


cdef class DrivenCarrier:
    """A carrier of any kind, and what an endpoint does with one."""

    cdef Carrier carrier     # that is driven
    cdef Work work           # what it queues
    cdef readonly int wakes  # how often that ran

    def __init__(self, Carrier carrier):
        self.carrier = carrier
        self.work.run = count_wake
        self.work.owner = <void *>self

    @property
    def marks(self):
        """(readable, writable, holding, over)."""
        carrier = self.carrier
        return bool(carrier.readable), bool(carrier.writable), bool(carrier.holding), bool(carrier.over)

    @property
    def why(self):
        return self.carrier.why

    def begin(self):
        """Take it over."""
        self.carrier.begin(&self.work)

    def receive(self, size_t most):
        """Bytes; None when nothing has come."""
        cdef const uint8_t *data
        cdef long length = self.carrier.receive(most, &data)
        return None if length < 0 else (<const char *>data)[:length]

    def room(self, bint bulk_waits=False):
        """(bytes to offer, whether bulk too)."""
        cdef bint bulk_too
        most = self.carrier.room(bulk_waits, &bulk_too)
        return most, bool(bulk_too)

    def send(self, *parts):
        """Offer the bytes of all parts; returns how many were taken."""
        cdef iovec described[64]
        for i, part in enumerate(parts):
            described[i].iov_base = PyBytes_AS_STRING(part)
            described[i].iov_len = len(part)
        return self.carrier.send(described, len(parts), 0)

    def idle(self):
        self.carrier.idle()

    def bound(self, bint on):
        self.carrier.bound(on)

    def report(self):
        """The PathReport as a dict, or None."""
        cdef PathReport path
        return path if self.carrier.report(&path) else None

    def close(self, bint abort):
        self.carrier.close(abort)


cdef class MemoryCarrier(Carrier):
    """One end of a pair. It takes `bound_bytes` that the other end has not received yet, `batch` of them at a time."""

    cdef MemoryCarrier other     # the other end; None: not joined, or closed
    cdef object arrived          # bytearray: sent by the other end, and not received yet
    cdef bytes lent              # what `receive` showed last
    cdef str ending              # why nothing comes behind `arrived`; None: something may
    cdef size_t bound_bytes      # most in `arrived` of the other end
    cdef size_t batch            # what `room` says
    cdef readonly list closed    # arguments of `close`
    cdef readonly list bounds    # arguments of `bound`

    def __init__(self, Loop loop, size_t bound_bytes=65536, size_t batch=16384):
        self.loop = loop
        self.arrived = bytearray()
        self.bound_bytes, self.batch = bound_bytes, batch
        self.closed, self.bounds = [], []

    def join(self, MemoryCarrier other):
        """Make a pair of the two."""
        self.other, other.other = other, self

    def lose(self, why):
        """As when a path breaks: both ends are over."""
        for end in (self, self.other):
            (<MemoryCarrier>end).finish(why)

    cdef void finish(self, str why) noexcept:
        self.ending = self.ending or why
        self.wake()

    cdef void wake(self) noexcept:
        self.readable = True
        if self.work != NULL:
            self.loop.schedule(self.work)

    cdef void begin(self, Work *work) noexcept:
        self.work = work
        self.readable = self.writable = True

    cdef long receive(self, size_t most, const uint8_t **data) noexcept:
        self.readable = False
        if not self.arrived:
            if self.ending is not None:
                self.end(self.ending)
            return -1
        self.lent = bytes(self.arrived[:most])
        del self.arrived[:most]
        self.readable = len(self.arrived) > 0 or self.ending is not None
        data[0] = <const uint8_t *>PyBytes_AS_STRING(self.lent)
        if self.other is not None and self.other.work != NULL and not self.other.writable:
            self.other.writable = True
            self.loop.schedule(self.other.work)
        return len(self.lent)

    cdef size_t room(self, bint bulk_waits, bint *bulk_too) noexcept:
        bulk_too[0] = True
        return self.batch

    cdef size_t send(self, iovec *parts, int count, uint64_t overtakes) noexcept:
        cdef int i
        cdef size_t taken = 0, offered = 0, length
        for i in range(count):
            length = 0
            if self.other is not None and self.ending is None:
                length = min(parts[i].iov_len, self.bound_bytes - <size_t>len(self.other.arrived))
                self.other.arrived += (<const char *>parts[i].iov_base)[:length]
            offered += parts[i].iov_len
            taken += length
        if taken < offered:
            self.writable = False
        if self.other is not None and taken > 0:
            self.other.wake()
        return taken

    cdef void bound(self, bint on) noexcept:
        self.bounds.append(bool(on))

    cdef void close(self, bint abort) noexcept:
        self.closed.append(bool(abort))
        self.work = NULL
        if self.other is not None:
            other, self.other = self.other, None
            (<MemoryCarrier>other).other = None
            if abort:
                (<MemoryCarrier>other).arrived.clear()
            (<MemoryCarrier>other).finish("closed by the peer")

    def describe(self):
        """Its kind."""
        return {"kind": "memory"}


FLIGHT_STATES = {
    FlightState.STARTING: "starting", FlightState.FREE: "free", FlightState.FULL: "full",
    FlightState.PROBING: "probing",
}


cdef class DrivenFlight:
    """What may be on its way, as a pace asks for it."""

    cdef Flight flight

    def __init__(self):
        flight_init(&self.flight)

    def bound(self, int64_t now, uint64_t acked, int64_t unacked, int64_t rtt, int64_t least_rtt, bint shared=False,
              uint32_t segment=1448):
        """Bytes that may be unacknowledged; None: no bound."""
        cdef FlightReport report = FlightReport(acked, unacked, rtt, least_rtt, segment, 10 * segment, shared)
        cdef int64_t bound = flight_bound(&self.flight, &report, now)
        return None if bound == INT64_MAX else bound

    def idle(self):
        flight_idle(&self.flight)

    @property
    def state(self):
        return FLIGHT_STATES[self.flight.state]

    @property
    def rate(self):
        return self.flight.rate
