"""Which received messages can leave together, as one train (UDP_SEGMENT): a pure calculation."""

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    RUN_BYTES = 65507         # of a joined train: what fits into one IPv4 packet before it is segmented
    RUN_SEGMENTS = 64         # of a joined train: as many packets as every kernel with UDP_SEGMENT accepts
    ANY_SEGMENT = 0xFFFFFFFF  # no segment has failed yet


cdef struct Piece:
    uint8_t *data      # one received message: a packet, or a train of them
    uint32_t length    # bytes
    uint32_t segment   # bytes of each packet but the last; `length` when it is one packet


cdef struct Run:
    int pieces         # how many of the pieces leave together
    uint32_t segment   # bytes of each packet but the last; 0: one packet
    bint one_by_one    # it came as a train, but segments of this size have failed


cdef void run_next(const Piece *pieces, int count, uint32_t segment_limit, Run *out) noexcept nogil
