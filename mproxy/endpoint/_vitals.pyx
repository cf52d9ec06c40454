"""What follows from a carrier's report on its path. Why it is asked: _vitals.pxd."""

from libc.string cimport memset

from mproxy._liveness cimport liveness_death_us, liveness_note_life, liveness_note_path
from mproxy._rest cimport rest_look
from mproxy.carrier._carrier cimport PathReport


cdef enum:
    MUCH_BYTES = 512      # more than heartbeats alone amount to between two looks
    REPEATS = 3           # repetitions of a packet in vain, one timeout after the other, that mean that it is too large
    REPEATS_MORE = 3      # how many more on a path that failed like that before
    USEFUL_BYTES = 65536  # a carrier that moved this much was of use
    PATIENCE_MOST = 8     # times the usual silence are granted, at most, when carriers are of no use


cdef uint64_t moved_bytes(Session session) noexcept:
    """Bytes that the session's applications have got, both ways."""
    return session.lasting.in_bytes + session.lasting.out_bytes - session.streams.out_held


cdef void vitals_attach(Vitals *vitals, Session session, int64_t now) noexcept:
    """Begin with a new carrier. If the last ones were of no use it is granted more time."""
    cdef int failures = vitals.failures
    memset(vitals, 0, sizeof(vitals[0]))
    vitals.failures = failures
    vitals.attached_at = now
    vitals.moved = moved_bytes(session)
    vitals.released = session.lasting.out_bytes - session.streams.out_held
    session.life.patience = min(<int64_t>1 << min(max(0, failures - 1), 8), <int64_t>PATIENCE_MOST)


cdef void vitals_examine(Vitals *vitals, Session session, Carrier carrier, int64_t now) noexcept:
    """If there is any doubt (a heartbeat missed, a byte not answered, nothing acknowledged since the last timer) ask
    the carrier, and tell the session what follows."""
    cdef uint64_t released = session.lasting.out_bytes - session.streams.out_held
    cdef bint held = session.streams.out_held > 0 and released == vitals.released
    vitals.released = released
    if held or session.life.unanswered_at or now - session.life.alive_at >= session.life.interval_us:
        look(vitals, session, carrier, now)


cdef void look(Vitals *vitals, Session session, Carrier carrier, int64_t now) noexcept:
    """Data out of order means that something before it is missing while the peer goes on sending: a stall, not silence.
    A mere acknowledgement says less: the peer's system, or somebody in the middle, gives it even when nobody reads.
    """
    cdef PathReport path
    cdef uint32_t repeats = REPEATS + min(max(0, vitals.failures - 2), <int>REPEATS_MORE)
    if not carrier.report(&path):
        return
    liveness_note_path(&session.life, path.answer_us)
    if path.repeats >= repeats and path.silent_us < 2 * session.life.interval_us:
        vitals.loses_full = True
    if vitals.looked_at > session.received_at:
        if path.data_packets != vitals.data_packets or path.acked_bytes - vitals.acked_bytes > MUCH_BYTES:
            liveness_note_life(&session.life, now)
        elif path.packets != vitals.packets and path.acked_bytes != vitals.acked_bytes:
            vitals.only_acks = True
    vitals.looked_at = now
    vitals.acked_bytes = path.acked_bytes
    vitals.packets = path.packets
    vitals.data_packets = path.data_packets


cdef bint vitals_sent(Session session, int64_t now) noexcept:
    """Something was sent. True: bytes of applications, and they are the first to wait for a sign of life; or they have
    ended the session's rest."""
    cdef bint woken = session.rest.on and rest_look(&session.rest, &session.life, session.streams, now)
    if session.life.unanswered_at != 0 or session.streams.out_held == 0:
        return woken
    session.life.unanswered_at = now
    return True


cdef int vitals_news(Vitals *vitals, Session session) noexcept:
    """Whether full packets get lost, if that is news: 1 perhaps, 2 certainly; else 0."""
    cdef int verdict = 0
    if vitals.loses_full:
        verdict = 2
    elif vitals.only_acks and session.life.suspect:
        verdict = 1
    if verdict <= vitals.told:
        return 0
    vitals.told = verdict
    return verdict


cdef void vitals_died(Vitals *vitals, Session session) noexcept:
    """The carrier died of silence."""
    cdef bint useless = moved_bytes(session) - vitals.moved < USEFUL_BYTES and (
        session.received_at - vitals.attached_at < liveness_death_us(&session.life))
    vitals.failures = vitals.failures + 1 if useless else 0
