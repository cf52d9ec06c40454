"""Coarse time-outs. How the wheel turns: _wheel.pxd."""


cdef inline void ring_of_one(WheelLink *head) noexcept nogil:
    head.next = head.prev = head


cdef inline void append(WheelLink *head, WheelLink *link) noexcept nogil:
    link.prev = head.prev
    link.next = head
    head.prev.next = link
    head.prev = link


cdef void wheel_init(Wheel *wheel, int64_t now) noexcept nogil:
    """Make an empty wheel."""
    cdef int i
    for i in range(WHEEL_SLOTS):
        ring_of_one(&wheel.slots[i])
    ring_of_one(&wheel.due)
    wheel.swept = now // TICK_US
    wheel.count = 0


cdef void wheel_put(Wheel *wheel, WheelLink *link, int64_t at) noexcept nogil:
    """Let the link fall out at `at` or soon after (earlier if that is beyond the wheel); moves one that is in it."""
    cdef int64_t tick = (at + TICK_US - 1) // TICK_US
    if link.next != NULL:
        wheel_take(wheel, link)
    tick = min(max(tick, wheel.swept), wheel.swept + WHEEL_SLOTS - 1)
    append(&wheel.slots[tick % WHEEL_SLOTS], link)
    wheel.count += 1


cdef void wheel_take(Wheel *wheel, WheelLink *link) noexcept nogil:
    """Take the link out; does nothing when it is not in."""
    if link.next == NULL:
        return
    link.prev.next = link.next
    link.next.prev = link.prev
    link.next = link.prev = NULL
    wheel.count -= 1


cdef void wheel_sweep(Wheel *wheel, int64_t now) noexcept nogil:
    """Let everything due at `now` fall out; ask `wheel_due` for it until that returns NULL.

    After a pause of more than a whole turn each slot is swept once.
    """
    cdef int64_t until = now // TICK_US + 1
    cdef WheelLink *slot
    cdef int64_t tick = max(wheel.swept, until - WHEEL_SLOTS)
    while tick < until:
        slot = &wheel.slots[tick % WHEEL_SLOTS]
        if slot.next != slot:
            slot.next.prev = wheel.due.prev
            wheel.due.prev.next = slot.next
            slot.prev.next = &wheel.due
            wheel.due.prev = slot.prev
            ring_of_one(slot)
        tick += 1
    wheel.swept = max(wheel.swept, until)


cdef WheelLink *wheel_due(Wheel *wheel) noexcept nogil:
    """Take out one link that has fallen out, oldest first; NULL when there is none left."""
    cdef WheelLink *link = wheel.due.next
    if link == &wheel.due:
        return NULL
    wheel_take(wheel, link)
    return link
