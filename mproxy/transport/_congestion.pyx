"""What all controllers have in common, and the simplest of them; contract: _congestion.pxd."""


cdef class Congestion:
    """Base: a window of FIRST_PACKETS, unpaced."""

    def __init__(self, uint32_t packet_bytes):
        self.packet_bytes = packet_bytes
        self.window = FIRST_PACKETS * packet_bytes
        self.rate = 0

    cdef void on_ack(self, const AckSample *sample) noexcept:
        """An ack arrived, or losses were found, as `sample` says."""

    cdef void on_round_trip(self, int64_t rtt) noexcept:
        """The set-up took a round trip of `rtt`: the first window is spread over it."""
        self.rate = <uint64_t>(2 * self.window * 1000000 // rtt) if rtt > 0 else 0

    cdef void on_timeout(self, uint64_t in_flight, int64_t now) noexcept:
        """Probe after probe went unanswered: the path is dead, or so full that it amounts to the same."""

    cdef void on_spurious(self, int64_t now) noexcept:
        """Packets that counted as lost were only late."""

    cdef void on_packet_size(self, uint32_t packet_bytes) noexcept:
        """Full packets have another size from now on."""
        self.packet_bytes = packet_bytes
        if self.window < LEAST_PACKETS * packet_bytes:
            self.window = LEAST_PACKETS * packet_bytes

    cdef void start_again(self, int64_t now) noexcept:
        """The path is another one: forget what was learnt."""
        self.window = FIRST_PACKETS * self.packet_bytes


cdef class Fixed(Congestion):
    """A window of a fixed number of packets, whatever happens, as in course texts."""

    def __init__(self, uint32_t packet_bytes, uint32_t packets):
        super().__init__(packet_bytes)
        self.packets = packets
        self.window = <uint64_t>packets * packet_bytes

    cdef void on_round_trip(self, int64_t rtt) noexcept:
        pass

    cdef void on_packet_size(self, uint32_t packet_bytes) noexcept:
        self.packet_bytes = packet_bytes
        self.window = <uint64_t>self.packets * packet_bytes

    cdef void start_again(self, int64_t now) noexcept:
        pass
