"""What becomes of a session: _udp_session.pxd."""

from libc.string cimport memcpy, memset

from mproxy.io._packets cimport AF_INET, packet_count
from mproxy.relay._balance cimport Backend
from mproxy.relay.udp._sessions cimport ANSWERED, OF_TABLE, SETTLED, TWO_WAY, WAITING


cdef void session_begin(Session *session) noexcept nogil:
    """It has nothing to do with its address yet."""
    session.answered = False
    session.asked_at = 0
    session.asked = session.owed = 0


cdef void session_sent(Session *session, uint32_t packets, int64_t now) noexcept nogil:
    """The client's packets went to the target."""
    session.asked += packets
    session.owed += packets
    if session.asked_at == 0:
        session.asked_at = now


cdef void session_heard(Session *session, const Slot *slots, int count) noexcept:
    """Replies came, in so many slots."""
    cdef uint32_t answers = 0
    cdef int i
    if session.owed and session.entry.standings[OF_TABLE] != TWO_WAY:
        for i in range(count):
            answers += packet_count(slots[i].length, slots[i].segment)
        session.owed -= min(session.owed, answers)
    session.answered = True
    session.asked_at = 0
    session.patience_us = LOST_US


cdef bint session_is_due(const Session *session, int64_t now) noexcept:
    """Whether to look for another address before the next packet."""
    return (<Backend>session.backend).gone or (
        session.asked_at != 0 and now - session.asked_at >= session.patience_us)


cdef bint session_may_leave(Session *session, Balance balance, int64_t now) noexcept:
    """Whether a session that is due has a reason to leave its address."""
    cdef Backend backend = <Backend>session.backend
    if backend.gone:
        return True
    if len(balance.backends) < 2:
        return False
    if session.answered:
        return backend.answered_at < session.asked_at
    if session.asked >= STREAM_PACKETS:
        return False
    if now - session.asked_at < KNOWN_PATIENCE_US and backend.answered_at and now - backend.answered_at < KNOWN_US:
        return False
    session.patience_us = min(2 * session.patience_us, <int64_t>LONGEST_PATIENCE_US)
    return True


cdef int64_t session_rest_us(const Session *session, Balance balance, int64_t now) noexcept:
    """How long its port has to rest when it leaves it."""
    cdef int64_t rest_us = REST_ANSWERED_US
    if balance.answered_at == 0:
        rest_us = REST_UNHEARD_US
    elif session.owed or session.entry.standings[OF_TABLE] == TWO_WAY:
        rest_us = REST_US
    return max(<int64_t>0, session.entry.used_at + rest_us - now)


cdef bint session_is_owed(const Session *session, int64_t now) noexcept nogil:
    """Whether an answer may still come: then nobody else can have its port."""
    cdef int64_t silent = now - session.entry.used_at
    cdef int standing = session.entry.standings[OF_TABLE]
    if standing == TWO_WAY and session.asked_at == 0:
        return silent < QUIET_US
    return (standing in (TWO_WAY, WAITING) or session.owed) and silent < REST_US


cdef Session *session_without_debt(const Roll *roll, int64_t now) noexcept nogil:
    """Who makes room when ports run out: as in _sessions.pxd, but only who leaves a port that another one can have.
    NULL: nobody; then a newcomer has to wait, as the room would be of no use to him."""
    cdef const Entry *candidates[4]
    cdef int i
    candidates[0] = roll.lines[TWO_WAY].first if roll.lines[TWO_WAY].count > roll.count - roll.count // 4 else NULL
    candidates[1] = roll.lines[ANSWERED].first
    candidates[2] = roll.lines[SETTLED].last
    candidates[3] = roll.lines[WAITING].first
    for i in range(4):
        if candidates[i] != NULL and not session_is_owed(<const Session *>candidates[i], now):
            return <Session *>candidates[i]
    return NULL


cdef void session_key(const Slot *slot, const Address *bound, bint is_wildcard, Key *out) noexcept:
    """Whose session a packet belongs to that came to a socket with that address."""
    cdef const Address *sender = &slot.sender
    memset(out, 0, sizeof(Key))
    if sender.any.sa_family == AF_INET:
        out.client[10] = out.client[11] = 0xFF
        memcpy(&out.client[12], &sender.v4.sin_addr, 4)
        out.client_port = sender.v4.sin_port
    else:
        memcpy(out.client, &sender.v6.sin6_addr, 16)
        out.client_port = sender.v6.sin6_port
        out.scope = sender.v6.sin6_scope_id
    if is_wildcard:
        memcpy(out.local, slot.local.bytes, 16)
    elif bound.any.sa_family == AF_INET:
        memcpy(out.local, &bound.v4.sin_addr, 4)
    else:
        memcpy(out.local, &bound.v6.sin6_addr, 16)
    out.local_port = bound.v4.sin_port  # at the same place in both families


# ---- those with replies

cdef bint ready_add(Ready *ready, Session *session) noexcept nogil:
    """Enter the session at the end; false when it is there already."""
    if session.queued:
        return False
    session.queued = True
    session.next = NULL
    session.prev = ready.last
    if ready.last != NULL:
        ready.last.next = session
    else:
        ready.first = session
    ready.last = session
    ready.count += 1
    return True


cdef void ready_remove(Ready *ready, Session *session) noexcept nogil:
    """Take the session out, if it is there."""
    if not session.queued:
        return
    session.queued = False
    if session.prev != NULL:
        session.prev.next = session.next
    else:
        ready.first = session.next
    if session.next != NULL:
        session.next.prev = session.prev
    else:
        ready.last = session.prev
    ready.count -= 1
