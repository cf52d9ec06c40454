"""A session on a connection over datagrams, as Python code drives both: what an endpoint does with its carrier."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from mproxy._frames cimport Frame, frame_of_packet
from mproxy._parcel_reader cimport ParcelReader
from mproxy._ring cimport iovec, ring_used
from mproxy._session cimport EventKind, Session, SessionEvent
from mproxy.carrier._frame_parcels cimport FrameParcels
from mproxy.transport._connection cimport Connection


cdef tuple take_data(Session session, const SessionEvent *event, takes):
    """DATA, of which an application takes as much as it `takes` at once, while nothing is held for it."""
    cdef uint32_t count = 0
    if ring_used(&event.stream.state.inp) == 0 and event.length > 0:
        count = min(<uint32_t>takes(event.stream.state.id, event.length), event.length)
    part = (<const char *>event.data)[:count] if count else b""
    session.take(count)
    return event.kind, event.stream.state.id, part, bool(event.ends)


cdef class PyParcels(FrameParcels):
    """`takes(id, n)` as for PySession; `handle(events)` gets these. What they raise is kept in `error`."""

    cdef ParcelReader reader    # of the session's parcels
    cdef object takes           # how many bytes an application takes at once
    cdef object handle          # who acts on events
    cdef readonly object error  # the first exception of these two; None: there was none
    cdef readonly int refused   # parcels

    def __init__(self, Session session, Connection connection, takes, handle):
        FrameParcels.__init__(self, session, connection)
        self.reader = ParcelReader(session)
        self.takes = takes
        self.handle = handle

    def end(self):
        """The carrier is over."""
        self.close()
        self.reader = None

    def read_ordered(self, int64_t now):
        """Give the session what has come in order."""
        self.deliver_ordered(now)

    @property
    def under_way(self):
        """Frames noted, of which some are not settled."""
        return self.next - self.oldest

    cdef void deliver_ordered(self, int64_t now) noexcept:
        cdef iovec parts[2]
        cdef int i, n
        cdef uint32_t length = 0
        if self.session is None or self.error is not None:
            return
        n = self.connection.read_view(1 << 20, parts)
        data = b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(n)])
        length = <uint32_t>len(data)
        if length == 0:
            return
        self.connection.consume(length, now)
        self.session.receive(data, length, now)
        try:
            self.handle(self.collect(False))
        except Exception as error:
            self.error = error

    cdef bint deliver(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        cdef ParcelReader reader = self.reader
        if self.error is not None:
            return False
        reader.begin(data, length, now)
        try:
            self.handle(self.collect(True))
        except Exception as error:
            self.error = error
        self.refused += reader.refused
        return not reader.refused

    cdef list collect(self, bint of_parcel):
        """The events, as PySession.receive has them."""
        cdef Session session = self.session
        cdef ParcelReader reader = self.reader
        cdef SessionEvent event
        events = []
        while True:
            if of_parcel:
                reader.poll_event(&event)
            else:
                session.poll_event(&event)
            if event.kind == EventKind.NOTHING:
                return events
            if event.kind == EventKind.DATA:
                events.append(take_data(session, &event, self.takes))
            elif event.kind == EventKind.OPENED:
                event.stream.owner = <void *>self
                events.append((event.kind, event.stream.state.id, (<const char *>event.data)[:event.length]))
            elif event.kind == EventKind.RESET:
                events.append((event.kind, event.stream.state.id, event.code))
                session.streams.release(event.stream)
            elif event.kind == EventKind.DATAGRAM:
                events.append((event.kind, event.flow, event.code, (<const char *>event.data)[:event.length]))
            elif event.kind == EventKind.CLOSED:
                reason = (<const char *>event.data)[:event.length]
                events.append((event.kind, event.code, reason, bool(event.local)))
            else:
                events.append((event.kind,))


def give_parcel(one, bytes frames, int64_t now, takes):
    """Give a PySession the frames of one parcel; returns (events as of PySession.receive, whether it was refused)."""
    cdef Parcelled parcelled = Parcelled(one.session, takes)
    return parcelled.give(frames, now)


cdef class Parcelled:
    """A ParcelReader without a carrier."""

    cdef ParcelReader reader  # of the session's parcels
    cdef object takes         # how many bytes an application takes at once

    def __init__(self, Session session, takes):
        session.streams.unordered = True
        self.reader = ParcelReader(session)
        self.takes = takes

    cdef give(self, bytes frames, int64_t now):
        cdef SessionEvent event
        cdef Session session = self.reader.session
        events = []
        self.reader.begin(frames, <uint32_t>len(frames), now)
        while True:
            self.reader.poll_event(&event)
            if event.kind == EventKind.NOTHING:
                return events, bool(self.reader.refused)
            if event.kind == EventKind.DATA:
                events.append(take_data(session, &event, self.takes))
            else:
                reason = (<const char *>event.data)[:event.length]
                events.append((event.kind, event.code, reason, bool(event.local)))


def split_frames(bytes frames):
    """[(type, flags, stream, seq, ack, payload)] of a parcel, or what is wrong with it."""
    cdef const uint8_t *at = frames
    cdef const uint8_t *end = at + len(frames)
    cdef const uint8_t *payload
    cdef const char *wrong
    cdef Frame frame
    found = []
    while at < end:
        wrong = frame_of_packet(&at, end, &frame, &payload)
        if wrong != NULL:
            return wrong.decode()
        found.append((frame.type, frame.flags, frame.stream, frame.seq, frame.ack,
                      (<const char *>payload)[:frame.length]))
    return found
