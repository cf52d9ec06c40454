"""The packets under way; theory and invariants: _sent.pxd."""

from libc.stdlib cimport calloc, free, malloc


cdef extern from *:
    int lowest_bit "__builtin_ctzll"(unsigned long long) nogil


cdef int sent_init(SentTable *table, uint64_t first) noexcept nogil:
    """Make an empty table whose first packet is `first`; -1 when there is no memory."""
    table.base = table.next = first
    return sent_allocate(table, FIRST_SENT)


cdef int sent_allocate(SentTable *table, uint64_t size) noexcept nogil:
    """Allocate `size` entries, a power of two; -1 when there is no memory."""
    table.entries = <Sent *>malloc(size * sizeof(Sent))
    table.waiting = <uint64_t *>calloc((size + 63) // 64, sizeof(uint64_t))
    table.mask = size - 1
    return 0 if table.entries != NULL and table.waiting != NULL else -1


cdef void sent_free(SentTable *table) noexcept nogil:
    """Give the memory back."""
    free(table.entries)
    free(table.waiting)
    table.entries = NULL
    table.waiting = NULL


cdef inline bint is_waiting(const SentTable *table, uint64_t number) noexcept nogil:
    cdef uint64_t index = number & table.mask
    return (table.waiting[index >> 6] >> (index & 63)) & 1


cdef int sent_grow(SentTable *table) noexcept nogil:
    """Double the array; -1 when there is no memory, or too much is under way already."""
    cdef SentTable larger
    cdef uint64_t number = table.base, index
    if table.mask + 1 == MOST_SENT:
        return -1
    if sent_allocate(&larger, 2 * (table.mask + 1)) < 0:
        sent_free(&larger)
        return -1
    larger.base = table.base
    larger.next = table.next
    while number < table.next:
        if is_waiting(table, number):
            sent_at(&larger, number)[0] = sent_at(table, number)[0]
            index = number & larger.mask
            larger.waiting[index >> 6] |= <uint64_t>1 << (index & 63)
        number += 1
    sent_free(table)
    table[0] = larger
    return 0


cdef int sent_reserve(SentTable *table) noexcept nogil:
    """Reserve a place for packet `next`, with or without entry, and for the one after it, as a number may be skipped;
    -1 when there is none: then nothing must be sent."""
    if table.next - table.base < table.mask:
        return 0
    table.base = sent_next(table, table.base, table.next)
    return 0 if table.next - table.base < table.mask else sent_grow(table)


cdef void sent_rest(SentTable *table) noexcept nogil:
    """Nothing is expected to be sent for long: give back what only much traffic needs."""
    cdef SentTable smaller
    table.base = sent_next(table, table.base, table.next)
    if table.base < table.next or table.mask < FIRST_SENT:
        return
    if sent_init(&smaller, table.next) < 0:
        sent_free(&smaller)
        return
    sent_free(table)
    table[0] = smaller


cdef Sent *sent_add(SentTable *table) noexcept nogil:
    """Return the entry of packet `next`, which waits for its ack from now on; its place has been reserved.

    The caller moves `next`, as it does for packets without an entry.
    """
    cdef uint64_t index = table.next & table.mask
    table.waiting[index >> 6] |= <uint64_t>1 << (index & 63)
    return table.entries + index


cdef uint64_t sent_next(const SentTable *table, uint64_t number, uint64_t end) noexcept nogil:
    """The first waiting packet in [number, end), or `end`. Constant time for each 64 settled ones."""
    cdef uint64_t index, word, most = min(table.mask, <uint64_t>63)
    if number < table.base:
        number = table.base
    if end > table.next:
        end = table.next
    while number < end:
        index = number & table.mask
        word = table.waiting[index >> 6] >> (index & 63)
        if word != 0:
            number += lowest_bit(word)
            return number if number < end else end
        number += most + 1 - (index & most)
    return end


cdef void sent_settle(SentTable *table, uint64_t number) noexcept nogil:
    """Packet `number` no longer waits for its ack."""
    cdef uint64_t index = number & table.mask
    table.waiting[index >> 6] &= ~(<uint64_t>1 << (index & 63))
    if number == table.base:
        table.base = sent_next(table, number, table.next)
