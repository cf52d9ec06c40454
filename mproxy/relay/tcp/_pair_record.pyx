"""Records of pairs, and the head of all: _pair_record.pxd."""

from mproxy.ground._arena cimport (
    OWN_RECORD_AT, RecordTable, arena_base, in_arena, record_claim, record_free, record_new, record_number,
    shape_records,
)


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
    cdef PairRecord *record = <PairRecord *>record_new(RecordTable.PAIR_RECORDS)
    cdef uint32_t number = 0
    if record == NULL:
        return NULL
    if in_arena(record):
        number = record_number(RecordTable.PAIR_RECORDS, record)
    relay_head.serials += 1 if relay_head.serials < <uint32_t>-1 else 2  # 0 is nobody's
    record.serial = relay_head.serials
    record.client.mark = 2 * number
    record.server.mark = 2 * number + 1
    return record


cdef void pair_record_claim(PairRecord *record) noexcept nogil:
    """It outlives the process from now on; it names the client's socket."""
    record_claim(RecordTable.PAIR_RECORDS, record, &record.number)


cdef void pair_record_free(PairRecord *record) noexcept nogil:
    """Free it; it is given up, and its rings are empty."""
    record_free(RecordTable.PAIR_RECORDS, record)


cdef PipeRecord *pipe_place() noexcept nogil:
    """Room to note a pipe; NULL: all is taken."""
    cdef int i
    for i in range(PIPE_PLACES):
        if relay_head.pipes[i].read_fd == 0:
            return &relay_head.pipes[i]
    return NULL
