"""Where packets go: the peer's address, and how it may change. What a Connection has as `path`.

A packet from another address that is newer than all before means that the peer may have moved. A challenge goes there
(PATH_CHALLENGE, eight bytes that nobody can guess), with at most AMPLIFICATION times the bytes that came from there.
Only its answer makes that address the peer's. What was learnt of the old path does not hold for the new one: round
trip, window and packet size begin anew, and what was under way to the old address counts as lost.

Who has really moved shall not wait for that answer: until it comes, data goes to the new address within the same limit,
beginning with what may have been lost on its way to the old one (a trial); everything beyond goes where it went before.
After MOST_UNPROVEN addresses in a row that did not answer there are no more trials, until one does. A program that does
not serve every address (`judged`) is told of the new one first (`seen_event`): unless it trusts that there is no trial.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.transport._channel cimport Channel, Transmit
from mproxy.transport._ids cimport ConnectionIds
from mproxy.transport._packet cimport PeerAddress


cdef enum:
    PATH_TRIES = 5              # challenges to a new address without an answer, at most
    AMPLIFICATION = 3           # bytes to an address not yet proven to be the peer's, for each byte from it
    TRIAL_BYTES = 12000         # most bytes of a trial: ten packets, a first window (RFC 6928)
    LEAST_TRIAL = 100           # a packet with less room is not worth it
    MOST_UNPROVEN = 4           # addresses that did not answer, in a row


cdef class Path:
    cdef Channel channel                 # what goes to and fro on it
    cdef readonly ConnectionIds ids      # in its packets
    cdef uint8_t entropy[16]             # key of the values that nobody else may guess
    cdef uint64_t drawn                  # values made from it
    cdef PeerAddress peer                # where packets go
    cdef PeerAddress answer_to           # where they go instead; length 0: unused
    cdef bint fixed_path                 # never follow the peer
    # we ask
    cdef PeerAddress candidate           # where the peer seems to have moved; length 0: nowhere
    cdef uint64_t candidate_in           # bytes that came from there
    cdef uint64_t candidate_out          # bytes sent there
    cdef uint64_t challenge              # what it must answer
    cdef bint challenge_due              # ask it
    cdef int tries                       # asked so often
    cdef int64_t ask_at                  # when to ask again
    cdef uint64_t trial_from             # number of the first packet after it was seen there
    cdef uint64_t trial_next             # what was under way below this number has been said again
    cdef int unproven                    # addresses in a row that did not answer
    cdef bint judged                     # the program says which addresses may have a trial
    cdef bint trusted                    # this candidate may
    cdef bint seen_event                 # there is a candidate, and the program has not been told yet
    cdef bint address_event              # the peer is at `peer` now, and the program has not been told yet
    # we may have moved
    cdef bint show_due                   # send a packet that lets the peer answer with data (show_address)
    # we are asked
    cdef PeerAddress response_to         # by this address
    cdef uint64_t response               # what to answer
    cdef bint response_due               # answer it
    cdef bint asked_event                # we were asked, and the program has not been told yet

    cdef const PeerAddress *where(self) noexcept
    cdef void change_ids(self, const uint8_t *local_key, const uint8_t *remote_key, int kept_bits, bint ours) noexcept
    cdef void may_have_moved(self) noexcept
    cdef void note_source(self, const PeerAddress *source, uint32_t length) noexcept
    cdef void follow(self, const PeerAddress *source, uint32_t length) noexcept
    cdef void take_challenge(self, const PeerAddress *source, uint64_t challenge) noexcept
    cdef void take_response(self, uint64_t answer, int64_t now) noexcept
    cdef void forget_candidate(self) noexcept
    cdef void ask_again(self, int64_t now) noexcept
    cdef uint32_t trial_room(self) noexcept
    cdef void address_as(self, uint64_t turn) noexcept
    cdef int trial(self, Transmit *out, int64_t now) noexcept
    cdef int show_address(self, Transmit *out, int64_t now) noexcept
    cdef int packet(self, Transmit *out, int64_t now) noexcept
    cdef uint64_t draw(self) noexcept
