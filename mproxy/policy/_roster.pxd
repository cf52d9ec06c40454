"""The roster: what each worker of one sproxy shows the others of its sessions, in memory that all of them share.

A worker writes its own rows alone, so nothing has to be locked to be read; what is decided from all rows together (may
there be one session more?) is decided by one worker at a time, under a lock. Rows outlive the worker that wrote them as
its sessions do; the next one writes them anew.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef enum:
    MARK_BYTES = 16
    ROW_TAGS = 2              # that a session's cproxy may show
    EXPECTATIONS = 256        # of all workers together; two sources may share one
    EXPECTED_US = 10000000


cdef enum RowState:
    FREE = 0
    HERE = 1
    LEAVING = 2               # another worker has told it to make room, and counts it no more


cdef struct RosterRow:
    uint32_t state            # RowState; written last
    uint32_t streams          # open ones, as of the last `refresh`
    int64_t began_at          # microseconds of the clock of all loops
    int64_t lost_at           # its last carrier; 0: never
    bint attached             # there is a carrier
    bint lent                 # no line gave its holder the place
    uint8_t session[16]       # its id
    uint8_t holder[16]        # whose place it has, hashed
    uint8_t instance[16]      # which cproxy it is of, hashed with its key
    uint64_t tags[ROW_TAGS]   # 0: none


cdef struct RosterTally:            # of one worker
    uint32_t sessions         # rows in use
    uint32_t top              # no row from here on is in use
    uint32_t guests           # connections that are not sessions yet, about


cdef struct Expectation:            # who dials from there, and shows nothing, has a session
    uint64_t source           # hashed
    int64_t until             # of the clock of all loops
    int worker                # in this worker


cdef class Roster:
    cdef readonly int workers     # how many there are
    cdef readonly int rows_each   # rows of each worker
    cdef readonly int own         # this worker
    cdef object memory            # a mapping
    cdef RosterTally *tallies           # in it, one a worker
    cdef RosterRow *rows                # behind them, `rows_each` a worker
    cdef Expectation *expectations      # behind these, EXPECTATIONS
    cdef object lock_file         # what is locked: it has no bytes
    cdef list streams             # of each of our rows: the StreamSet, or None
    cdef list free_rows           # of ours

    cdef RosterRow *row_of(self, int worker, int number)
    cdef tuple find_by(self, size_t field, const uint8_t *mark, bint ours)
