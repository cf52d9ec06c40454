"""Who is due first: a binary heap of deadlines whose records know their place in it, so that one of many can be moved
or taken out without a search. A turn then costs what is due, however many wait.

A record has a Deadline, and names it:

    deadlines_reserve(&endpoint.deadlines, links)                    # MemoryError
    deadline_set(&endpoint.deadlines, &link.deadline, at)            # enters it, or moves it
    while endpoint.deadlines.count and deadlines_first(&endpoint.deadlines).at <= now:
        link = <Link>deadlines_first(&endpoint.deadlines).owner
        deadline_remove(&endpoint.deadlines, &link.deadline)

All zeros is an empty heap, and a record that is in none.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport realloc


cdef struct Deadline:
    int64_t at
    void *owner      # the record
    uint32_t place   # in the heap, from 1; 0: in none


cdef struct Deadlines:
    Deadline **heap  # freed by whoever has it
    uint32_t count   # records
    uint32_t room    # for so many


cdef inline int deadlines_reserve(Deadlines *deadlines, uint32_t count) except -1:
    """Have room for so many records; MemoryError."""
    cdef Deadline **heap
    cdef uint32_t room = max(count, 2 * deadlines.room)
    if count <= deadlines.room:
        return 0
    heap = <Deadline **>realloc(deadlines.heap, room * sizeof(Deadline *))
    if heap == NULL:
        raise MemoryError
    deadlines.heap, deadlines.room = heap, room
    return 0


cdef inline Deadline *deadlines_first(const Deadlines *deadlines) noexcept nogil:
    """The earliest of a heap that has any."""
    return deadlines.heap[0]


cdef inline void put_deadline(Deadlines *deadlines, uint32_t place, Deadline *deadline) noexcept nogil:
    """At that place, from 1."""
    deadlines.heap[place - 1] = deadline
    deadline.place = place


cdef inline void rise(Deadlines *deadlines, Deadline *deadline, uint32_t place) noexcept nogil:
    """Put it at that place, or above, where only earlier ones are above it."""
    while place > 1 and deadlines.heap[place // 2 - 1].at > deadline.at:
        put_deadline(deadlines, place, deadlines.heap[place // 2 - 1])
        place //= 2
    put_deadline(deadlines, place, deadline)


cdef inline void sink(Deadlines *deadlines, Deadline *deadline, uint32_t place) noexcept nogil:
    """Put it at that place, or below, where only later ones are below it."""
    cdef uint32_t child = 2 * place
    while child <= deadlines.count:
        if child < deadlines.count and deadlines.heap[child].at < deadlines.heap[child - 1].at:
            child += 1
        if deadlines.heap[child - 1].at >= deadline.at:
            break
        put_deadline(deadlines, place, deadlines.heap[child - 1])
        place, child = child, 2 * child
    put_deadline(deadlines, place, deadline)


cdef inline void deadline_set(Deadlines *deadlines, Deadline *deadline, int64_t at) noexcept nogil:
    """Enter it, or move it; there must be room."""
    cdef int64_t before = deadline.at
    deadline.at = at
    if deadline.place == 0:
        deadlines.count += 1
        rise(deadlines, deadline, deadlines.count)
    elif at < before:
        rise(deadlines, deadline, deadline.place)
    elif at > before:
        sink(deadlines, deadline, deadline.place)


cdef inline void deadline_remove(Deadlines *deadlines, Deadline *deadline) noexcept nogil:
    """Take it out, if it is in."""
    cdef uint32_t place = deadline.place
    cdef Deadline *last
    if place == 0:
        return
    deadline.place = 0
    last = deadlines.heap[deadlines.count - 1]
    deadlines.count -= 1
    if last == deadline:
        return
    if last.at < deadline.at:
        rise(deadlines, last, place)
    else:
        sink(deadlines, last, place)
