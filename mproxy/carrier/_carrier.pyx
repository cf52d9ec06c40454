"""What every kind of carrier has to do. The whole contract: _carrier.pxd."""


cdef class Carrier:
    """Base: brings nothing and takes nothing."""

    cdef void begin(self, Work *work) noexcept:
        """The endpoint takes over: queue its work whenever a mark changes. May be `over` at once."""
        self.work = work

    cdef void join(self, Session session, Recipient *recipient) noexcept:
        """After `begin`: whose frames it carries, and who takes what comes in packets. For carriers that pull."""

    cdef long receive(self, size_t most, const uint8_t **data) noexcept:
        """Bring up to `most` bytes; returns how many lie at `data` until the next call of anything here.

        0: a sign of life, but no byte yet; -1: nothing has arrived.
        """
        return -1

    cdef size_t room(self, bint bulk_waits, bint *bulk_too) noexcept:
        """About how many bytes to offer now; 0: none, and it is no longer `writable`.

        `bulk_too`: streams that have much to send (`bulk_waits`: there are some) may take part.
        """
        bulk_too[0] = True
        return 0

    cdef size_t send(self, iovec *parts, int count, uint64_t overtakes) noexcept:
        """Take as many bytes of the parts as possible; returns how many. Unless it took all it is no longer `writable`.

        `overtakes`: how often small frames have gone before waiting bulk, ever.
        """
        return 0

    cdef void idle(self) noexcept:
        """After `room` nothing was left to offer, or only bulk, which it did not want."""

    cdef void bound(self, bint on) noexcept:
        """The peer is read more slowly than it would like: let little pile up on this side. Off: back to normal."""

    cdef void expect(self, int64_t interval_us, int64_t death_us) noexcept:
        """How far apart the peer's signs of life are from now on, and what silence the session counts as death."""

    cdef bint report(self, PathReport *path) noexcept:
        """Report on the path, when the endpoint is in doubt; false: nothing is known of it."""
        return False

    cdef void close(self, bint abort) noexcept:
        """End it. With `abort` what is on its way is given up: it is sent again on the next carrier."""

    cdef void end(self, str why) noexcept:
        """For implementers: it is over. The first reason counts."""
        if not self.over:
            self.over = True
            self.why = why

    def seek(self):
        """The peer is in doubt: ask again and again until it is heard. Nothing, where the system repeats by itself."""

    def addresses(self):
        """(local, peer) sockaddr tuples; None: there are none, or it is no longer connected."""
        return None

    def describe(self):
        """What it is, for log and status: a dict of `kind` and whatever else identifies one of that kind."""
        return {"kind": "none"}
