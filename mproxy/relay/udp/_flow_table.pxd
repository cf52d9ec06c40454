"""The flow table of the UDP relay: which flows there are, which have to go, which are over. No socket, no clock.

A `FlowEntry` is the first field of whatever record its owner keeps for a flow; the table only links it. Each entry is
in three rolls: of the whole table, of its group (a rule) and of its source (the addresses that one client can send
from). Each roll has a bound. Which entry has to go when one is full depends on its standing:

    WAITING   its client has asked and is owed an answer
    ANSWERED  nothing is owed: one exchange, like a query. The last of these, bound / 8 of them, are on probation
    SETTLED   answered, and those before the last ones
    TWO_WAY   its client went on after an answer: a conversation, which breaks when it gets another port

These go, in this order:

1. conversations, if they have more than three quarters of the bound: newcomers always find room;
2. waiting ones, if they have more than half of it, as a flood has that nobody answers;
3. of those on probation, if there are more than the probation holds, the one silent longest: so a flood of single
   queries makes room for itself, and does not push out others that were there before;
4. the last one settled, then answered, then waiting ones, then conversations, those silent longest first.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy.ground._list cimport LinkedList, ListLink


cdef enum:
    OF_TABLE = 0
    OF_GROUP = 1
    OF_SOURCE = 2
    LISTS = 3


cdef enum:
    WAITING = 0
    ANSWERED = 1
    SETTLED = 2
    TWO_WAY = 3
    STANDINGS = 4


cdef struct FlowKey:
    uint8_t client[16]    # the sender; IPv4 as ::ffff:a.b.c.d
    uint8_t local[16]     # the address it sends to
    uint16_t client_port  # in the byte order of the packet, like everything here
    uint16_t local_port   # likewise
    uint32_t scope        # interface of a link-local client, else 0


cdef struct Roll:
    LinkedList lines[STANDINGS]  # by standing; first: least recently used
    uint32_t count               # entries


cdef struct FlowEntry:
    FlowKey key               # whose flow this is
    uint64_t hash             # of the key
    FlowEntry *chain          # next entry of the same bucket
    ListLink links[LISTS]     # places in lines of the three rolls
    uint8_t standings[LISTS]  # standing in each roll: they differ only in ANSWERED and SETTLED
    FlowGroup *group          # its rule
    FlowSource *source        # its client's addresses
    int64_t used_at           # microseconds


cdef struct FlowGroup:
    Roll roll               # its entries
    int64_t idle_us         # entries unused for this long are over; 0: never
    uint32_t most           # most entries; 0: no bound
    uint32_t most_a_source  # most entries of one source; 0: no bound
    ListLink in_active      # groups that have entries


cdef struct FlowSource:
    Roll roll           # its entries
    uint8_t prefix[16]  # IPv4 address, or the first 64 bits of an IPv6 address (one host has them all)
    FlowGroup *group    # sources are counted for each rule
    uint64_t hash       # of prefix and group
    FlowSource *chain   # next source of the same bucket


cdef class FlowTable:
    cdef FlowEntry **buckets          # by hash of the key
    cdef FlowSource **source_buckets  # by hash of prefix and group
    cdef uint32_t mask                # buckets of each kind less one: a power of two less one
    cdef uint32_t most                # entries at most
    cdef uint8_t seed[16]             # key of the hash: an attacker who chooses addresses must not choose buckets
    cdef Roll roll                    # every entry
    cdef LinkedList active            # groups that have entries

    cdef FlowEntry *find(self, const FlowKey *key) noexcept
    cdef FlowEntry *victim(self, FlowGroup *group, const FlowKey *key) noexcept
    cdef int insert(self, FlowEntry *entry, FlowGroup *group, int64_t now) noexcept
    cdef void asks(self, FlowEntry *entry, int64_t now) noexcept
    cdef void answers(self, FlowEntry *entry, bint is_last, int64_t now) noexcept
    cdef void change(self, FlowEntry *entry, int standing) noexcept
    cdef void settle(self, Roll *roll, int which, uint32_t bound) noexcept
    cdef FlowEntry *some(self) noexcept
    cdef void remove(self, FlowEntry *entry) noexcept
    cdef int64_t next_end(self) noexcept
    cdef void forget_source(self, FlowSource *source) noexcept
    cdef FlowSource *find_source(self, FlowGroup *group, const FlowKey *key, uint64_t *out_hash) noexcept
    cdef void resize(self, uint32_t size) noexcept


cdef FlowEntry *roll_victim(Roll *roll, uint32_t bound) noexcept nogil
cdef FlowEntry *roll_oldest(Roll *roll, int which) noexcept nogil
cdef FlowEntry *group_ended(FlowGroup *group, int64_t now) noexcept nogil
