"""Ids of a connection that change with its path: so who watches two networks does not find the same one in both. What a
Path has as `ids`.

An id stands in the clear at the beginning of each packet. Both sides know all of them from the handshake on, so none is
sent, lost, or used up: number n of a direction is SipHash of n under a key that comes with that direction's keys.
Number 0 is the set-up's.

Whoever learns that its own network has changed takes the next number for what it sends (`advance`), and the peer
answers with the same number: at once what goes to where that packet came from, and everything else when that has proven
to be the peer's address. So each path has ids of its own in both directions. The receiver knows IDS_AHEAD numbers above
the highest one that it has heard, and IDS_BEHIND below for packets that are late. The sender goes no further than what
the receiver knows: a change that nobody answers costs a number, and with the last one it stays.

A passive side with several workers says how many bits of its ids name the worker: these are those of number 0 in all.
"""

from libc.stdint cimport uint8_t, uint64_t


cdef enum:
    IDS_AHEAD = 8      # changes of network before the peer has answered one
    IDS_BEHIND = 2     # paths of which packets may still be under way
    IDS_KNOWN = 11     # IDS_BEHIND, the one in use, IDS_AHEAD


cdef class ConnectionIds:
    cdef readonly bint changing   # both sides agreed, and the keys are known
    cdef uint8_t local_key[16]    # of ids in packets to us
    cdef uint8_t remote_key[16]   # of ids in packets to the peer
    cdef uint64_t first_local     # number 0
    cdef uint64_t first_remote    # number 0
    cdef uint64_t kept_local      # the bits that never change of ids in packets to us
    cdef uint64_t kept_remote     # of ids in packets to the peer
    cdef uint64_t known[11]       # ids in packets to us, from number `lowest` on
    cdef uint64_t lowest          # its first number
    cdef readonly uint64_t heard  # highest number that the peer has used
    cdef readonly uint64_t turn   # number of what goes to the peer's address
    cdef uint64_t trial_turn      # number of what goes to where it seems to be
    cdef bint heard_more          # `window` has changed since it was last read

    cdef void keep_first(self, int bits, bint ours) noexcept
    cdef void begin(self, uint64_t local, uint64_t remote, const uint8_t *local_key, const uint8_t *remote_key) noexcept
    cdef uint64_t remote(self, uint64_t number) noexcept
    cdef void advance(self) noexcept
    cdef bint note(self, uint64_t id, bint at_peer) noexcept
    cdef bint proven(self) noexcept
    cpdef list window(self)

    # inner
    cdef uint64_t make(self, const uint8_t *key, uint64_t first, uint64_t kept, uint64_t number) noexcept
    cdef void fill_window(self) noexcept
