"""When to let packets gather before they are read: a pure calculation. Why: docs/decisions/relay-udp-gathering.md."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    PERIOD_US = 10000    # shortest time from one decision to the next
    BEGIN_GAP_US = 25    # gather once messages come closer together than this on average,
    STAY_GAP_US = 50     # and go on while they come closer than this
    ONE_WAY = 4          # and while there are at least this many of them to one packet the other way
    FULL = 96            # messages that are to come together,
    LONGEST_US = 300     # but none waits longer than this,
    QUEUE_SHARE = 4      # and they take at most this part of the kernel's queue: one in four
    PACKET_ROOM = 2304   # bytes that a packet of 1,500 bytes takes there
    REST_US = 1000000    # without gathering, after the kernel dropped a packet


cdef struct Gather:
    int64_t begun_at         # when the period began
    int64_t rests_until      # nothing gathers until then
    uint64_t came            # messages in the period
    uint64_t answered        # packets the other way, ever, when it began
    uint32_t dropped         # packets dropped by the kernel, modulo 2**32, when it began
    int64_t wait_us          # how long to let messages gather; 0: not at all
    int64_t full             # messages that are to come together


cdef int64_t gather_full(int64_t queue_bytes) noexcept nogil
cdef bint gather_is_due(const Gather *gather, int64_t now) noexcept nogil
cdef void gather_decide(Gather *gather, int64_t now, uint64_t answered, uint32_t dropped) noexcept nogil
