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
    rest.told_us = 0
    liveness_attach(life, now)


cdef void rest_ask(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept:
    """cproxy has sent a heartbeat. If it is time for rest, or for another one, tell sproxy when the next one comes."""
    cdef int64_t wanted = max(rest.wanted_us, rest.told_us)
    if streams.lasting.is_server or max(wanted, life.heartbeat_us) == life.interval_us or streams.out_held > 0 \
            or streams.in_held > 0 or now - rest.moved_at < REST_AFTER * life.heartbeat_us:
        return
    if say_rest(streams, wanted) == 0:
        begin(rest, life, wanted, now)


cdef bint rest_take(SessionRest *rest, Liveness *life, StreamSet streams, uint64_t interval_us, int64_t now) noexcept:
    """sproxy: cproxy is at rest. If this side is not, cproxy is about to see that. cproxy: sproxy would like it to be.
    False: nothing else follows."""
    if not streams.lasting.is_server:
        rest.told_us = <int64_t>min(interval_us, <uint64_t>REST_TOLD_MOST_US)
        return False
    rest_look(rest, life, streams, now)
    if streams.out_held == 0:
        begin(rest, life, <int64_t>(interval_us & INT64_MAX), now)
        rest_heard(rest, life, streams, now)
    return False


cdef bint rest_spares(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept:
    """sproxy: its heartbeat is due. True: it is left out, since nothing moves, nothing waits for its echo or goes with
    it, and the peer's come in time."""
    if not streams.lasting.is_server or rest.on or now - rest.moved_at < REST_AFTER * life.heartbeat_us \
            or streams.out_held > 0 or streams.finished_list.count > 0 or streams.transmitter.later.count > 0 \
            or 2 * (now - life.alive_at) > 3 * life.interval_us:
        return False
    life.heartbeat_at = now + life.interval_us
    rest_tell(rest, life, streams)
    return True


cdef void rest_heard(SessionRest *rest, Liveness *life, StreamSet streams, int64_t now) noexcept:
    """A heartbeat came. At rest those of cproxy are enough, until they are overdue."""
    if rest.on and streams.lasting.is_server:
        life.heartbeat_at = now + 2 * life.interval_us
        rest_tell(rest, life, streams)


cdef void rest_tell(SessionRest *rest, Liveness *life, StreamSet streams) noexcept:
    """sproxy: nothing moves. If heartbeats come too often for so many sessions, or far less often than they might, ask
    for another interval."""
    cdef int64_t spread = min(rest.spread_us, <int64_t>REST_TOLD_MOST_US)
    cdef int64_t told = max(rest.told_us, life.heartbeat_us)
    if 2 * spread >= 3 * told or (rest.told_us > 0 and 2 * spread < told):
        spread = max(spread, life.heartbeat_us)
        if spread != rest.told_us and say_rest(streams, spread) == 0:
            rest.told_us = spread


cdef int say_rest(StreamSet streams, int64_t interval_us) noexcept:
    """Queue a REST; -1: there is no memory."""
    cdef uint8_t data[HEADER_BYTES]
    cdef Frame frame = Frame(FrameType.REST, FrameFlag.IGNORABLE, 0, 0, <uint64_t>interval_us, 0)
    encode_header(data, &frame)
    return streams.transmitter.add_control(data, sizeof(data))


cdef void begin(SessionRest *rest, Liveness *life, int64_t interval_us, int64_t now) noexcept:
    """Both sides know of it: heartbeats go this far apart from now on, and silence is judged by that."""
    cdef int64_t before = life.interval_us
    rest.on = True
    life.interval_us = max(life.heartbeat_us, min(interval_us, <int64_t>REST_MOST_US))
    if life.interval_us < before:
        life.alive_at = now  # the silence until now was agreed on
    life.heartbeat_at = now + life.interval_us


cdef void end(SessionRest *rest, Liveness *life, int64_t now) noexcept:
    """Be quick again. What silence there was until now was agreed on."""
    rest.on = False
    life.interval_us = life.heartbeat_us
    life.alive_at = now
    life.heartbeat_at = min(life.heartbeat_at, now + life.heartbeat_us)
