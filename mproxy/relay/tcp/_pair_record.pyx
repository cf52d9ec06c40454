"""Records of pairs, and the head of all: _pair_record.pxd."""

from libc.stdlib cimport calloc, free

from mproxy.ground._arena cimport (
    OWN_RECORD_AT, RecordTable, arena_base, in_arena, record_number, record_return, record_take, shape_records,
)
from mproxy.ground._stores cimport store_whole


cdef RelayHead head_of_process  # while there is no arena
relay_head = &head_of_process
shape_records(RecordTable.PAIR_RECORDS, sizeof(PairRecord), MOST_PAIRS)


cdef void use_arena_head() noexcept nogil:
    """Have the head and the buffer there, if there is an arena."""
    global relay_head, copy_buffer
    if arena_base != NULL:
        relay_head = <RelayHead *>(arena_base + OWN_RECORD_AT)
        copy_buffer = arena_base + COPY_BUFFER_AT


cdef PairRecord *pair_record_new() noexcept nogil:
    """A record of zeros with a serial and marks, or NULL when there is no memory."""
    cdef PairRecord *record
    cdef uint32_t number = 0
    if arena_base != NULL:
        record = <PairRecord *>record_take(RecordTable.PAIR_RECORDS)
        if record != NULL:
            number = record_number(RecordTable.PAIR_RECORDS, record)
    else:
        record = <PairRecord *>calloc(1, sizeof(PairRecord))
    if record == NULL:
        return NULL
    relay_head.serials += 1 if relay_head.serials < <uint32_t>-1 else 2  # 0 is nobody's
    record.serial = relay_head.serials
    record.client.mark = 2 * number
    record.server.mark = 2 * number + 1
    return record


cdef void pair_record_claim(PairRecord *record) noexcept nogil:
    """It outlives the process from now on; it names the client's socket."""
    if in_arena(record):
        stores_done()
        store_whole(&record.number, record_number(RecordTable.PAIR_RECORDS, record))
        stores_done()


cdef void pair_record_give_up(PairRecord *record) noexcept nogil:
    """It ends with the process from now on: its sockets may be closed, its rings emptied."""
    store_whole(&record.number, 0)
    stores_done()


cdef void pair_record_free(PairRecord *record) noexcept nogil:
    """Free it; it is given up, and its rings are empty."""
    if in_arena(record):
        record_return(RecordTable.PAIR_RECORDS, record_number(RecordTable.PAIR_RECORDS, record))
    else:
        free(record)


cdef PipeRecord *pipe_place() noexcept nogil:
    """Room to note a pipe; NULL: all is taken."""
    cdef int i
    for i in range(PIPE_PLACES):
        if relay_head.pipes[i].read_fd == 0:
            return &relay_head.pipes[i]
    return NULL
