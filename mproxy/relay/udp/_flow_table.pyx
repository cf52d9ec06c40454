"""The flow table. A datagram costs one hash and, at most, moving its entry to the end of three lines; nothing is
allocated or searched, whether the table holds ten entries or twenty thousand."""

from libc.stddef cimport size_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from mproxy.ground._list cimport list_append, list_prepend, list_remove
from mproxy.ground._siphash cimport siphash13
from mproxy.ground._sockaddr cimport is_mapped


cdef enum:
    LEAST_BUCKETS = 256
    PROBATION_MOST = 2000  # in a very large table: ports may run out long before it is full
    PREFIX_BYTES = 8  # of an IPv6 address: what one host or home is given (RFC 6177)


# ---- lists

cdef inline void line_touch(LinkedList *line, FlowEntry *entry, int which) noexcept nogil:
    if line.last != entry:
        list_remove(line, entry, &entry.links[which])
        list_append(line, entry, &entry.links[which])


cdef inline void roll_append(Roll *roll, FlowEntry *entry, int which) noexcept nogil:
    list_append(&roll.lines[entry.standings[which]], entry, &entry.links[which])
    roll.count += 1


cdef inline void roll_remove(Roll *roll, FlowEntry *entry, int which) noexcept nogil:
    list_remove(&roll.lines[entry.standings[which]], entry, &entry.links[which])
    roll.count -= 1


cdef inline void roll_touch(Roll *roll, FlowEntry *entry, int which) noexcept nogil:
    line_touch(&roll.lines[entry.standings[which]], entry, which)


cdef inline void roll_change(Roll *roll, FlowEntry *entry, int which, uint8_t standing) noexcept nogil:
    roll_remove(roll, entry, which)
    entry.standings[which] = standing
    roll_append(roll, entry, which)


cdef inline uint32_t probation(uint32_t bound) noexcept nogil:
    return max(<uint32_t>1, min(bound // 8, <uint32_t>PROBATION_MOST))


cdef FlowEntry *roll_victim(Roll *roll, uint32_t bound) noexcept nogil:
    """Which entry of a full roll has to go; the rules: _flow_table.pxd."""
    cdef LinkedList *lines = roll.lines
    if lines[TWO_WAY].count > bound - bound // 4:
        return <FlowEntry *>lines[TWO_WAY].first
    if lines[WAITING].count > bound // 2:
        return <FlowEntry *>lines[WAITING].first
    if lines[ANSWERED].count > probation(bound) or lines[SETTLED].count == 0 and lines[ANSWERED].count:
        return <FlowEntry *>lines[ANSWERED].first
    if lines[SETTLED].count:
        return <FlowEntry *>lines[SETTLED].last
    return <FlowEntry *>(lines[WAITING].first if lines[WAITING].count else lines[TWO_WAY].first)


cdef FlowEntry *roll_oldest(Roll *roll, int which) noexcept nogil:
    """The least recently used entry, or NULL."""
    cdef FlowEntry *entry
    cdef FlowEntry *oldest = NULL
    cdef int standing
    for standing in range(STANDINGS):
        entry = <FlowEntry *>roll.lines[standing].first
        if entry != NULL and (oldest == NULL or entry.used_at < oldest.used_at):
            oldest = entry
    return oldest


cdef FlowEntry *group_ended(FlowGroup *group, int64_t now) noexcept nogil:
    """An entry of the group whose idle time is over, or NULL."""
    cdef FlowEntry *entry
    if group.idle_us <= 0:
        return NULL
    entry = roll_oldest(&group.roll, OF_GROUP)
    return entry if entry != NULL and now - entry.used_at >= group.idle_us else NULL


cdef void prefix_of(const FlowKey *key, uint8_t *out) noexcept nogil:
    """What counts as one source: an IPv4 address, or the first 64 bits of an IPv6 address."""
    memset(out, 0, 16)
    memcpy(out, key.client, 16 if is_mapped(key.client) else PREFIX_BYTES)


cdef class FlowTable:
    """Entries by key, at most `most` of them. `seed`: 16 random bytes.

    Before an `insert`, `victim` names an entry that has to be removed, until it names none. `group_ended` names one
    whose idle time is over; `next_end` says when to ask. Times are the caller's, and never go back.
    """

    def __cinit__(self, uint32_t most, bytes seed):
        if most == 0 or len(seed) != 16:
            raise ValueError("at least one entry, 16 bytes of seed")
        self.most = most
        memcpy(self.seed, <const char *>seed, 16)
        self.resize(LEAST_BUCKETS)
        if self.buckets == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.buckets)
        free(self.source_buckets)

    cdef FlowEntry *find(self, const FlowKey *key) noexcept:
        """The entry of this key, or NULL."""
        cdef uint64_t hash = siphash13(self.seed, key, sizeof(FlowKey))
        cdef FlowEntry *entry = self.buckets[hash & self.mask]
        while entry != NULL and (entry.hash != hash or memcmp(&entry.key, key, sizeof(FlowKey)) != 0):
            entry = entry.chain
        return entry

    cdef FlowEntry *victim(self, FlowGroup *group, const FlowKey *key) noexcept:
        """The entry that has to go before one with this key may come, or NULL.

        A source at its bound gives up one of its own, so it cannot push out anybody else's.
        """
        cdef FlowSource *source
        cdef uint64_t hash
        if group.most_a_source:
            source = self.find_source(group, key, &hash)
            if source != NULL and source.roll.count >= group.most_a_source:
                return roll_victim(&source.roll, group.most_a_source)
        if group.most and group.roll.count >= group.most:
            return roll_victim(&group.roll, group.most)
        return self.some() if self.roll.count >= self.most else NULL

    cdef FlowEntry *some(self) noexcept:
        """The entry that has to go if any has to, or NULL."""
        return roll_victim(&self.roll, self.roll.count)

    cdef int insert(self, FlowEntry *entry, FlowGroup *group, int64_t now) noexcept:
        """Insert the entry, whose key is set and not in the table; -1 when there is no memory."""
        cdef FlowSource *source
        cdef uint64_t hash
        if self.roll.count > self.mask:
            self.resize((self.mask + 1) * 2)
        source = self.find_source(group, &entry.key, &hash)
        if source == NULL:
            source = <FlowSource *>calloc(1, sizeof(FlowSource))
            if source == NULL:
                return -1
            prefix_of(&entry.key, source.prefix)
            source.group = group
            source.hash = hash
            source.chain = self.source_buckets[hash & self.mask]
            self.source_buckets[hash & self.mask] = source
        entry.hash = siphash13(self.seed, &entry.key, sizeof(FlowKey))
        entry.chain = self.buckets[entry.hash & self.mask]
        self.buckets[entry.hash & self.mask] = entry
        entry.group = group
        entry.source = source
        entry.used_at = now
        if group.roll.count == 0:
            list_prepend(&self.active, group, &group.in_active)
        roll_append(&self.roll, entry, OF_TABLE)
        roll_append(&group.roll, entry, OF_GROUP)
        roll_append(&source.roll, entry, OF_SOURCE)
        return 0

    cdef void asks(self, FlowEntry *entry, int64_t now) noexcept:
        """Its client sent something."""
        entry.used_at = now
        if entry.standings[OF_TABLE] in (ANSWERED, SETTLED):
            self.change(entry, TWO_WAY)
            return
        roll_touch(&self.roll, entry, OF_TABLE)
        roll_touch(&entry.group.roll, entry, OF_GROUP)
        roll_touch(&entry.source.roll, entry, OF_SOURCE)

    cdef void answers(self, FlowEntry *entry, bint is_last, int64_t now) noexcept:
        """Its client was answered; `is_last`: nothing is owed to it any more."""
        cdef uint8_t standing = entry.standings[OF_TABLE]
        entry.used_at = now
        if standing != TWO_WAY and (standing != WAITING or is_last):
            self.change(entry, ANSWERED)
            self.settle(&self.roll, OF_TABLE, self.most)
            self.settle(&entry.group.roll, OF_GROUP, entry.group.most)
            self.settle(&entry.source.roll, OF_SOURCE, entry.group.most_a_source)
            return
        roll_touch(&self.roll, entry, OF_TABLE)
        roll_touch(&entry.group.roll, entry, OF_GROUP)
        roll_touch(&entry.source.roll, entry, OF_SOURCE)

    cdef void remove(self, FlowEntry *entry) noexcept:
        """Forget the entry; its memory is the caller's."""
        cdef FlowEntry **link = &self.buckets[entry.hash & self.mask]
        cdef FlowGroup *group = entry.group
        cdef FlowSource *source = entry.source
        while link[0] != entry:
            link = &link[0].chain
        link[0] = entry.chain
        roll_remove(&self.roll, entry, OF_TABLE)
        roll_remove(&group.roll, entry, OF_GROUP)
        roll_remove(&source.roll, entry, OF_SOURCE)
        if source.roll.count == 0:
            self.forget_source(source)
        if group.roll.count == 0:
            list_remove(&self.active, group, &group.in_active)
        if self.mask >= LEAST_BUCKETS and self.roll.count < self.mask // 8:
            self.resize((self.mask + 1) // 2)

    cdef int64_t next_end(self) noexcept:
        """When the next flow is over if nothing uses it; -1: none will be."""
        cdef FlowGroup *group = <FlowGroup *>self.active.first
        cdef int64_t at = -1, end
        while group != NULL:
            if group.idle_us > 0:
                end = roll_oldest(&group.roll, OF_GROUP).used_at + group.idle_us
                if at < 0 or end < at:
                    at = end
            group = <FlowGroup *>group.in_active.next
        return at

    # ---- inside

    cdef void change(self, FlowEntry *entry, int standing) noexcept:
        """Give the entry another standing, at the end of its lines."""
        roll_change(&self.roll, entry, OF_TABLE, <uint8_t>standing)
        roll_change(&entry.group.roll, entry, OF_GROUP, <uint8_t>standing)
        roll_change(&entry.source.roll, entry, OF_SOURCE, <uint8_t>standing)

    cdef void settle(self, Roll *roll, int which, uint32_t bound) noexcept:
        """Let the first ones out of probation while the roll has room; one without a bound has no probation. In a full
        roll they stay, and will have to go: else they would take the places of those that were there before."""
        if bound and roll.count < bound:
            while roll.lines[ANSWERED].count > probation(bound):
                roll_change(roll, <FlowEntry *>roll.lines[ANSWERED].first, which, SETTLED)

    cdef FlowSource *find_source(self, FlowGroup *group, const FlowKey *key, uint64_t *out_hash) noexcept:
        """The source of this key in the group, or NULL; and the hash it has or would have."""
        cdef uint64_t words[3]
        cdef FlowSource *source
        prefix_of(key, <uint8_t *>words)
        words[2] = <uint64_t><size_t>group
        out_hash[0] = siphash13(self.seed, words, sizeof(words))
        source = self.source_buckets[out_hash[0] & self.mask]
        while source != NULL and (source.group != group or memcmp(source.prefix, words, 16) != 0):
            source = source.chain
        return source

    cdef void forget_source(self, FlowSource *source) noexcept:
        cdef FlowSource **link = &self.source_buckets[source.hash & self.mask]
        while link[0] != source:
            link = &link[0].chain
        link[0] = source.chain
        free(source)

    cdef void resize(self, uint32_t size) noexcept:
        """Have `size` buckets; without memory for them it stays as it is, only slower."""
        cdef FlowEntry **buckets = <FlowEntry **>calloc(size, sizeof(FlowEntry *))
        cdef FlowSource **source_buckets = <FlowSource **>calloc(size, sizeof(FlowSource *))
        cdef FlowEntry *entry
        cdef int standing
        if buckets == NULL or source_buckets == NULL:
            free(buckets)
            free(source_buckets)
            return
        free(self.buckets)
        free(self.source_buckets)
        self.buckets, self.source_buckets, self.mask = buckets, source_buckets, size - 1
        for standing in range(STANDINGS):
            entry = <FlowEntry *>self.roll.lines[standing].first
            while entry != NULL:
                entry.chain = buckets[entry.hash & self.mask]
                buckets[entry.hash & self.mask] = entry
                if roll_oldest(&entry.source.roll, OF_SOURCE) == entry:  # each source once
                    entry.source.chain = source_buckets[entry.source.hash & self.mask]
                    source_buckets[entry.source.hash & self.mask] = entry.source
                entry = <FlowEntry *>entry.links[OF_TABLE].next
