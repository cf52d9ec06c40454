"""How often each source may begin a connection or flow: `new-per-source=`, over all rules and workers.

A source is an IPv4 address, or the first 64 bits of an IPv6 one: whoever has an IPv6 network has that many addresses.
Of each (rule, source) one number is kept, the time at which it will have paid for all it has begun (GCRA, ITU-T I.371):
one begun costs one interval; who would be more than `burst` intervals ahead is refused, and that costs nothing.

The table is in memory that all workers share, and bounded: a source has its place in one of SETS, which holds WAYS of
them. One that has paid for everything need not be remembered; when none of a set has, the one that has least to pay is
forgotten, so that a flood of sources costs the limit of a few, and no memory.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from mproxy.ground._sockaddr cimport sockaddr


cdef enum:
    WAYS = 8
    SETS = 16384
    LIMITED_TELL_US = 10000000  # from one report of a rule to the next: a flood must not fill the log


cdef struct SourceDebt:
    uint64_t tag   # hash of the rule and the source; 0: nobody yet
    int64_t paid   # when it has paid for everything, nanoseconds of the loop's clock


cdef class Newcomers:
    cdef SourceDebt *places     # SETS times WAYS
    cdef uint8_t seed[16]     # so that nobody can choose with whom to share a set

    cdef bint admits(self, uint64_t rule, const sockaddr *who, int64_t now, int64_t every_ns, int burst) noexcept nogil
    cdef uint64_t hash(self, uint64_t rule, const sockaddr *source) noexcept nogil
    cdef SourceDebt *place_of(self, SourceDebt *places, uint64_t tag) noexcept nogil


cdef str source_text(const sockaddr *source)
