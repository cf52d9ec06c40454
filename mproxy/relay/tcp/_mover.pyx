"""Bytes from one socket to another. The rules: _mover.pxd."""

from libc.errno cimport EAGAIN, EINTR, EINVAL, ENOMEM, errno

from mproxy._pool cimport pool_lent_bytes
from mproxy._ring cimport Ring, iovec, ring_append, ring_drop, ring_release, ring_used, ring_view
from mproxy.ground._stores cimport stores_done
from mproxy.io._loop cimport EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP
from mproxy.io._socket cimport (
    MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, SHUT_WR, pending_error, recv, send, send_parts, shutdown, ssize_t,
    unsent_bytes,
)
from mproxy.relay.tcp._pair_record cimport copy_buffer, note_copying, note_passed


cdef extern from "<fcntl.h>" nogil:
    int SPLICE_F_MOVE, SPLICE_F_NONBLOCK
    ssize_t splice(int fd_in, void *offset_in, int fd_out, void *offset_out, size_t length, unsigned int flags)

cdef enum:
    BULK_BYTES = 65536  # a read of this many is worth a pipe


cdef uint32_t READ_EVENTS = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET


cdef void side_mark(Side *side, uint32_t events) noexcept:
    """Note what an event says to be possible."""
    if events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        side.writable = True
    if events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        side.readable = True
        side.hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
        side.urgent |= (events & EPOLLPRI) != 0
        side.failed |= (events & EPOLLERR) != 0


cdef bint side_holds(const Side *side) noexcept:
    """Whether bytes wait for this socket."""
    return side.pipe != NULL or ring_used(&side.record.waiting) > 0


cdef int64_t side_owed(Side *side) noexcept:
    """Bytes meant for this socket that its peer's system has not acknowledged; EOF counts as one."""
    return unsent_bytes(side.source.fd) + ring_used(&side.record.waiting) + (side.pipe.held if side.pipe != NULL else 0)


cdef class Mover:
    """Moves the bytes of all pairs of one loop. SIGPIPE must be ignored, as Python does: splice has no MSG_NOSIGNAL."""

    def __init__(self, Loop loop):
        self.loop = loop
        self.buffer = loop.buffer if copy_buffer == NULL else copy_buffer
        self.pool = PipePool()

    cdef void watch(self, Side *side, bint awaits_space) noexcept:
        """Ask for events of the socket. Most never wait for space, and not asking for that saves each an event."""
        side.awaits_space = awaits_space
        self.loop.add(&side.source, READ_EVENTS | EPOLLOUT if awaits_space else READ_EVENTS)

    cdef void watch_again(self, Side *side) noexcept:
        """As `watch`, of a socket that the loop has for another source: its events come here from now on."""
        side.awaits_space = True
        self.loop.modify(&side.source, READ_EVENTS | EPOLLOUT)

    cdef void stalled(self, Side *sink) noexcept:
        """The socket takes no more for now."""
        sink.writable = False
        if not sink.awaits_space:
            sink.awaits_space = True
            self.loop.modify(&sink.source, READ_EVENTS | EPOLLOUT)

    cdef MoveOutcome move(self, Side *source, uint64_t *count) noexcept:
        """Move what `source` has to its other side; counts the bytes passed on."""
        cdef Side *sink = source.other
        cdef MoveOutcome outcome
        cdef int reads = 0
        if side_holds(sink):
            self.flush(sink, count)
        while source.readable and not source.read_ended and not side_holds(sink):
            if reads == TURN_READS:
                return AGAIN
            reads += 1
            outcome = WAITS
            if source.grade == SPLICED and not sink.broken:
                outcome = self.splice_some(source, count)
            if outcome == WAITS:
                self.copy_some(source, count)
        self.look_for_error(source)
        if source.read_ended and not sink.write_ended and not side_holds(sink) and not source.broken \
                and not sink.broken:
            sink.write_ended = sink.record.ended = True
            stores_done()
            if not source.write_ended:  # else both directions are through, and close(2) tells the peer
                shutdown(sink.source.fd, SHUT_WR)
        return WAITS

    cdef void copy_some(self, Side *source, uint64_t *count) noexcept:
        """One recv and one send. For a broken sink bytes are still read, or the source's end would never be seen."""
        cdef size_t most = SMALL_READ_BYTES
        cdef ssize_t n
        if source.grade != SMALL and pool_lent_bytes() < WAITING_BUDGET_BYTES:
            most = LARGE_READ_BYTES
        note_copying(source.other.record)
        n = recv(source.source.fd, self.buffer, most, MSG_DONTWAIT)
        if n > 0:
            source.readable = n == <ssize_t>most or source.hung_up or source.urgent
            if n >= BULK_BYTES and not source.urgent:
                source.grade = SPLICED
            else:
                source.grade = LARGE if n >= SMALL_READ_BYTES else SMALL
            self.deliver(source.other, self.buffer, <uint32_t>n, count)
        elif n == 0:
            source.read_ended = True
        elif errno == EAGAIN:
            source.readable = False
        elif errno != EINTR:
            source.read_ended = True
            self.fail(source)

    cdef MoveOutcome splice_some(self, Side *source, uint64_t *count) noexcept:
        """One splice into a pipe, and as much out of it as the sink takes; WAITS: copy instead."""
        cdef Side *sink = source.other
        cdef Pipe *pipe
        cdef ssize_t n
        cdef int error
        if source.urgent:
            source.grade = LARGE
            return WAITS
        pipe = self.pool.take(self.loop.now_us)
        if pipe == NULL:
            return WAITS
        pipe.record.user = sink.record.mark
        stores_done()
        n = splice(source.source.fd, NULL, pipe.write_fd, NULL, pipe.capacity, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
        if n <= 0:
            error = errno if n < 0 else 0
            self.pool.give(pipe)
            if error not in (0, EAGAIN, EINTR, EINVAL, ENOMEM):  # reported only once: recv would say EOF
                source.read_ended = True
                self.fail(source)
                return AGAIN
            if error == EAGAIN and not source.hung_up:
                source.readable = False
                return AGAIN
            return WAITS  # recv tells which it is
        pipe.held = <uint32_t>n
        sink.pipe = pipe
        note_passed(sink.record, <uint64_t>n)
        if n < SMALL_READ_BYTES:
            source.grade = LARGE
        self.flush_pipe(sink, count)
        return AGAIN

    cdef void deliver(self, Side *sink, const uint8_t *data, uint32_t length, uint64_t *count) noexcept:
        """Write the bytes; what the socket does not take waits in the ring."""
        cdef ssize_t n = 0
        cdef int flags = MSG_DONTWAIT | MSG_NOSIGNAL
        if sink.broken:
            return
        if sink.writable:
            if sink.other.hung_up and not sink.other.failed:  # EOF is next and can travel with these bytes
                flags |= MSG_MORE
            n = send(sink.source.fd, data, length, flags)
            if n < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.fail(sink)
                    return
                n = 0
            count[0] += n
            self.moved += n
            note_passed(sink.record, <uint64_t>n)
            if n == <ssize_t>length:
                return
            self.stalled(sink)
        sink.other.grade = SMALL  # the sink is the slow one: what larger reads bring would only wait here
        if ring_append(&sink.record.waiting, data + n, length - <uint32_t>n, NULL) < 0:  # lost, and so is the pair
            self.fail(sink)
            self.fail(sink.other)

    cdef void flush(self, Side *sink, uint64_t *count) noexcept:
        """Write what waits."""
        self.flush_ring(sink, count)
        if sink.pipe != NULL:
            self.flush_pipe(sink, count)

    cdef void flush_ring(self, Side *sink, uint64_t *count) noexcept:
        cdef Ring *ring = &sink.record.waiting
        cdef iovec parts[2]
        cdef uint32_t waiting
        cdef ssize_t n
        while sink.writable and ring_used(ring) > 0:
            waiting = ring_used(ring)
            n = send_parts(sink.source.fd, True, parts, ring_view(ring, ring.head, waiting, parts))
            if n >= 0:
                ring_release(ring, ring.head + n, NULL)
                count[0] += n
                self.moved += n
                if n < <ssize_t>waiting:
                    self.stalled(sink)
            elif errno == EAGAIN:
                self.stalled(sink)
            elif errno != EINTR:
                self.fail(sink)

    cdef void flush_pipe(self, Side *sink, uint64_t *count) noexcept:
        cdef Pipe *pipe = sink.pipe
        cdef ssize_t n
        while sink.writable and pipe.held > 0:
            n = splice(pipe.read_fd, NULL, sink.source.fd, NULL, pipe.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if n > 0:
                pipe.held -= <uint32_t>n
                count[0] += n
                self.moved += n
            elif n < 0 and errno == EAGAIN:
                self.stalled(sink)
            elif n == 0 or errno != EINTR:
                self.fail(sink)
                return
        if pipe.held == 0:
            sink.pipe = NULL
            self.pool.give(pipe)

    cdef void fail(self, Side *side) noexcept:
        """The socket reported an error: what it received before can still be read; what waits for it is dropped."""
        side.broken = side.record.broken = True
        stores_done()
        side.failed = False
        side.readable = side.hung_up = True
        self.drop(side)

    cdef void look_for_error(self, Side *side) noexcept:
        """Fetch an error that no read will report, because the socket is not read: the other side is slow, or its end
        has been read."""
        if side.failed and not side.broken and not (side.readable and not side.read_ended and side.other.writable):
            side.failed = False
            if pending_error(side.source.fd) != 0:
                self.fail(side)

    cdef void drop(self, Side *side) noexcept:
        """Forget what waits for this socket."""
        ring_drop(&side.record.waiting, NULL)
        if side.pipe != NULL:
            self.pool.give(side.pipe)
            side.pipe = NULL
