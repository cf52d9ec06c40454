"""What every kind of carrier has to do. The contract as a whole: _carrier.pxd."""


cdef class Carrier:
    """Base: brings nothing and takes nothing."""

    cdef void begin(self, Work *work) noexcept:
        """The endpoint takes over: queue its work whenever a mark changes. May be `over` at once."""
        self.work = work

    cdef long receive(self, size_t most, const uint8_t **data) noexcept:
        """Bring up to `most` bytes; returns how many lie at `data` until the next call of anything here.

        0 is a sign of life without a whole byte to show for it; -1: nothing has come.
        """
        return -1

    cdef size_t room(self, bint bulk_waits, bint *bulk_too) noexcept:
        """How many bytes to offer now, about; 0: none, and it is not `writable` any more.

        `bulk_too`: streams that have much to send (`bulk_waits`: there are some) may have a part in them.
        """
        bulk_too[0] = True
        return 0

    cdef size_t send(self, iovec *parts, int count, uint64_t overtakes) noexcept:
        """Take the parts, or as many bytes as may be; returns how many. After less than all it is not `writable`.

        `overtakes`: how often, ever, little has gone before bulk that waited.
        """
        return 0

    cdef void idle(self) noexcept:
        """Nothing was left to offer after `room`, or only bulk, which it did not want."""

    cdef void bound(self, bint on) noexcept:
        """The peer is read more slowly than it would like: have little wait on this side. Off: as ever again."""

    cdef bint report(self, PathReport *path) noexcept:
        """Tell of the path, when the endpoint is in doubt; false: nothing is known of it."""
        return False

    cdef void close(self, bint abort) noexcept:
        """End it. With `abort` what is on its way is given up: it is sent again on the next carrier."""

    cdef void end(self, str why) noexcept:
        """For implementers: it is over. The first reason counts."""
        if not self.over:
            self.over = True
            self.why = why

    def addresses(self):
        """(local, peer) sockaddr tuples, or None: there are none, or it is not connected any more."""
        return None

    def describe(self):
        """What it is, for log and status: a dict of `kind` and what else identifies one of that kind."""
        return {"kind": "none"}
