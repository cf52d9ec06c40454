"""Records of flows: _flow_record.pxd."""

from mproxy.ground._arena cimport (
    RecordTable, arena_base, record_at, record_claim, record_free, record_take, records_used, shape_records,
)


shape_records(RecordTable.FLOW_RECORDS, sizeof(FlowRecord), MOST_RECORDS)


cdef FlowRecord *flow_record_new() noexcept nogil:
    """A record of zeros; NULL: nothing outlives this process, or not so many."""
    return <FlowRecord *>record_take(RecordTable.FLOW_RECORDS) if arena_base != NULL else NULL


cdef void flow_record_claim(FlowRecord *record) noexcept nogil:
    """It outlives the process from now on."""
    record_claim(RecordTable.FLOW_RECORDS, record, &record.number)


cdef void flow_record_free(FlowRecord *record) noexcept nogil:
    """Free it; NULL is allowed."""
    if record != NULL:
        flow_record_give_up(record)
        record_free(RecordTable.FLOW_RECORDS, record)


cdef FlowRecord *flow_record_at(uint32_t number) noexcept nogil:
    return <FlowRecord *>record_at(RecordTable.FLOW_RECORDS, number)


def find_flows(taken):
    """{key of the rule: [(number of the record, descriptor), ...]} of flows that another worker has left, for one that
    begins, after `find_survivors`. `taken`: descriptors that are others'."""
    cdef uint32_t number
    cdef FlowRecord *record
    if arena_base == NULL:
        return {}
    found, seen = {}, set(taken)
    for number in range(1, records_used(RecordTable.FLOW_RECORDS) + 1):
        record = flow_record_at(number)
        if record.number == number and record.fd >= 0 and record.fd not in seen and \
                record.client_bytes <= sizeof(SocketAddress):
            seen.add(record.fd)
            found.setdefault(record.key, []).append((number, record.fd))
        else:
            flow_record_free(record)
    return found


def forget_flow(uint32_t number):
    """Nobody goes on with this one, whose descriptor is about to be closed."""
    flow_record_free(flow_record_at(number))
