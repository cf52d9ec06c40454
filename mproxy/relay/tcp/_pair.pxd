"""A client and the server that it is relayed to: what is known of the two, and functions that need nothing else."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.ground._list cimport ListLink
from mproxy.ground._sockaddr cimport sockaddr_storage
from mproxy.io._loop cimport Source, Work
from mproxy.relay._accounts cimport Noted
from mproxy.relay._balance cimport TargetAddress
from mproxy.relay._cidr cimport CidrSet
from mproxy.relay._circle cimport Finding
from mproxy.relay.tcp._mover cimport Mover, Side
from mproxy.relay.tcp._pair_record cimport PairRecord
from mproxy.relay.tcp._wheel cimport WheelLink


cdef enum PairState:
    GREETING = 0    # the client's PROXY header is not complete
    STARVED = 1     # no descriptor for the connection to the target; tried again
    CONNECTING = 2  # the target has not answered
    OPEN = 3        # bytes flow
    ENDING = 4      # one of the two broke: the other gets what was sent before, then a reset


cdef enum HeaderOutcome:
    SHORT = 0   # the header is not complete
    TAKEN = 1   # it was read, and its client may come in
    WRONG = 2   # it is not a header, or names somebody who may not come in
    LEFT = 3    # the client has gone or failed


cdef struct Pair:
    Side client         # who connected to us
    Side server         # whom we connect to; fd -1: nobody yet
    Work work           # moves bytes
    WheelLink link      # time-out
    void *rule          # owned TcpRule
    void *race          # owned Race, while there are several addresses and none has answered; or NULL
    void *address       # owned TargetAddress, or NULL
    Noted *noted        # owned; for the access log, or NULL
    uint8_t why         # EndReason
    int error           # errno that goes with it
    PairRecord *record  # owned; what outlives the worker
    int64_t since       # OPEN: last byte; before: accepted; ENDING: the last progress
    int64_t owed        # ENDING: bytes that the other one had not acknowledged at the last look
    int64_t due_at      # when the time-out is looked at
    int64_t look_at     # OPEN: when to see whether the peers are still there
    int64_t idle_us     # longest silence; 0: any
    uint8_t state       # State
    int hops            # that the client's first packet had left, if hops are passed on; else 0
    uint32_t attempts   # addresses tried
    int64_t dialled_at  # when the last of these attempts began
    ListLink in_all     # all pairs


cdef void side_init(Side *side, Pair *pair, Side *other, int fd, void (*ready)(Source *, uint32_t) noexcept) noexcept
cdef void read_early(Pair *pair, uint8_t *buffer) noexcept
cdef int send_early(Pair *pair, Mover mover, uint64_t *count) noexcept
cdef HeaderOutcome take_header(
    Pair *pair, uint8_t *buffer, CidrSet deny, bint keep, sockaddr_storage *out_client) noexcept
cdef void hold_address(Pair *pair, TargetAddress address) noexcept
cdef void drop_address(Pair *pair) noexcept
cdef void name_server(Pair *pair) noexcept
cdef void unname_server(Pair *pair) noexcept
cdef bint send_header(Pair *pair, int version) noexcept
cdef bint has_spoken(Pair *pair) noexcept
cdef int64_t next_look(Pair *pair) noexcept
cdef Finding come_back(Pair *youngest, list clients) noexcept
