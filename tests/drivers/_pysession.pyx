"""The session as Python code drives it: an application is a name for how many bytes it is willing to take.

Streams are named by their id. What the I/O layer does with sockets is done here with bytes: `receive` gives the
session what a carrier brought and hands the streams' bytes to their applications, `transmit` returns what goes out.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from mproxy._datagrams cimport datagrams_put, datagrams_waiting
from mproxy._disorder cimport disorder_reach
from mproxy._inherit cimport adopt_session
from mproxy._liveness cimport liveness_note_life, liveness_note_path
from mproxy._pool cimport pool_take
from mproxy._rest cimport rest_look
from mproxy._ring cimport Ring, iovec, ring_space, ring_used, ring_view
from mproxy._session cimport EventKind, Session, SessionEvent
from mproxy._state cimport SessionState, StreamState, session_state_new, stream_state_new
from mproxy._stream cimport Stream, table_find
from mproxy._streams cimport StreamSet
from mproxy._transmit cimport MAX_IOVECS, Transmitter


cdef class PySession:
    """Wrap a Session. Events are tuples whose first item is an EventKind."""

    cdef readonly Session session  # the session itself, for its getters
    cdef StreamSet streams         # its streams

    def __init__(self, Session session):
        self.session = session
        self.streams = session.streams

    @property
    def stream_count(self):
        """Streams that it knows of, finished ones too."""
        return self.streams.open_list.count + self.streams.finished_list.count

    cdef Stream *find(self, uint32_t id) except NULL:
        cdef Stream *stream = table_find(&self.streams.table, id)
        if stream == NULL:
            raise KeyError(id)
        return stream

    cdef adopt(self, StreamState *state, bint held):
        """Go on with a stream of another process; `held`: its application is still there."""
        cdef Stream *stream = self.streams.adopt(state)
        if held:
            stream.owner = <void *>self
        else:
            self.streams.release(stream)

    # ---- carrier

    def receive(self, bytes data, int64_t now, takes):
        """Give carrier bytes; return events: (OPENED, id, target), (DATA, id, bytes taken, ends), (RESET, id, code),
        (RESUMED,), (LISTEN, LISTENING, ASSOCIATE or ASSOCIATED, number, text, ends), (DATAGRAM, flow, association,
        data), (CLOSED, code, reason, local).

        `takes(id, n)` says how many of n bytes the application takes at once; the rest is kept. `ends` is the flag of
        the frame; the application is told by `hand` when the bytes before are taken.
        """
        cdef SessionEvent event
        cdef Stream *stream
        cdef uint32_t count
        events = []
        self.session.receive(data, len(data), now)
        while True:
            self.session.poll_event(&event)
            if event.kind == EventKind.NOTHING:
                return events
            stream = event.stream
            if event.kind == EventKind.DATA:
                count = 0
                if ring_used(&stream.state.inp) == 0:
                    count = min(<uint32_t>takes(stream.state.id, event.length), event.length)
                part = (<const char *>event.data)[:count] if count else b""
                events.append((event.kind, stream.state.id, part, bool(event.ends)))
                self.session.take(count)
            elif event.kind == EventKind.OPENED:
                stream.owner = <void *>self
                events.append((event.kind, stream.state.id, (<const char *>event.data)[:event.length]))
            elif event.kind == EventKind.RESET:
                events.append((event.kind, stream.state.id, event.code))
                self.streams.release(stream)
            elif event.kind == EventKind.DATAGRAM:
                events.append((event.kind, event.flow, event.code, (<const char *>event.data)[:event.length]))
            elif EventKind.LISTEN <= event.kind <= EventKind.ASSOCIATED:
                events.append((event.kind, event.code, (<const char *>event.data)[:event.length], bool(event.ends)))
            elif event.kind == EventKind.CLOSED:
                reason = (<const char *>event.data)[:event.length]
                events.append((event.kind, event.code, reason, bool(event.local)))
            else:
                events.append((event.kind,))

    def transmit(self, size_t most, *, bint counted=True):
        """Return what the carrier is to send, and count as sent, at most `most` bytes of it.

        Not `counted`: the carrier took them, but the process dies before it can note that.
        """
        cdef iovec parts[MAX_IOVECS]
        cdef int i, n = self.session.poll_transmit(most, True, parts)
        out = b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(n)])[:most]
        if counted:
            self.session.transmitted(len(out))
        return out

    # ---- what the I/O layer sees of the carrier

    def note_path(self, int64_t path_us):
        """What an answer takes on its path."""
        liveness_note_path(&self.session.life, path_us)

    def note_life(self, int64_t now):
        """It moves, though no byte came."""
        liveness_note_life(&self.session.life, now)

    def note_sent(self, int64_t now):
        """An application's byte has left."""
        self.session.life.unanswered_at = now

    def grant(self, int64_t patience):
        """So many times the usual silence ends it."""
        self.session.life.patience = patience

    # ---- datagrams

    def put_datagram(self, uint32_t flow, int association, bytes data, int64_t now):
        """Let one wait for the carrier; False: it was dropped."""
        return datagrams_put(&self.session.transmitter.datagrams, flow, <uint16_t>association, data,
                             <uint32_t>len(data), now, self.session.transmitter.account)

    @property
    def datagrams(self):
        """(sent, received, dropped) ever, and bytes that wait."""
        cdef Transmitter transmitter = self.session.transmitter
        return (transmitter.datagrams.sent, transmitter.datagrams.received, transmitter.datagrams.dropped,
                datagrams_waiting(&transmitter.datagrams))

    # ---- streams

    def open(self, bytes target=b""):
        """Start a stream; returns its id, 0 when the session has too many."""
        cdef Stream *stream = self.session.open_stream(target, <void *>self)
        return stream.state.id if stream != NULL else 0

    def skip_ids(self, uint32_t last):
        """As if all ids up to this one had been given."""
        self.session.lasting.last_id = last

    def write(self, uint32_t id, bytes data):
        """Write as the application does: returns how many bytes the session took, 0 when it has no room."""
        cdef Stream *stream = self.find(id)
        cdef iovec parts[2]
        cdef uint32_t room, done = 0
        cdef const char *at = data
        cdef int i, n
        while done < len(data):
            room = self.streams.room(stream, <uint32_t>len(data) - done)
            if room == 0:
                break
            n = ring_space(&stream.state.out, room, parts)
            for i in range(n):
                memcpy(parts[i].iov_base, at + done, parts[i].iov_len)
                done += <uint32_t>parts[i].iov_len
            self.streams.wrote(stream, room)
        return done

    def end(self, uint32_t id):
        """The application ends its direction."""
        self.streams.end(self.find(id))

    def reset(self, uint32_t id, int code=0):
        """The application resets its connection."""
        cdef Stream *stream = self.find(id)
        self.streams.reset(stream, code)
        self.streams.release(stream)

    def deafen(self, uint32_t id):
        """The application takes no more."""
        self.streams.deafen(self.find(id))

    def discard(self, uint32_t id, int code=0):
        """The application has vanished."""
        cdef Stream *stream = self.find(id)
        self.streams.discard(stream, code)
        self.streams.release(stream)

    def kill(self, uint32_t id, bytes why):
        """Somebody ends the stream."""
        cdef Stream *stream = self.find(id)
        stream.owner = NULL
        self.streams.kill(stream, why)

    def hand(self, uint32_t id, uint32_t most):
        """The application takes up to `most` kept bytes: returns (bytes, whether the direction ended behind them)."""
        cdef Stream *stream = self.find(id)
        cdef iovec parts[2]
        cdef int i, n
        n = ring_view(&stream.state.inp, stream.state.inp.head, min(most, ring_used(&stream.state.inp)), parts)
        data = b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(n)])
        if data:
            self.streams.handed(stream, <uint32_t>len(data))
        if stream.state.in_ended and not stream.state.in_done and ring_used(&stream.state.inp) == 0:
            self.streams.end_handed(stream)
        return data, bool(stream.state.in_done)

    def turn(self, uint32_t id, uint32_t most):
        """How much of `most` the application may write in this turn; of 0 `spaces` tells the end."""
        return self.streams.turn_bytes(self.find(id), most)

    def release(self, uint32_t id):
        """The application is done with both directions."""
        self.streams.release(self.find(id))

    def wakes(self, int64_t now):
        """Applications may have done something, which ends rest."""
        return rest_look(&self.session.rest, &self.session.life, self.session.streams, now)

    @property
    def told_us(self):
        """The interval that sproxy has asked for on this carrier; 0: none."""
        return self.session.rest.told_us

    def spread(self, int64_t us):
        """So far apart heartbeats would be few enough for all the sessions of this sproxy."""
        self.session.rest.spread_us = us

    @property
    def interval_us(self):
        """From one heartbeat to the next, now."""
        return self.session.life.interval_us

    @property
    def alive_at(self):
        """Since when there has been silence."""
        return self.session.life.alive_at

    def spaces(self):
        """Return the ids of the streams whose application may write again."""
        cdef Stream *stream
        ids = []
        while True:
            stream = self.streams.poll_space()
            if stream == NULL:
                return ids
            ids.append(stream.state.id)

    def look(self, uint32_t id):
        """Return the offsets of a stream, for assertions; None when it is forgotten."""
        cdef Stream *stream = table_find(&self.streams.table, id)
        cdef const StreamState *state
        if stream == NULL:
            return None
        state = stream.state
        return {
            "acked": state.out.head, "sent": state.sent, "peak": state.peak, "written": state.out.tail,
            "out_ended": bool(state.out_ended), "out_done": bool(state.out_done),
            "handed": state.inp.head, "received": state.inp.tail,
            "in_ended": bool(state.in_ended), "in_done": bool(state.in_done),
            "out_capacity": state.out.capacity, "in_capacity": state.inp.capacity,
            "aborted": bool(state.aborted), "retired": bool(state.retired), "blocked": bool(stream.blocked),
            "early": disorder_reach(stream.disorder, state),
        }

    @property
    def frames(self):
        """Stream frames planned, ever."""
        return self.session.transmitter.frames

    @property
    def resent_bytes(self):
        """Payload bytes that were planned a second time."""
        return self.session.transmitter.resent_bytes


def exchange(PySession one, PySession other, int64_t now, size_t most):
    """Let two sessions send each other all they have, batches of `most` bytes, every byte taken at once.

    Returns the bytes that the carrier carried. No Python on the way: this measures the core alone.
    """
    cdef size_t total = 0, moved = 1
    while moved:
        moved = send_batch(one.session, other.session, now, most) + send_batch(other.session, one.session, now, most)
        total += moved
    return total


cdef size_t send_batch(Session sender, Session receiver, int64_t now, size_t most):
    cdef iovec parts[MAX_IOVECS]
    cdef SessionEvent event
    cdef size_t length, total = 0
    cdef int i, n = sender.poll_transmit(most, True, parts)
    for i in range(n):
        length = parts[i].iov_len
        receiver.receive(<const uint8_t *>parts[i].iov_base, length, now)
        total += length
        while True:
            receiver.poll_event(&event)
            if event.kind == EventKind.NOTHING:
                break
            if event.kind == EventKind.DATA:
                receiver.take(event.length)
            elif event.kind != EventKind.RESUMED:
                raise AssertionError(f"event {event.kind} while measuring")
    sender.transmitted(total)
    return total


# ---- a session that outlives its process

def state_bytes():
    """Return the sizes of (Ring, StreamState, SessionState)."""
    return sizeof(Ring), sizeof(StreamState), sizeof(SessionState)


def image(PySession one):
    """Copy what outlives the process: (SessionState, its targets, [(StreamState, bytes of `out`, of `inp`)]).

    These are bytes, and all that `revive` knows.
    """
    cdef const SessionState *lasting = one.session.lasting
    streams = images(<Stream *>one.streams.open_list.first) + images(<Stream *>one.streams.finished_list.first)
    return (<const char *>lasting)[:sizeof(SessionState)], kept(&lasting.targets), streams


cdef list images(const Stream *stream):
    streams = []
    while stream != NULL:
        streams.append(((<const char *>stream.state)[:sizeof(StreamState)],
                        kept(&stream.state.out), kept(&stream.state.inp)))
        stream = <const Stream *>stream.in_all.next
    return streams


def revive(config, image, int64_t now, held):
    """Return the PySession of another process. `held`: ids of the streams whose applications are still there."""
    cdef SessionState *lasting = session_state_new()
    cdef StreamState *state
    cdef PySession one
    lasting_bytes, targets, streams = image
    memcpy(lasting, <const char *>lasting_bytes, sizeof(SessionState))
    refill(&lasting.targets, targets)
    one = PySession(adopt_session(config, lasting, now))
    for state_bytes, out, inp in streams:
        state = stream_state_new()
        memcpy(state, <const char *>state_bytes, sizeof(StreamState))
        refill(&state.out, out)
        refill(&state.inp, inp)
        one.adopt(state, state.id in held)
    return one


cdef bytes kept(const Ring *ring):
    cdef iovec parts[2]
    cdef int i, n = ring_view(ring, ring.head, ring_used(ring), parts)
    return b"".join([(<const char *>parts[i].iov_base)[:parts[i].iov_len] for i in range(n)])


cdef void refill(Ring *ring, bytes data):
    """Give a copied ring storage of its own with the bytes it kept."""
    cdef iovec parts[2]
    cdef const char *at = data
    cdef int i, n
    if ring.capacity == 0:
        return
    ring.block = pool_take(ring.capacity)
    ring.tail = ring.head
    n = ring_space(ring, <uint32_t>len(data), parts)
    for i in range(n):
        memcpy(parts[i].iov_base, at, parts[i].iov_len)
        at += parts[i].iov_len
    ring.tail += len(data)
