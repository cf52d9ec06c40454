"""The carrier that is a TCP connection. Life of a byte: _tcp_carrier.pxd."""

import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.carrier._carrier cimport PathReport
from mproxy.carrier._pace cimport (
    pace_bound, pace_bulk_room, pace_idle, pace_init, pace_note, pace_note_overtakes, pace_unbound,
)
from mproxy.carrier._tcp_info cimport tcp_report
from mproxy.carrier._tls cimport OPEN_MARGIN_BYTES
from mproxy.io._loop cimport (
    BUFFER_BYTES, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, Loop, Work,
)
from mproxy.io._socket cimport (
    IPPROTO_TCP, MSG_DONTWAIT, TCP_NODELAY, TCP_USER_TIMEOUT, close as close_descriptor, recv, reset_on_close,
    send_bytes, send_parts, set_option, ssize_t,
)
from mproxy.io._socket import addresses_of


cdef enum:
    GOODBYE_MS = 60000  # how long the system tries to deliver a carrier's last words; by itself it tries for minutes


cdef void carrier_ready(Source *source, uint32_t events) noexcept:
    cdef TcpCarrier carrier = <TcpCarrier>source.owner
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        carrier.readable = True
        carrier.hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
    if events & EPOLLOUT:
        carrier.writable = True
    carrier.loop.schedule(carrier.work)


cdef class TcpCarrier(Carrier):
    """`fd`, a connected socket, now belongs to the carrier. `tls`, whose handshake is over, seals and opens everything
    that follows; None: nothing is sealed."""

    def __cinit__(self):
        self.source.fd = -1

    def __init__(self, Loop loop not None, int fd, Tls tls=None):
        self.loop = loop
        self.source.fd = fd
        self.source.ready = carrier_ready
        self.source.owner = <void *>self
        self.tls = tls
        self.sealed = tls is not None
        if tls is not None:
            tls.forget()

    def __dealloc__(self):
        if self.source.fd >= 0:
            close_descriptor(self.source.fd)

    cdef void begin(self, Work *work) noexcept:
        self.work = work
        self.readable = self.writable = True
        set_option(self.source.fd, IPPROTO_TCP, TCP_NODELAY, 1)
        pace_init(&self.pace, self.source.fd)
        _open.add(self)
        if self.loop.add(&self.source, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) < 0:
            self.end(os.strerror(errno))

    # ---- bytes

    cdef long receive(self, size_t most, const uint8_t **data) noexcept:
        cdef size_t margin = OPEN_MARGIN_BYTES if self.tls is not None else 0
        cdef size_t length = min(most, BUFFER_BYTES - margin)
        cdef ssize_t n = recv(self.source.fd, self.loop.buffer + margin, length, MSG_DONTWAIT)
        cdef long opened
        data[0] = self.loop.buffer
        if n > 0:
            self.readable = <size_t>n == length or self.hung_up
            if self.tls is None:
                return n
            opened = self.tls.open_in_place(self.loop.buffer, n)
            if self.tls.broken or self.tls.ended:
                self.end(self.tls.why())
            return opened
        if n == 0:
            self.end("closed by the peer")
        elif errno == EAGAIN:
            self.readable = False
        elif errno != EINTR:
            self.end(os.strerror(errno))
        return -1

    cdef size_t room(self, bint bulk_waits, bint *bulk_too) noexcept:
        cdef size_t kept
        cdef int64_t bulk
        if self.tls is not None:
            kept = self.tls.unsent()
            self.send_kept(False)
            pace_note(&self.pace, 0, kept - self.tls.unsent(), self.loop.now_us)
            if self.tls.unsent() > 0:
                self.writable = False
                return 0
        bulk = pace_bulk_room(&self.pace, bulk_waits, self.loop.now_us)
        self.bulk_fits = bulk_too[0] = bulk > 0
        return min(self.pace.batch_bytes, <size_t>bulk) if bulk > 0 else self.pace.batch_bytes

    cdef size_t send(self, iovec *parts, int count, uint64_t overtakes) noexcept:
        cdef size_t offered = 0, taken, left = 0
        cdef int i
        for i in range(count):
            offered += parts[i].iov_len
        if self.tls is None:
            taken = self.send_plain(parts, count)
        else:
            taken = self.send_sealed(parts, count, offered)
            left = self.tls.unsent()
        pace_note(&self.pace, offered, taken - min(taken, left), self.loop.now_us)
        pace_note_overtakes(&self.pace, overtakes, self.loop.now_us)
        if taken < offered:
            self.writable = False
        return taken

    cdef size_t send_plain(self, iovec *parts, int count) noexcept:
        cdef ssize_t n = send_parts(self.source.fd, True, parts, count)
        while n < 0 and errno == EINTR:
            n = send_parts(self.source.fd, True, parts, count)
        if n < 0 and errno != EAGAIN:
            self.end(os.strerror(errno))
        return max(n, <ssize_t>0)

    cdef size_t send_sealed(self, iovec *parts, int count, size_t offered) noexcept:
        """Seal and send by turns until the socket is full; returns how much was sealed, which counts as sent."""
        cdef size_t sealed, done = 0
        while self.tls.unsent() == 0:
            sealed = self.tls.seal_parts(parts, count)
            if sealed == 0:
                break
            done += sealed
            self.send_kept(done < offered)
        if self.tls.broken:
            self.end(self.tls.why())
        return done

    cdef void send_kept(self, bint more) noexcept:
        """Send what is sealed, as far as the socket takes it; with `more` the next call follows at once."""
        cdef size_t left = self.tls.unsent()
        cdef ssize_t n
        if left == 0:
            return
        n = send_bytes(self.source.fd, self.tls.out_view(), left, more)
        if n >= 0:
            self.tls.out_sent(n)
        elif errno != EAGAIN:
            self.end(os.strerror(errno))

    # ---- how much at a time

    cdef void idle(self) noexcept:
        if self.bulk_fits:
            pace_idle(&self.pace)
        elif not self.holding:
            self.holding = True
            self.loop.call_later(self.pace.hold_us, self.on_hold_over)

    def on_hold_over(self):
        """Try bulk again; called by the loop."""
        self.holding = False
        if self.work != NULL:
            self.loop.schedule(self.work)

    cdef void bound(self, bint on) noexcept:
        if on:
            pace_bound(&self.pace, self.loop.now_us)
        else:
            pace_unbound(&self.pace, self.loop.now_us)

    # ---- what is known of it, and its end

    cdef bint report(self, PathReport *path) noexcept:
        return tcp_report(self.source.fd, path)

    cdef void close(self, bint abort) noexcept:
        if self.source.fd < 0:
            return
        if abort:
            reset_on_close(self.source.fd)
        else:
            set_option(self.source.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, GOODBYE_MS)
            if self.tls is not None and self.tls.unsent() == 0:
                self.tls.seal_end()
                self.send_kept(False)
        self.tls = None
        self.work = NULL
        self.loop.close(&self.source)
        # An event of this turn may still point here.
        self.loop.soon.append(lambda: _open.discard(self))

    def addresses(self):
        """(local, peer) sockaddr tuples; None: it is no longer connected."""
        return addresses_of(self.source.fd) if self.source.fd >= 0 else None

    def describe(self):
        """`kind` (tcp, tcp+tls), `local` and `peer` as (host, port)."""
        local, peer = self.addresses() or (("?", 0), ("?", 0))
        return {"kind": "tcp+tls" if self.sealed else "tcp", "local": local[:2], "peer": peer[:2]}


_open = set()  # carriers in use: the kernel holds a pointer to each
