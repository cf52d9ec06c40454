"""Ids that change with the path; how and why: _ids.pxd."""

cimport cython

from libc.string cimport memcpy

from mproxy._wire cimport put64
from mproxy.ground._siphash cimport siphash24


@cython.final
cdef class ConnectionIds:
    """Of one connection. Without `begin` there is one id in each direction, for ever."""

    cdef void keep_first(self, int bits, bint ours) noexcept:
        """Before `begin`: the first bits of ids in packets to us (`ours`), or to the peer, never change."""
        cdef uint64_t kept = ~(<uint64_t>-1 >> bits) if bits > 0 else 0
        self.kept_local = kept if ours else 0
        self.kept_remote = 0 if ours else kept

    cdef void begin(self, uint64_t local, uint64_t remote, const uint8_t *local_key,
                    const uint8_t *remote_key) noexcept:
        """Change from now on; the ids of the set-up, and 16 bytes for each direction that only both sides know."""
        memcpy(self.local_key, local_key, 16)
        memcpy(self.remote_key, remote_key, 16)
        self.first_local = local
        self.first_remote = remote
        self.changing = True
        self.fill_window()

    cdef uint64_t make(self, const uint8_t *key, uint64_t first, uint64_t kept, uint64_t number) noexcept:
        """One id."""
        cdef uint8_t text[8]
        if number == 0:
            return first
        put64(text, number)
        return (siphash24(key, text, 8) & ~kept) | (first & kept)

    cdef uint64_t remote(self, uint64_t number) noexcept:
        """The id in packets to the peer."""
        return self.make(self.remote_key, self.first_remote, self.kept_remote, number)

    cdef void fill_window(self) noexcept:
        cdef int i
        self.lowest = self.heard - IDS_BEHIND if self.heard > IDS_BEHIND else 0
        for i in range(IDS_KNOWN):
            self.known[i] = self.make(self.local_key, self.first_local, self.kept_local, self.lowest + i)
        self.heard_more = True

    cdef void advance(self) noexcept:
        """Our network is another one: the peer is to see another id."""
        if self.changing and self.turn < self.heard + IDS_AHEAD:
            self.turn += 1
            self.trial_turn = self.turn

    cdef bint note(self, uint64_t id, bint at_peer) noexcept:
        """An authentic packet, newer than all before, had this id; `at_peer`: it came from the peer's address. True:
        `turn` has changed."""
        cdef uint64_t number
        cdef int i = 0
        if not self.changing:
            return False
        while i < IDS_KNOWN and self.known[i] != id:
            i += 1
        if i == IDS_KNOWN:
            return False
        number = self.lowest + i
        if number > self.heard:
            self.heard = number
            self.fill_window()
        if number > self.trial_turn:
            self.trial_turn = number
        return at_peer and self.proven()

    cdef bint proven(self) noexcept:
        """The peer is where the trial goes to. True: `turn` has changed."""
        if self.trial_turn <= self.turn:
            return False
        self.turn = self.trial_turn
        return True

    cpdef list window(self):
        """The ids that packets to us may have."""
        cdef int i
        self.heard_more = False
        return [self.known[i] for i in range(IDS_KNOWN)]
