"""How much a carrier gets at a time. Why: _pace.pxd."""

from libc.limits cimport INT_MAX
from libc.stdint cimport INT64_MAX
from libc.string cimport memset

from mproxy.carrier._flight cimport LEAST_FLIGHT_BYTES, FlightReport, flight_bound, flight_idle, flight_init
from mproxy.carrier._linux_tcp cimport (
    IPPROTO_TCP, SOL_SOCKET, TCP_INFO, TCP_NOTSENT_LOWAT, TCP_WINDOW_CLAMP, getsockopt, setsockopt, tcp_info,
)
from mproxy.ground._sockaddr cimport socklen_t


cdef extern from "<linux/sockios.h>" nogil:
    int SIOCOUTQ

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int *value)

cdef extern from "<sys/socket.h>" nogil:
    int SO_BUF_LOCK

cdef enum:
    MIN_BATCH_BYTES = 8192      # least offered to a slow carrier
    FIRST_BATCH_BYTES = 65536   # offered to a carrier that has not been measured
    MAX_UNSENT_BYTES = 131072   # most that the kernel may hold unsent
    BATCH_US = 2000             # a batch is what the carrier takes in this time
    MEASURE_US = 10000          # shortest time to measure the rate over
    SHARED_US = 2000000         # how long after a small frame overtook bulk the queue on the path is kept short
    PATH_QUEUE_US = 6000        # how long that queue may then be
    LONG_RTT_US = 5000          # on a shorter path the kernel would run dry before we look again
    HOLD_US = 1000              # waiting bulk looks for room on the path again after this, or later on a slow path:
    HOLD_MOST_US = 20000        # at most after this
    BOUNDED_BYTES = 65536       # window of a peer that is not read as fast as it would like
    BOUNDED_US = 1000000        # for at least this long
    SOCK_RCVBUF_LOCK = 2        # bit of SO_BUF_LOCK (Linux 5.15, net/sock.h): the kernel does not change the size


cdef void pace_init(Pace *pace, int fd) noexcept nogil:
    """Begin with a new carrier."""
    memset(pace, 0, sizeof(pace[0]))
    pace.fd = fd
    flight_init(&pace.flight)
    set_batch(pace, FIRST_BATCH_BYTES)


cdef void pace_idle(Pace *pace) noexcept nogil:
    """There is nothing to send: the carrier is not the bottleneck."""
    pace.since = 0
    flight_idle(&pace.flight)


cdef void pace_note(Pace *pace, size_t offered, size_t taken, int64_t now) noexcept nogil:
    """The carrier took `taken` of `offered` bytes: measure its rate and size the batches by it."""
    cdef int64_t elapsed
    cdef uint64_t rate
    if pace.since == 0:
        if taken < offered:
            pace.since = now
            pace.taken_bytes = 0
        elif offered >= pace.batch_bytes:
            set_batch(pace, 2 * pace.batch_bytes)
        return
    pace.taken_bytes += taken
    elapsed = now - pace.since
    if elapsed >= MEASURE_US:
        rate = pace.taken_bytes * 1000000 // elapsed
        pace.rate = (3 * pace.rate + rate) // 4 if pace.rate else rate
        set_batch(pace, pace.rate * BATCH_US // 1000000)
        pace.since = now
        pace.taken_bytes = 0


cdef void set_batch(Pace *pace, uint64_t size) noexcept nogil:
    """Change the batch size by half or more; less is not worth a system call."""
    cdef uint32_t batch = <uint32_t>min(max(size, <uint64_t>MIN_BATCH_BYTES), <uint64_t>MAX_BATCH_BYTES)
    cdef int unsent = <int>min(batch, <uint32_t>MAX_UNSENT_BYTES)
    if 2 * batch <= pace.batch_bytes or batch >= 2 * pace.batch_bytes:
        pace.batch_bytes = batch
        setsockopt(pace.fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent))


cdef void pace_note_overtakes(Pace *pace, uint64_t overtakes, int64_t now) noexcept nogil:
    """`overtakes` counts small frames that went before waiting bulk."""
    if overtakes != pace.overtakes:
        pace.overtakes = overtakes
        pace.shared_until = now + SHARED_US


cdef void pace_bound(Pace *pace, int64_t now) noexcept nogil:
    """The carrier is not read as fast as its peer would like: keep small what waits in the kernel.

    Otherwise a thousand such carriers would fill the memory that all TCP connections of the host share, and the kernel
    would take from everybody. The window no longer grows, but does not shrink: what is on its way is not dropped.
    """
    cdef int lock = SOCK_RCVBUF_LOCK, window = BOUNDED_BYTES
    pace.bounded_at = now
    if not pace.bounded:
        pace.bounded = True
        setsockopt(pace.fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock))
        setsockopt(pace.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &window, sizeof(window))


cdef void pace_unbound(Pace *pace, int64_t now) noexcept nogil:
    """The carrier is read: let the kernel choose the window again, if `pace_bound` was long enough ago."""
    cdef int lock = 0, window = INT_MAX
    if pace.bounded and now - pace.bounded_at >= BOUNDED_US:
        pace.bounded = False
        setsockopt(pace.fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock))
        setsockopt(pace.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &window, sizeof(window))


cdef int64_t pace_bulk_room(Pace *pace, bint bulk_waits, int64_t now) noexcept nogil:
    """How many bytes of bulk the carrier may get now; 0 or less: try again after `hold_us`.

    While the path is slow or unknown `flight` says how many; otherwise it is a whole batch or nothing. While the
    carrier is shared no more is in flight than the path takes in its shortest round trip and PATH_QUEUE_US: little
    enough for a short queue, and enough to keep the path busy. Otherwise, and while the rate is unknown, the kernel
    gets twice what it has in flight, so that it always has something to send, and a later key stroke has little in
    front of it.
    """
    cdef tcp_info info
    cdef socklen_t length = sizeof(info)
    cdef int queued = 0
    cdef int64_t room
    cdef bint shared = now < pace.shared_until
    if not bulk_waits or pace.batch_bytes == MAX_BATCH_BYTES:
        return MAX_BATCH_BYTES
    memset(&info, 0, sizeof(info))
    if getsockopt(pace.fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 or ioctl(pace.fd, SIOCOUTQ, &queued) < 0:
        return MAX_BATCH_BYTES
    room = slow_room(pace, &info, queued, shared, now)
    if room < INT64_MAX:
        return room
    if shared and pace.since and pace.rate:
        room = max(<int64_t>(pace.rate * (info.tcpi_min_rtt + PATH_QUEUE_US) // 1000000), <int64_t>LEAST_FLIGHT_BYTES)
    elif info.tcpi_rtt >= LONG_RTT_US:
        room = 2 * <int64_t>info.tcpi_snd_cwnd * info.tcpi_snd_mss
    else:
        return MAX_BATCH_BYTES
    return MAX_BATCH_BYTES if hold_back(pace, room - queued, pace.rate) > 0 else 0


cdef int64_t slow_room(Pace *pace, const tcp_info *info, int queued, bint shared, int64_t now) noexcept nogil:
    """The same while the path is slow or unknown; INT64_MAX: it is neither."""
    cdef FlightReport report
    cdef int64_t bound
    report.acked_bytes = info.tcpi_bytes_acked
    report.unacked_bytes = queued
    report.rtt_us = info.tcpi_rtt
    report.least_rtt_us = min(info.tcpi_min_rtt, info.tcpi_rtt)
    report.segment_bytes = info.tcpi_snd_mss
    report.window_bytes = <int64_t>info.tcpi_snd_cwnd * info.tcpi_snd_mss
    report.shared = shared
    bound = flight_bound(&pace.flight, &report, now)
    return hold_back(pace, bound - queued, pace.flight.rate) if bound < INT64_MAX else INT64_MAX


cdef int64_t hold_back(Pace *pace, int64_t room, uint64_t rate) noexcept nogil:
    """Return `room`; when there is none, note when to look again."""
    pace.hold_us = HOLD_US
    if room <= 0 and rate:
        pace.hold_us = min(max(-room * 1000000 // <int64_t>rate, <int64_t>HOLD_US), <int64_t>HOLD_MOST_US)
    return room
