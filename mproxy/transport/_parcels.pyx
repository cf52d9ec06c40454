"""What whoever sends and takes parcels has to do. The whole contract: _parcels.pxd."""


cdef class Parcels:
    """Base: sends none and refuses all."""

    cdef bint prepare(self) noexcept:
        """A run of packets may leave: write into the connection's stream what is for that. Whether parcels wait."""
        return False

    cdef void fill(self, uint32_t room, Parcel *parcel) noexcept:
        """Make a parcel of at most `room` bytes; it counts as sent. `parcel.length` is 0: there is none so small."""
        parcel.length = 0

    cdef void acked(self, uint64_t tag) noexcept:
        """The peer has taken the parcel. This may be said after `lost`."""

    cdef bint lost(self, uint64_t tag) noexcept:
        """The parcel seems to be lost: what it said has to be said again, by another one. False: that was known."""
        return False

    cdef bint take(self, const uint8_t *data, uint32_t length, int64_t now) noexcept:
        """The peer's parcel came, in an authentic packet not seen before. False: as if it had been lost."""
        return False

    cdef void arrived(self, int64_t now) noexcept:
        """Packets were taken: the stream may have brought bytes."""

    cdef void left(self) noexcept:
        """All that may leave now has left."""

    cdef void rest(self) noexcept:
        """There was little to do for a while: give back what only much traffic needs."""
