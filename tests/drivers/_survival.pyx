"""A world with one worker, which may be killed at any instruction: two sessions in the arena, joined by a carrier.

Applications and their sockets are the test's: `Facts` is what the kernel of their host knows of each, in memory that
the workers share and the arena does not hold. Byte x of a direction is a function of x, so whoever looks at a ring
knows what must be there.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from mproxy._inherit cimport inherited_stream, session_sound, stream_sound
from mproxy._inherit import (
    deaths, inherit, keep_own_history, keep_own_record, keep_record, kept_history, kept_own_history, kept_own_record,
    kept_record, map_arena, recover,
)
from mproxy._pool cimport MIN_BLOCK_BYTES, pool_lent_bytes
from mproxy._ring cimport Ring, iovec, ring_space, ring_used, ring_view
from mproxy._session cimport CarrierState, EventKind, Session, SessionEvent
from mproxy._state cimport SessionState, StreamState
from mproxy._stream cimport Stream
from mproxy._transmit cimport MAX_IOVECS
from mproxy._wire cimport ResetCode
from mproxy.ground._arena cimport (
    ARENA_CHUNK_BYTES, RECORD_CHUNKS, RecordTable, arena_base, arena_turn, record_at, records_used,
)
from mproxy.ground._stores cimport store_whole, stores_done

cdef extern from "<sys/mman.h>" nogil:
    int mincore(void *start, size_t length, unsigned char *pages)
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_ANONYMOUS
    void *mmap(void *start, size_t length, int protection, int flags, int fd, long offset)

cdef extern from "<sys/ptrace.h>" nogil:
    int PTRACE_TRACEME, PTRACE_SINGLESTEP, PTRACE_CONT
    long ptrace(int request, int pid, void *address, void *data)

cdef extern from "<sys/wait.h>" nogil:
    int waitpid(int pid, int *status, int options)
    bint WIFSTOPPED(int status)
    int WSTOPSIG(int status)

cdef extern from "<signal.h>" nogil:
    int SIGSTOP, SIGTRAP
    int raise_signal "raise"(int signal)


cdef enum:
    MOST_IDS = 4096
    PERIOD = 251
    AT_ONCE = 6          # streams open at a time
    LONGEST = 60000      # bytes of a direction


cdef struct Socket:
    uint64_t read        # bytes taken from the application
    uint64_t written     # bytes given to it
    uint8_t ended        # it was told the end
    uint8_t gone         # it was reset, or has vanished


cdef struct Facts:
    Socket sockets[2][MOST_IDS]  # of the client's applications, and of the server's
    uint8_t opened[MOST_IDS]     # the client's application has its stream
    uint64_t steps               # done, ever
    uint64_t in_turns            # deaths in a session's turn, as the last worker found them


cdef uint8_t pattern[LONGEST + 2 * PERIOD]
cdef Facts *facts = NULL
cdef size_t place
for place in range(sizeof(pattern)):
    pattern[place] = <uint8_t>(place % PERIOD * 7 + 1)


def begin():
    """Make the arena and the kernel's memory; once, before there is a worker."""
    map_arena()
    begin_kernel()


def begin_kernel():
    """Make the kernel's memory, for processes that have arenas of their own."""
    global facts
    facts = <Facts *>mmap(NULL, sizeof(Facts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)


cdef inline uint64_t length_of(uint32_t id, int end) noexcept nogil:
    """How much the application at this end writes."""
    return (id * <uint64_t>2654435761 >> (3 if end else 9)) % LONGEST


cdef inline const uint8_t *bytes_from(uint32_t id, int end, uint64_t offset) noexcept nogil:
    """What it writes from `offset` on."""
    return pattern + (offset + id * 17 + end * 101) % PERIOD


cdef bint holds(const Ring *ring, uint32_t id, int end) noexcept nogil:
    """Whether the ring holds what the application at `end` wrote; read as another process would."""
    cdef const uint8_t *base = arena_base + <size_t>ring.block * MIN_BLOCK_BYTES
    cdef uint64_t at = ring.head
    cdef size_t offset, length
    if ring.capacity == 0:
        return True
    while at < ring.tail:
        offset = at & (ring.capacity - 1)
        length = min(ring.tail - at, <uint64_t>(ring.capacity - offset))
        if memcmp(base + offset, bytes_from(id, end, at), length) != 0:
            return False
        at += length
    return True


cdef adopt_streams(Session session, uint32_t number):
    cdef StreamState *state = inherited_stream(number, 0)
    cdef uint32_t nth = 0
    while state != NULL:
        if session.streams.adopt(state) == NULL:
            raise MemoryError
        nth += 1
        state = inherited_stream(number, nth)


cdef class World:
    """A worker's view of it."""

    cdef Session client     # one end
    cdef Session server     # the other one
    cdef list idle          # sessions with nothing to do
    cdef object config      # of all sessions
    cdef uint64_t random    # state of the generator
    cdef uint32_t most_ids  # streams there will ever be

    def __init__(self, config, uint64_t seed, uint32_t most_ids):
        self.config = config
        self.random = seed * 2 + 1
        self.most_ids = min(most_ids, <uint32_t>MOST_IDS - 1)
        self.idle = []

    def take_over(self):
        """Recover what there is, or make it."""
        cdef Session session
        numbers, damaged = recover()
        assert damaged == 0, "a session was damaged"
        facts.in_turns = sum(deaths(number) for number in numbers)
        for kept in [kept_own_record(), kept_own_history(), *map(kept_record, numbers), *map(kept_history, numbers)]:
            assert kept == record_of(kept[0] if kept else 0), "half a record of the program"
        for number in numbers:
            self.reconcile(number)
            session = inherit(self.config, number, 1)
            adopt_streams(session, number)
            if session.epoch == 0:
                self.idle.append(session)
            elif session.is_server:
                self.server = session
            else:
                self.client = session
            self.own(session)
        if self.client is None:
            self.client = self.make(False)
        if self.server is None:
            self.server = self.make(True)
        self.attach()
        assert self.held() == pool_lent_bytes(), "not all that is lent is held"

    cdef Session make(self, bint is_server):
        return Session(self.config, is_server=is_server, session_id=b"session-id-16-by", secret=bytes(32))

    cdef void reconcile(self, uint32_t number) except *:
        """Correct the streams by what the kernel did."""
        cdef uint32_t nth = 0
        cdef StreamState *state = inherited_stream(number, nth)
        cdef const SessionState *session
        cdef const Socket *socket
        while state != NULL:
            session = <const SessionState *>record_at(RecordTable.SESSION_RECORDS, state.session)
            socket = &facts.sockets[session.is_server][state.id]
            if not state.aborted and not state.deaf and not state.drain_reset:
                state.out.tail = socket.read
                if socket.written > state.inp.tail:
                    state.inp.tail = socket.written
                stores_done()
                state.inp.head = socket.written
            text = target_of(state.id)
            assert kept(&session.targets, state.target, state.target_bytes) == text
            nth += 1
            state = inherited_stream(number, nth)

    cdef void own(self, Session session) except *:
        """Applications that are still there have their streams; of the others these are let go."""
        cdef Stream *stream = <Stream *>session.streams.open_list.first
        cdef Stream *following
        while stream != NULL:
            following = <Stream *>stream.in_all.next
            if stream.state.out_ended and stream.state.in_done:
                session.streams.release(stream)
            elif not stream.state.aborted and not facts.sockets[session.is_server][stream.state.id].gone:
                stream.owner = <void *>self
            else:
                if not stream.state.aborted and not stream.state.drain_reset:
                    session.streams.discard(stream, ResetCode.APPLICATION)
                session.streams.release(stream)
            stream = following

    cdef size_t held(self):
        cdef size_t size = 0
        for session in [self.client, self.server, *self.idle]:
            size += storage_of(session)
        return size

    def attach(self):
        """A new carrier."""
        cdef uint64_t epoch = max(self.client.epoch, self.server.epoch) + 1
        hello = self.client.streams.resume_list()
        self.server.attach(epoch, 16384, 65536, self.server.streams.resume_list(), 1)
        self.deliver(hello, len(hello), self.server)
        self.client.attach(epoch, 16384, 65536, b"", 1)
        while self.carry(self.server, self.client, 1 << 20):
            pass
        assert self.client.state == self.server.state == CarrierState.ACTIVE

    # ---- what happens

    def run(self, uint64_t steps):
        """So many steps of all that can happen; False when every stream is finished."""
        cdef Session session
        cdef bint at_server
        cdef uint64_t _step
        cdef bint more = True
        for _step in range(steps):
            at_server = self.draw(2)
            session = self.server if at_server else self.client
            store_whole(arena_turn, session.lasting.number)
            more = self.step(session, at_server)
            store_whole(arena_turn, 0)
            if not more:
                break
        return more

    cdef uint32_t draw(self, uint32_t below) noexcept:
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return <uint32_t>(self.random >> 11) % below

    cdef bint step(self, Session session, bint at_server) except -1:
        cdef uint32_t chance = self.draw(100)
        cdef Stream *stream
        facts.steps += 1
        if chance < 8 and self.client.streams.open_count < AT_ONCE and self.client.lasting.last_id < self.most_ids:
            text = target_of(self.client.lasting.last_id + 1)
            stream = self.client.open_stream(text, <void *>self)
            facts.opened[stream.state.id] = True
        elif chance < 10:
            if self.idle and self.draw(2):
                self.idle.pop()
            elif len(self.idle) < 5:
                self.idle.append(self.make(True))
        elif chance < 12:
            self.client.carrier_lost()
            self.server.carrier_lost()
            self.attach()
        elif chance < 40:
            self.carry(session, self.client if at_server else self.server, 1 + self.draw(20000))
        elif chance < 42:
            session.probe(1)
        elif chance < 43:
            keep_record(session, record_of(self.draw(256)), record_of(self.draw(256)))
            keep_own_record(record_of(self.draw(256)))
            keep_own_history(record_of(self.draw(256)))
        else:
            stream = self.some_stream(session)
            if stream != NULL:
                self.use(session, stream, chance)
        return self.client.lasting.last_id < self.most_ids or self.client.streams.open_count > 0

    cdef Stream *some_stream(self, Session session) noexcept:
        """One of the streams with an application, or NULL."""
        cdef Stream *stream = <Stream *>session.streams.open_list.first
        cdef uint32_t skip = self.draw(AT_ONCE)
        while stream != NULL and stream.in_all.next != NULL and skip > 0:
            stream = <Stream *>stream.in_all.next
            skip -= 1
        return stream if stream != NULL and stream.owner != NULL else NULL

    cdef void use(self, Session session, Stream *stream, uint32_t chance) except *:
        cdef uint32_t id = stream.state.id
        if chance < 68:
            self.read(session, stream)
        elif chance < 98 or id % 5:
            self.write(session, stream)
        elif not facts.sockets[session.is_server][id].gone:
            facts.sockets[session.is_server][id].gone = True
            if id % 2:
                session.streams.discard(stream, ResetCode.APPLICATION)
            else:
                session.streams.reset(stream, ResetCode.REFUSED)
            session.streams.release(stream)

    cdef void read(self, Session session, Stream *stream) except *:
        """The application's bytes into the ring: the system call, then its bookkeeping."""
        cdef int end = session.is_server
        cdef uint32_t id = stream.state.id
        cdef Socket *socket = &facts.sockets[end][id]
        cdef uint64_t left = length_of(id, end) - socket.read
        cdef iovec parts[2]
        cdef uint32_t room, done = 0
        cdef int i, n
        if left == 0:
            if not stream.state.out_ended:
                session.streams.end(stream)
                self.let_go(session, stream)
            return
        room = session.streams.room(stream, <uint32_t>min(left, <uint64_t>(1 + self.draw(9000))))
        if room == 0:
            return
        n = ring_space(&stream.state.out, room, parts)
        for i in range(n):
            memcpy(parts[i].iov_base, bytes_from(id, end, socket.read + done), parts[i].iov_len)
            done += <uint32_t>parts[i].iov_len
        socket.read += done
        session.streams.wrote(stream, done)

    cdef uint32_t give(self, Session session, Stream *stream, const uint8_t *data, uint32_t length) except? 4294967295:
        """A write to the application, who looks at every byte."""
        cdef int end = session.is_server
        cdef Socket *socket = &facts.sockets[end][stream.state.id]
        cdef uint32_t taken = min(length, self.draw(6000))
        assert memcmp(data, bytes_from(stream.state.id, 1 - end, socket.written), taken) == 0, "another byte"
        socket.written += taken
        return taken

    cdef void write(self, Session session, Stream *stream) except *:
        """Kept bytes to the application, and the end behind them."""
        cdef StreamState *state = stream.state
        cdef iovec parts[2]
        if ring_used(&state.inp) > 0:
            ring_view(&state.inp, state.inp.head, ring_used(&state.inp), parts)
            session.streams.handed(stream, self.give(session, stream, <const uint8_t *>parts[0].iov_base,
                                                     <uint32_t>parts[0].iov_len))
        self.tell_end(session, stream)

    cdef void tell_end(self, Session session, Stream *stream) except *:
        cdef StreamState *state = stream.state
        cdef int end = session.is_server
        if ring_used(&state.inp) == 0 and state.in_ended and not state.in_done and not state.deaf:
            assert facts.sockets[end][state.id].written == length_of(state.id, 1 - end), "ended before the end"
            facts.sockets[end][state.id].ended = True
            session.streams.end_handed(stream)
            self.let_go(session, stream)

    cdef void let_go(self, Session session, Stream *stream) except *:
        if stream.state.out_ended and stream.state.in_done and stream.owner != NULL:
            session.streams.release(stream)

    # ---- the carrier

    cdef size_t carry(self, Session sender, Session receiver, size_t most) except? 18446744073709551615:
        """Move about `most` bytes."""
        cdef iovec parts[MAX_IOVECS]
        cdef int i, n = sender.poll_transmit(most, True, parts)
        cdef size_t total = 0
        for i in range(n):
            total += parts[i].iov_len
            self.deliver(<const char *>parts[i].iov_base, parts[i].iov_len, receiver)
        sender.transmitted(total)
        return total

    cdef void deliver(self, const char *data, size_t length, Session receiver) except *:
        cdef SessionEvent event
        cdef Stream *stream
        cdef uint32_t taken
        receiver.receive(<const uint8_t *>data, length, 1)
        while True:
            receiver.poll_event(&event)
            stream = event.stream
            if event.kind == EventKind.NOTHING:
                return
            if event.kind == EventKind.OPENED:
                text = target_of(stream.state.id)
                assert (<const char *>event.data)[:event.length] == text
                stream.owner = <void *>self
            elif event.kind == EventKind.DATA:
                taken = 0
                if ring_used(&stream.state.inp) == 0 and event.length > 0 and self.draw(3):
                    taken = self.give(receiver, stream, event.data, event.length)
                receiver.take(taken)
            elif event.kind == EventKind.RESET:
                assert event.code in (ResetCode.APPLICATION, ResetCode.REFUSED), f"reset with {event.code}"
                facts.sockets[receiver.is_server][stream.state.id].gone = True
                receiver.streams.release(stream)
            elif event.kind == EventKind.CLOSED:
                raise AssertionError((<const char *>event.data)[:event.length])


cdef bytes kept(const Ring *ring, uint32_t at, uint32_t length):
    """A piece of a ring that has never wrapped; the pool does not know it yet."""
    return (<const char *>arena_base + ring.block * <size_t>MIN_BLOCK_BYTES + at)[:length] if length else b""


cdef size_t storage_of(Session session) noexcept:
    """Of all its rings."""
    return (session.lasting.targets.capacity + session.transmitter.control.capacity
            + rings_of(<Stream *>session.streams.open_list.first)
            + rings_of(<Stream *>session.streams.finished_list.first))


cdef size_t rings_of(const Stream *stream) noexcept:
    cdef size_t size = 0
    while stream != NULL:
        size += stream.state.out.capacity + stream.state.inp.capacity
        stream = <Stream *>stream.in_all.next
    return size


def target_of(uint32_t id):
    """What the stream's OPEN says."""
    return b"" if id % 4 == 0 else b"host-%d.example:80" % (id % 7)


def record_of(int value):
    """What a program may keep, with a session or besides; its first byte says what all of it is."""
    return bytes([value]) * (value * 7)


def incomplete():
    """Streams, by end and id, that were not reset and whose applications lack something."""
    cdef int id
    cdef int end
    return [(end, id) for id in range(1, MOST_IDS) if facts.opened[id] for end in range(2)
            if not (facts.sockets[0][id].gone or facts.sockets[1][id].gone or facts.sockets[end][id].ended)]


def steps_done():
    """(how much has happened, how many deaths in a session's turn the last worker found)."""
    return facts.steps, facts.in_turns


# ---- from outside

def records():
    """(session records, stream records) that were ever claimed at a time."""
    return records_used(RecordTable.SESSION_RECORDS), records_used(RecordTable.STREAM_RECORDS)


def pages_of_rings(uint32_t most_chunks):
    """Pages of the first chunks of rings that have memory."""
    cdef size_t length = most_chunks * <size_t>ARENA_CHUNK_BYTES
    pages = bytearray(length // MIN_BLOCK_BYTES)
    cdef unsigned char *at = pages
    if mincore(arena_base + RECORD_CHUNKS * <size_t>ARENA_CHUNK_BYTES, length, at) < 0:
        raise OSError("mincore")
    return sum(page & 1 for page in pages)


def claimed():
    """How many sessions are claimed."""
    cdef uint32_t number
    return sum((<SessionState *>record_at(RecordTable.SESSION_RECORDS, number)).number != 0
               for number in range(1, records_used(RecordTable.SESSION_RECORDS) + 1))


def forget_facts():
    """The kernel forgets all sockets."""
    memset(facts, 0, sizeof(Facts))


def spoil(int kind):
    """Damage the first stream that holds something, or its session; False: there are no more kinds."""
    cdef SessionState *state
    cdef StreamState *stream
    cdef uint32_t record
    for record in range(1, records_used(RecordTable.STREAM_RECORDS) + 1):
        stream = <StreamState *>record_at(RecordTable.STREAM_RECORDS, record)
        if stream.session and stream.out.capacity:
            break
    else:
        raise LookupError("no stream that holds something")
    state = <SessionState *>record_at(RecordTable.SESSION_RECORDS, stream.session)
    if kind == 0:
        state.number += 1
    elif kind == 1:
        state.close_code = 1000
    elif kind == 2:
        state.targets.tail += 1
    elif kind == 3:
        stream.out.tail = stream.out.head - 1
    elif kind == 4:
        stream.inp.block, stream.inp.capacity, stream.inp.tail = stream.out.block, stream.out.capacity, stream.inp.head
    elif kind == 5:
        stream.out.block = 5
    elif kind == 6:
        stream.out.capacity = 3 * 4096
    elif kind == 7:
        stream.peak = stream.out.tail + 10
    elif kind == 8:
        stream.confirmed = 7
    elif kind == 9:
        stream.id = 0
    elif kind == 10:
        stream.out.block = 0xFFFFF000
    elif kind == 11:
        stream.out_done = True
    else:
        return False
    return True


def be_traced():
    """Have the parent decide when the next instruction comes."""
    if ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0:
        raise OSError("ptrace")
    raise_signal(SIGSTOP)


def stop():
    """Give way to the parent."""
    raise_signal(SIGSTOP)


def go_on(int pid):
    """Let it run to its next stop."""
    if ptrace(PTRACE_CONT, pid, NULL, NULL) < 0:
        raise OSError("ptrace")


def follow(int pid, uint64_t most):
    """Let the stopped child do up to so many instructions, and look at the arena after each.

    Returns (instructions, whether it has stopped by itself); AssertionError when something cannot be right.
    """
    cdef uint64_t n
    cdef int status, wrong
    for n in range(most):
        if ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 or waitpid(pid, &status, 0) != pid:
            raise OSError("ptrace")
        if not WIFSTOPPED(status):
            raise AssertionError(f"the worker ended: {status}")
        wrong = look()
        if wrong:
            raise AssertionError(f"after instruction {n}: {('', 'session', 'stream', 'bytes')[wrong]}")
        if WSTOPSIG(status) != SIGTRAP:
            return n, True
    return most, False


cdef int look() noexcept nogil:
    """What is wrong in the arena, if anything: 1 a session, 2 a stream, 3 what its rings hold."""
    cdef uint32_t number
    cdef const SessionState *session
    cdef const StreamState *state
    for number in range(1, records_used(RecordTable.SESSION_RECORDS) + 1):
        session = <const SessionState *>record_at(RecordTable.SESSION_RECORDS, number)
        if session.number and not session_sound(session, number):
            return 1
    for number in range(1, records_used(RecordTable.STREAM_RECORDS) + 1):
        state = <const StreamState *>record_at(RecordTable.STREAM_RECORDS, number)
        if state.session == 0:
            continue
        session = <const SessionState *>record_at(RecordTable.SESSION_RECORDS, state.session)
        if session.number == 0:
            continue
        if not stream_sound(state, session):
            return 2
        if not holds(&state.out, state.id, session.is_server) or not holds(&state.inp, state.id, not session.is_server):
            return 3
    return 0
