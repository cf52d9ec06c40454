"""Reading a carrier's TCP_INFO. What for: _vitals.pxd."""

from libc.string cimport memset

from mproxy._liveness cimport liveness_death_us, liveness_note_life, liveness_note_path


cdef extern from "<linux/tcp.h>" nogil:
    int TCP_INFO
    struct tcp_info:
        unsigned char tcpi_retransmits
        uint32_t tcpi_unacked
        uint32_t tcpi_last_ack_recv
        uint32_t tcpi_rtt
        uint32_t tcpi_rttvar
        uint64_t tcpi_bytes_acked
        uint32_t tcpi_segs_in
        uint32_t tcpi_data_segs_in

cdef extern from "<sys/socket.h>" nogil:
    int IPPROTO_TCP
    int getsockopt(int fd, int level, int name, void *value, unsigned int *length)

cdef extern from "<netinet/in.h>" nogil:
    pass

cdef enum:
    MUCH_BYTES = 512      # more than heartbeats alone come to between two looks
    REPEATS = 3           # vain repetitions of a segment, one timeout after the other, that mean that it is too large
    REPEATS_MORE = 3      # more of them on a path that failed like that before
    USEFUL_BYTES = 65536  # a carrier that moved so much was of use
    PATIENCE_MOST = 8     # times the usual silence are granted where carriers are of none


cdef uint64_t moved_bytes(Session session) noexcept:
    """What the session's applications have got, both ways."""
    return session.in_bytes + session.out_bytes - session.out_held


cdef void vitals_attach(Vitals *vitals, Session session, int fd, int64_t now) noexcept:
    """Begin with a new carrier. Where the last ones were of no use it is granted more."""
    cdef int failures = vitals.failures
    memset(vitals, 0, sizeof(vitals[0]))
    vitals.fd = fd
    vitals.failures = failures
    vitals.attached_at = now
    vitals.moved = moved_bytes(session)
    vitals.released = session.out_bytes - session.out_held
    session.life.patience = min(<int64_t>1 << min(max(0, failures - 1), 8), <int64_t>PATIENCE_MOST)


cdef void vitals_examine(Vitals *vitals, Session session, int64_t now) noexcept:
    """Ask the kernel if there is any doubt: a heartbeat missed, a byte not answered, nothing acknowledged since the
    last timer; and tell the session what follows."""
    cdef uint64_t released = session.out_bytes - session.out_held
    cdef bint held = session.out_held > 0 and released == vitals.released
    vitals.released = released
    if held or session.life.unanswered_at or now - session.life.alive_at >= session.life.heartbeat_us:
        look(vitals, session, now)


cdef void look(Vitals *vitals, Session session, int64_t now) noexcept:
    """Out of order means that something is missing in front, and the peer goes on sending: a stall, not silence. A mere
    acknowledgement says less: the peer's kernel, or somebody in the middle, gives it when nobody reads any more.
    """
    cdef tcp_info info
    cdef unsigned int length = sizeof(info)
    cdef int repeats = REPEATS + min(max(0, vitals.failures - 2), <int>REPEATS_MORE)
    cdef bint answers
    memset(&info, 0, sizeof(info))
    if getsockopt(vitals.fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0:
        return
    liveness_note_path(&session.life, <int64_t>info.tcpi_rtt + 4 * <int64_t>info.tcpi_rttvar)  # as RFC 6298's timeout
    answers = <int64_t>info.tcpi_last_ack_recv * 1000 < 2 * session.life.heartbeat_us
    if info.tcpi_unacked > 0 and info.tcpi_retransmits >= repeats and answers:
        vitals.loses_full = True
    if vitals.looked_at > session.received_at:
        if info.tcpi_data_segs_in != vitals.data_segments or info.tcpi_bytes_acked - vitals.acked_bytes > MUCH_BYTES:
            liveness_note_life(&session.life, now)
        elif info.tcpi_segs_in != vitals.segments and info.tcpi_bytes_acked != vitals.acked_bytes:
            vitals.only_acks = True
    vitals.looked_at = now
    vitals.acked_bytes = info.tcpi_bytes_acked
    vitals.segments = info.tcpi_segs_in
    vitals.data_segments = info.tcpi_data_segs_in


cdef int vitals_news(Vitals *vitals, Session session) noexcept:
    """Whether full segments get lost, when that is news: 1 perhaps, 2 surely; else 0."""
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
