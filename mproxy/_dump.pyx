"""Writes and reads a dump. What it is: _dump.pxd."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset

from mproxy._ring cimport Ring, iovec, ring_append, ring_init, ring_view
from mproxy._state cimport (
    ProgramRecord, SessionState, StreamPlace, StreamState, compare_places, session_state_claim, session_state_new,
    stream_state_claim, stream_state_new,
)
from mproxy._wire cimport MAX_WINDOW_BYTES, SECRET_BYTES, SESSION_ID_BYTES
from mproxy.ground._arena cimport RecordTable, arena_base, record_at, record_number, records_used
from mproxy.ground.errors import LocalError, MproxyError

OLDEST = 1   # that is written and read,
VERSION = 2  # and the newest: it has a text


cdef const char *MAGIC = b"mproxyUP"


class DumpError(MproxyError):
    """It is not a dump that this build can read."""


cdef uint32_t check_of(const void *image, size_t size) noexcept nogil:
    """FNV-1a of all before the check, with which every image ends."""
    cdef const uint8_t *at = <const uint8_t *>image
    cdef uint32_t found = 2166136261
    cdef size_t i
    for i in range(size - sizeof(uint32_t)):
        found = (found ^ at[i]) * 16777619
    return found


# ---- out

cdef class Writer:
    """Writes into a place that has been measured."""
    cdef uint8_t *at          # NULL: it only measures
    cdef size_t length        # of what was written, or would have been
    cdef list descriptors

    def __cinit__(self):
        self.descriptors = []

    cdef void put(self, const void *data, size_t length) noexcept:
        if self.at != NULL:
            memcpy(self.at + self.length, data, length)
        self.length += length

    cdef put_ring(self, const Ring *ring):
        """What is in a ring."""
        cdef iovec parts[2]
        cdef int i
        if ring.tail - ring.head > ring.capacity:
            raise LocalError("a ring counts bytes that it does not have")
        for i in range(ring_view(ring, ring.head, <uint32_t>(ring.tail - ring.head), parts)):
            self.put(parts[i].iov_base, parts[i].iov_len)

    cdef put_session(self, const SessionState *state, uint32_t streams):
        cdef const ProgramRecord *record = <const ProgramRecord *>record_at(
            RecordTable.PROGRAM_RECORDS, state.number)
        cdef SessionImage image
        memset(&image, 0, sizeof(image))
        memcpy(image.session_id, state.session_id, SESSION_ID_BYTES)
        memcpy(image.secret, state.secret, SECRET_BYTES)
        image.epoch, image.opened = state.epoch, state.opened
        image.out_bytes, image.in_bytes = state.out_bytes, state.in_bytes
        image.last_id, image.highest_id = state.last_id, state.highest_id
        image.close_code, image.is_server, image.known = state.close_code, state.is_server, state.known
        image.targets = <uint32_t>(state.targets.tail - state.targets.head)
        image.kept = <uint16_t>(record.current & 0xFFFF)
        image.streams = streams
        image.check = check_of(&image, sizeof(image))
        self.put(&image, sizeof(image))
        self.put_ring(&state.targets)
        self.put(record.halves[record.current >> 16 & 1], image.kept)

    cdef put_stream(self, const StreamState *state):
        cdef StreamImage image
        memset(&image, 0, sizeof(image))
        image.out_head, image.out_tail, image.sent, image.peak = (
            state.out.head, state.out.tail, state.sent, state.peak)
        image.inp_head, image.inp_tail, image.acked = state.inp.head, state.inp.tail, state.acked
        image.id, image.target, image.target_bytes = state.id, state.target, state.target_bytes
        image.read_before, image.written_before = state.read_before, state.written_before
        image.out_ended, image.out_done = state.out_ended, state.out_done
        image.in_ended, image.in_done = state.in_ended, state.in_done
        image.open_due, image.confirmed, image.unheard = state.open_due, state.confirmed, state.unheard
        image.aborted, image.reset_ours, image.reset_code = state.aborted, state.reset_ours, state.reset_code
        image.deaf, image.drain_reset, image.retired = state.deaf, state.drain_reset, state.retired
        image.dialling = state.dialling
        if state.fd > 0:
            if self.at != NULL:
                self.descriptors.append(state.fd - 1)
            image.descriptor = <uint32_t>len(self.descriptors)
        image.check = check_of(&image, sizeof(image))
        self.put(&image, sizeof(image))
        self.put_ring(&state.out)
        self.put_ring(&state.inp)


def dump_sessions(uint32_t version, bytes about, room):
    """Write all sessions into `room(length)`, which makes a place for so many bytes.

    Returns the descriptors of their applications, in the order in which the dump names them.
    """
    cdef StreamPlace *places
    cdef uint8_t[::1] view
    cdef size_t count = 0
    cdef Writer writer = Writer(), measure = Writer()
    if arena_base == NULL or not OLDEST <= version <= VERSION or len(about) > MOST_ABOUT:
        raise LocalError(f"no dump of version {version} can be made")
    places = <StreamPlace *>malloc((<size_t>records_used(RecordTable.STREAM_RECORDS) + 1) * sizeof(StreamPlace))
    if places == NULL:
        raise MemoryError
    try:
        count = find_streams(places)
        put_all(measure, version, about, 0, places, count)
        view = room(measure.length)
        writer.at = &view[0]
        put_all(writer, version, about, measure.length, places, count)
    finally:
        free(places)
    return writer.descriptors


cdef put_all(Writer writer, uint32_t version, bytes about, size_t length, StreamPlace *places, size_t count):
    cdef uint32_t number, most = records_used(RecordTable.SESSION_RECORDS)
    cdef const SessionState *state
    cdef size_t first = 0, end
    cdef DumpHead head
    memset(&head, 0, sizeof(head))
    memcpy(head.magic, MAGIC, MAGIC_BYTES)
    head.version, head.length = version, length
    head.about = <uint32_t>len(about) if version > 1 else 0
    for number in range(1, most + 1):
        head.sessions += session_at(number).number == number
    head.check = check_of(&head, sizeof(head))
    writer.put(&head, sizeof(head))
    writer.put(<const char *>about, head.about)
    for number in range(1, most + 1):
        state = session_at(number)
        if state.number != number:
            continue
        while first < count and places[first].session < number:
            first += 1
        end = first
        while end < count and places[end].session == number:
            end += 1
        writer.put_session(state, <uint32_t>(end - first))
        while first < end:
            writer.put_stream(stream_at(places[first].record))
            first += 1


cdef size_t find_streams(StreamPlace *places) noexcept nogil:
    """All that count, by session and id."""
    cdef uint32_t record
    cdef size_t count = 0
    for record in range(1, records_used(RecordTable.STREAM_RECORDS) + 1):
        if stream_at(record).session != 0:
            places[count].session = stream_at(record).session
            places[count].id = stream_at(record).id
            places[count].record = record
            count += 1
    qsort(places, count, sizeof(StreamPlace), compare_places)
    return count


cdef inline const SessionState *session_at(uint32_t number) noexcept nogil:
    return <const SessionState *>record_at(RecordTable.SESSION_RECORDS, number)


cdef inline const StreamState *stream_at(uint32_t record) noexcept nogil:
    return <const StreamState *>record_at(RecordTable.STREAM_RECORDS, record)


# ---- in

cdef class Reader:
    """Reads a dump, piece by piece; DumpError where it ends too early."""
    cdef const uint8_t *at
    cdef size_t left

    cdef const uint8_t *take(self, size_t length) except NULL:
        cdef const uint8_t *found = self.at
        if length > self.left:
            raise DumpError("the dump is cut off")
        self.at += length
        self.left -= length
        return found

    cdef take_image(self, void *image, size_t size):
        """One group of numbers, whose check is right."""
        cdef uint32_t check
        memcpy(image, self.take(size), size)
        memcpy(&check, <uint8_t *>image + size - sizeof(check), sizeof(check))
        if check != check_of(image, size):
            raise DumpError("the dump is damaged")

    cdef take_ring(self, Ring *ring, uint64_t head, uint64_t tail):
        if tail < head or tail - head > 2 * <uint64_t>MAX_WINDOW_BYTES:
            raise DumpError("the dump is damaged: a stream cannot hold so much")
        ring_init(ring, head)
        if ring_append(ring, self.take(tail - head), <uint32_t>(tail - head), NULL) < 0:
            raise MemoryError

    cdef uint32_t take_session(self, list descriptors) except 0:
        """One session with its streams; its number here."""
        cdef SessionImage image
        cdef SessionState *state
        cdef ProgramRecord *record
        cdef uint32_t number
        self.take_image(&image, sizeof(image))
        state = session_state_new()
        if state == NULL or image.kept > sizeof(record.halves[0]):
            raise DumpError("the dump has more than this build can hold")
        memcpy(state.session_id, image.session_id, SESSION_ID_BYTES)
        memcpy(state.secret, image.secret, SECRET_BYTES)
        state.epoch, state.opened = image.epoch, image.opened
        state.out_bytes, state.in_bytes = image.out_bytes, image.in_bytes
        state.last_id, state.highest_id = image.last_id, image.highest_id
        state.close_code, state.is_server, state.known = image.close_code, image.is_server, image.known
        self.take_ring(&state.targets, 0, image.targets)
        number = record_number(RecordTable.SESSION_RECORDS, state)
        record = <ProgramRecord *>record_at(RecordTable.PROGRAM_RECORDS, number)
        memcpy(record.halves[0], self.take(image.kept), image.kept)
        record.current = image.kept
        session_state_claim(state)
        for _ in range(image.streams):
            self.take_stream(state, descriptors)
        return number

    cdef take_stream(self, const SessionState *session, list descriptors):
        cdef StreamImage image
        cdef StreamState *state
        self.take_image(&image, sizeof(image))
        state = stream_state_new()
        if state == NULL:
            raise DumpError("the dump has more than this build can hold")
        state.sent, state.peak, state.acked = image.sent, image.peak, image.acked
        state.id, state.target, state.target_bytes = image.id, image.target, image.target_bytes
        state.read_before, state.written_before = image.read_before, image.written_before
        state.out_ended, state.out_done = image.out_ended, image.out_done
        state.in_ended, state.in_done = image.in_ended, image.in_done
        state.open_due, state.confirmed, state.unheard = image.open_due, image.confirmed, image.unheard
        state.aborted, state.reset_ours, state.reset_code = image.aborted, image.reset_ours, image.reset_code
        state.deaf, state.drain_reset, state.retired = image.deaf, image.drain_reset, image.retired
        state.dialling = image.dialling
        if image.descriptor > <size_t>len(descriptors):
            raise DumpError("a descriptor is missing")
        state.fd = <int32_t>descriptors[image.descriptor - 1] + 1 if image.descriptor else 0
        self.take_ring(&state.out, image.out_head, image.out_tail)
        self.take_ring(&state.inp, image.inp_head, image.inp_tail)
        stream_state_claim(state, session)


def load_sessions(const uint8_t[::1] data not None, descriptors):
    """Load a dump into the arena, which has nothing yet. Returns (numbers of the sessions, the text). DumpError.

    `descriptors`: those that came with it. To be called in a process that ends afterwards: what is free here is not
    known to the one whose arena it is.
    """
    cdef Reader reader = Reader()
    cdef DumpHead head
    cdef list given = list(descriptors)
    if arena_base == NULL or records_used(RecordTable.SESSION_RECORDS):
        raise LocalError("there is no empty arena")
    reader.left = data.shape[0]
    if reader.left < sizeof(head):
        raise DumpError("the dump is cut off")
    reader.at = &data[0]
    memcpy(&head, reader.at, sizeof(head))
    if memcmp(head.magic, MAGIC, MAGIC_BYTES) != 0:
        raise DumpError("this is not a dump of sessions")
    if not OLDEST <= head.version <= VERSION:
        raise DumpError(f"the dump has version {head.version}, this build reads {OLDEST} to {VERSION}")
    reader.take_image(&head, sizeof(head))
    if head.length != <uint64_t>data.shape[0]:
        raise DumpError("the dump is cut off")
    about = (<const char *>reader.take(head.about))[:head.about]
    numbers = [reader.take_session(given) for _ in range(head.sessions)]
    if reader.left:
        raise DumpError("the dump is damaged: something follows it")
    return numbers, about
