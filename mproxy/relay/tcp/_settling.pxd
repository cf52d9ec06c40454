"""Where the bytes of one direction were when a worker died: the rule.

Whatever was read from the one socket and not written to the other is in exactly one place: in a pipe; in the ring; or
in the buffer, of which nothing is in the ring yet. How much that is the kernel knows: it has counted what was read and
what was written, and knows what is in the pipe. Why there is no other case:
docs/decisions/relay-outlives-its-workers.md.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mproxy.relay.tcp._pair_record cimport SideRecord


cdef enum Settled:
    IN_RING = 0     # what there is, or nothing, is in the ring, and the ring is right
    IN_PIPE = 1     # all of it is in the pipe, and the ring is empty
    CONTRADICTION = 2  # nothing was changed; a byte may be lost, or come twice


cdef struct Copied:
    const uint8_t *bytes  # the buffer
    uint32_t user         # mark of the side for which it was last used
    uint64_t start        # place of its first byte among the bytes for that side


cdef Settled settle_bytes(
    SideRecord *sink, uint64_t read, uint64_t written, uint64_t piped, const Copied *copied) noexcept nogil
cdef void forget_bytes(SideRecord *sink, uint64_t read) noexcept nogil
