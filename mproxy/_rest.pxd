"""A session at rest: no byte of an application has moved for REST_AFTER heartbeats, and none waits for its ack. Then
both sides may be silent for longer, so that a mobile radio can sleep: docs/protocol.md, "Rest".

cproxy begins it (`rest_ask`) by a REST frame, sproxy agrees by taking that (`rest_take`). It ends at each side by
itself, with the next byte or stream of an application (`rest_look`), or with the carrier.

Where that was not asked for sproxy is silent nevertheless once nothing moves: it echoes cproxy's heartbeats, which is
all that either needs, and sends none of its own (`rest_spares`). And when it has very many sessions it asks for rest
itself (`rest_tell`), by a REST frame that says how long its interval should be; cproxy then begins it as if by itself.
"""

from libc.stdint cimport int64_t, uint64_t

from mproxy._liveness cimport Liveness
from mproxy._streams cimport StreamSet


cdef enum:
    REST_AFTER = 10               # heartbeats: ten seconds, longer than most thinking between two commands
    REST_MOST_US = 3600000000     # as of heartbeats
    REST_TOLD_MOST_US = 25000000  # that sproxy may ask for: NATs forget a flow of UDP after 30 s


cdef struct SessionRest:
    int64_t wanted_us    # cproxy: interval of heartbeats at rest; 0: rest is not asked for
    int64_t told_us      # the same that sproxy has asked for on this carrier; at sproxy: that it has
    int64_t spread_us    # sproxy: interval that would be right for its number of sessions; 0: any
    bint on              # it has begun
    uint64_t moved       # bytes, streams and datagrams of applications, ever, when last looked at
    int64_t moved_at     # when that was last another number than before


cdef bint rest_look(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept
cdef void rest_attach(SessionRest *rest, Liveness *life, int64_t now) noexcept
cdef void rest_ask(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept
cdef bint rest_take(SessionRest *rest, Liveness *life, StreamSet streams, uint64_t interval_us, int64_t now) noexcept
cdef bint rest_spares(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept
cdef void rest_heard(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept
