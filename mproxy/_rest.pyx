"""Rest of a session; when it begins and ends: _rest.pxd."""

from libc.stdint cimport INT64_MAX, uint8_t

from mproxy._frames cimport Frame, encode_header
from mproxy._liveness cimport liveness_attach
from mproxy._wire cimport HEADER_BYTES, FrameFlag, FrameType


cdef bint rest_look(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept:
    """See whether applications have done something: then rest is over, and deadlines are earlier. True: it was."""
    cdef uint64_t moved = streams.lasting.out_bytes + streams.lasting.in_bytes + streams.lasting.opened
    moved += streams.transmitter.datagrams.sent + streams.transmitter.datagrams.received
    if moved == rest.moved:
        return False
    rest.moved = moved
    rest.moved_at = now
    if not rest.on:
        return False
    end(rest, life, now)
    return True


cdef void rest_attach(SessionRest *rest, Liveness *life, int64_t now) noexcept:
    """A new carrier: nothing is known of its path, and it is watched closely."""
    end(rest, life, now)
    rest.moved_at = now
    liveness_attach(life, now)


cdef void rest_ask(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept:
    """cproxy has sent a heartbeat. If it is time for rest, tell sproxy that the next one comes late."""
    cdef uint8_t data[HEADER_BYTES]
    cdef Frame frame = Frame(FrameType.REST, FrameFlag.IGNORABLE, 0, 0, <uint64_t>rest.wanted_us, 0)
    if rest.on or rest.wanted_us <= life.heartbeat_us or streams.out_held > 0 or streams.in_held > 0 \
            or now - rest.moved_at < REST_AFTER * life.heartbeat_us:
        return
    encode_header(data, &frame)
    if streams.transmitter.add_control(data, sizeof(data)) == 0:
        begin(rest, life, rest.wanted_us, now)


cdef bint rest_take(SessionRest *rest, Liveness *life, StreamSet streams, uint64_t interval_us, int64_t now) noexcept:
    """sproxy: cproxy is at rest. If this side is not, cproxy is about to see that. False: nothing else follows."""
    rest_look(rest, life, streams, now)
    if streams.lasting.is_server and streams.out_held == 0:
        begin(rest, life, <int64_t>(interval_us & INT64_MAX), now)
        rest_heard(rest, life, now)
    return False


cdef void rest_heard(const SessionRest *rest, Liveness *life, int64_t now) noexcept:
    """A heartbeat came. At rest those of cproxy are enough, until they are overdue."""
    if rest.on and rest.wanted_us == 0:
        life.heartbeat_at = now + 2 * life.interval_us


cdef void begin(SessionRest *rest, Liveness *life, int64_t interval_us, int64_t now) noexcept:
    """Both sides know of it: heartbeats go this far apart from now on, and silence is judged by that."""
    rest.on = True
    life.interval_us = max(life.heartbeat_us, min(interval_us, <int64_t>REST_MOST_US))
    life.heartbeat_at = now + life.interval_us


cdef void end(SessionRest *rest, Liveness *life, int64_t now) noexcept:
    """Be quick again. What silence there was until now was agreed on."""
    rest.on = False
    life.interval_us = life.heartbeat_us
    life.alive_at = now
    life.heartbeat_at = min(life.heartbeat_at, now + life.heartbeat_us)
