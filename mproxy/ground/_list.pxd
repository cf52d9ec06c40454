"""Doubly linked lists whose links lie in the records themselves: entering a record and taking it out allocates nothing
and searches nothing.

A record has a ListLink for every list that it can be in at the same time. Links lead from record to record, and whoever
enters or takes out a record names it and that link of it:

    list_append(&streams.open_list, stream, &stream.in_all)
    cdef Stream *stream = <Stream *>streams.open_list.first
    while stream != NULL:
        stream = <Stream *>stream.in_all.next

Where the link lies in the record is known to the compiler, so this is as direct as fields of the record's own type.
Whether a record is in a list its owner knows. All zeros is an empty list.

Not for what is something else: slots of the time-out wheel (relay/tcp/_wheel), which links leave without knowing in
which of them they are, and which are emptied into another ring in one step; and what is only ever pushed and popped, or
walked in one direction: unused pipes (relay/tcp/_pipes) and the chains of hash tables. These have one pointer each.
"""

from libc.stdint cimport uint32_t


cdef struct ListLink:
    void *next       # the record behind this one; NULL: it is the last
    void *prev       # the record before this one; NULL: it is the first


cdef struct LinkedList:
    void *first      # record; NULL: the list is empty
    void *last       # record; NULL: the list is empty
    uint32_t count   # records


cdef inline ListLink *link_of(void *other, const void *record, const ListLink *link) noexcept nogil:
    """The link that lies in another record where `link` lies in `record`."""
    return <ListLink *>(<char *>other + (<const char *>link - <const char *>record))


cdef inline void list_append(LinkedList *records, void *record, ListLink *link) noexcept nogil:
    """Enter a record that is not in the list behind all others."""
    link.next = NULL
    link.prev = records.last
    if records.last != NULL:
        link_of(records.last, record, link).next = record
    else:
        records.first = record
    records.last = record
    records.count += 1


cdef inline void list_prepend(LinkedList *records, void *record, ListLink *link) noexcept nogil:
    """Enter a record that is not in the list before all others."""
    link.prev = NULL
    link.next = records.first
    if records.first != NULL:
        link_of(records.first, record, link).prev = record
    else:
        records.last = record
    records.first = record
    records.count += 1


cdef inline void list_remove(LinkedList *records, void *record, ListLink *link) noexcept nogil:
    """Take a record of the list out; where its link led can still be read."""
    if link.prev != NULL:
        link_of(link.prev, record, link).next = link.next
    else:
        records.first = link.next
    if link.next != NULL:
        link_of(link.next, record, link).prev = link.prev
    else:
        records.last = link.prev
    records.count -= 1
