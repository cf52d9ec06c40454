"""What carries a session's frames from host to host: all that an endpoint knows of the path.

Whoever dials or accepts makes a carrier of a connection that is ready: its handshake is over, HELLO and WELCOME have
been exchanged. The endpoint owns it from `begin` to `close`, one at a time. It looks at the marks, does what they
allow, and looks again when the carrier has queued its work.

Whoever implements a kind of carrier provides:

1. Frames of the peer, in order and without a gap, as the bytes of one stream: `receive`. Frames may begin and end
   anywhere in what one call brings.
2. The marks. They are changed before the endpoint's work is queued, or while the endpoint calls. `readable` and
   `writable` stay true until a call has found otherwise; `over` is set once, for good, with `why`.
3. How much it wants at a time, so that urgent bytes find a short queue: `room`. What it has taken cannot be taken back,
   and may get lost only with the whole carrier: the session repeats it on the next one.
4. An end that leaves nothing behind: after `close(True)` no more bytes are sent, after `close(False)` what was sent
   still arrives if it can. No call follows.

It may assume that all calls come from the loop's thread, that nobody else reads, writes or closes what it is made of,
and that `receive` and `send` are called only while their marks allow it. It need not know frames, but may: what `send`
is offered begins with the rest of a frame that was taken in part, if there is one, and every header is a part of its
own. It never calls Python, and calls the endpoint only by queueing its work.

A carrier of packets differs in three things. It `pulls`: `room` is 0, and wakes what asks the session for frames when a
packet may leave. What comes it gives to a `Recipient` at once, since a packet can be refused only before it is
acknowledged. And one of its ends may have `moved` to another address.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy._session cimport Session
from mproxy.io._loop cimport Loop, Work


cdef struct PathReport:
    int64_t answer_us      # longest time for an answer: the round trip and its variation (as RFC 6298)
    int64_t silent_us      # since the peer's system has acknowledged anything
    uint32_t repeats       # repetitions of the oldest unacknowledged packet, each after a timeout; 0: there is none
    uint32_t in_flight     # packets that the peer's system has not acknowledged
    uint64_t acked_bytes   # our bytes acknowledged so far
    uint32_t packets       # received so far
    uint32_t data_packets  # those with data, in order or not


cdef struct Recipient:
    bint (*take)(void *owner, const uint8_t *data, uint32_t length, bint is_parcel) noexcept  # False: no room for it
    void *owner                # for `take`, whose data are frames in order, or those of one packet: a parcel


cdef class Carrier:
    cdef readonly Loop loop    # runs the endpoint as well
    cdef Work *work            # the endpoint's; NULL before `begin` and after `close`
    cdef readonly bint sealed  # what the path sees is encrypted
    cdef readonly bint pulls   # it asks the session for frames by itself
    # marks
    cdef bint readable         # `receive` may bring something
    cdef bint writable         # `send` may take something
    cdef bint holding          # bulk waits for room; `work` is queued when it is time to ask again
    cdef bint over             # nothing will be received or sent any more
    cdef str why               # why it is over, for the log
    cdef bint denied           # the peer may have forgotten the connection; whoever has seen that takes the mark away
    cdef bint moved            # to another address: the peer, or a client; whoever has seen that takes the mark away

    cdef void begin(self, Work *work) noexcept
    cdef void join(self, Session session, Recipient *recipient) noexcept
    cdef long receive(self, size_t most, const uint8_t **data) noexcept
    cdef size_t room(self, bint bulk_waits, bint *bulk_too) noexcept
    cdef size_t send(self, iovec *parts, int count, uint64_t overtakes) noexcept
    cdef void idle(self) noexcept
    cdef void bound(self, bint on) noexcept
    cdef bint report(self, PathReport *path) noexcept
    cdef void expect(self, int64_t interval_us, int64_t death_us) noexcept
    cdef void close(self, bint abort) noexcept
    cdef void end(self, str why) noexcept
