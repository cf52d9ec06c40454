"""How much a carrier gets at a time. What for: _pace.pxd."""

from libc.limits cimport INT_MAX
from libc.string cimport memset


cdef extern from "<linux/tcp.h>" nogil:
    int TCP_NOTSENT_LOWAT, TCP_INFO, TCP_WINDOW_CLAMP
    struct tcp_info:
        uint32_t tcpi_min_rtt

cdef extern from "<linux/sockios.h>" nogil:
    int SIOCOUTQ

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int *value)

cdef extern from "<sys/socket.h>" nogil:
    int IPPROTO_TCP, SOL_SOCKET, SO_BUF_LOCK
    int getsockopt(int fd, int level, int name, void *value, unsigned int *length)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length)

cdef extern from "<netinet/in.h>" nogil:
    pass

cdef enum:
    MIN_BATCH_BYTES = 8192      # offered to a slow carrier
    FIRST_BATCH_BYTES = 65536   # offered to a carrier that has not been measured
    MAX_UNSENT_BYTES = 131072   # most that the kernel may hold unsent
    BATCH_US = 2000             # a batch is what the carrier takes in this time
    MEASURE_US = 10000          # shortest time to measure the rate over
    SHARED_US = 2000000         # how long after a small frame overtook bulk the queue on the path is kept short
    PATH_QUEUE_US = 6000        # how long it may then be
    BOUNDED_BYTES = 65536       # window of a peer who is not read as he would like
    BOUNDED_US = 1000000        # for so long at least
    SOCK_RCVBUF_LOCK = 2        # bit of SO_BUF_LOCK (Linux 5.15, net/sock.h): the kernel does not change the size


cdef void pace_init(Pace *pace, int fd) noexcept nogil:
    """Begin with a new carrier."""
    memset(pace, 0, sizeof(pace[0]))
    pace.fd = fd
    set_batch(pace, FIRST_BATCH_BYTES)


cdef void pace_idle(Pace *pace) noexcept nogil:
    """There is nothing to send: the carrier is not the bottleneck."""
    pace.since = 0


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
    """The carrier is not read as fast as its peer would like: what waits in the kernel is kept small.

    Otherwise a thousand such carriers fill the memory that all TCP connections of the host share, and the kernel then
    takes from everybody. The window gets no larger, and is not taken back: what is on its way is not dropped.
    """
    cdef int lock = SOCK_RCVBUF_LOCK, window = BOUNDED_BYTES
    pace.bounded_at = now
    if not pace.bounded:
        pace.bounded = True
        setsockopt(pace.fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock))
        setsockopt(pace.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &window, sizeof(window))


cdef void pace_unbound(Pace *pace, int64_t now) noexcept nogil:
    """The carrier is read: let the kernel find the window again, if `pace_bound` is long ago."""
    cdef int lock = 0, window = INT_MAX
    if pace.bounded and now - pace.bounded_at >= BOUNDED_US:
        pace.bounded = False
        setsockopt(pace.fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock))
        setsockopt(pace.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &window, sizeof(window))


cdef int64_t pace_bulk_room(Pace *pace, int64_t now) noexcept nogil:
    """How many bytes of bulk the carrier may get now; none or less: try again in a moment.

    While the carrier is shared no more is on its way than the path holds in its shortest round trip and
    PATH_QUEUE_US: little enough for a short queue, and enough to keep the path busy.
    """
    cdef tcp_info info
    cdef unsigned int length = sizeof(info)
    cdef int queued = 0
    if now >= pace.shared_until or pace.since == 0 or pace.rate == 0 or pace.batch_bytes == MAX_BATCH_BYTES:
        return MAX_BATCH_BYTES
    if getsockopt(pace.fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 or ioctl(pace.fd, SIOCOUTQ, &queued) < 0:
        return MAX_BATCH_BYTES
    return <int64_t>(pace.rate * (info.tcpi_min_rtt + PATH_QUEUE_US) // 1000000) - queued
