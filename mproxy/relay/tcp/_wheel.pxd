"""Coarse time-outs for very many connections: a wheel of slots, each a ring of links.

    a link that is due at time t lies in a slot that is swept within TICK_US after t

Activity costs nothing here: the owner notes the time in a field of its own. When the link falls out of the wheel the
owner compares, and puts it back if there was activity meanwhile. What is due farther ahead than the wheel reaches falls
out early and is put back likewise. Owners decide; the wheel never calls anybody.

Slots are rings with a head, not lists as in ground/_list: a link leaves its slot without knowing which one that is, and
a sweep moves all links of a slot in one step.
"""

from libc.stdint cimport int64_t, uint32_t


cdef enum:
    TICK_US = 250000  # time-outs are at most this late
    WHEEL_SLOTS = 512  # reaches 128 s ahead


cdef struct WheelLink:
    WheelLink *next  # ring of the slot; NULL while in no wheel
    WheelLink *prev  # ring of the slot
    void *owner      # whose link it is, for whoever sweeps


cdef struct Wheel:
    WheelLink slots[WHEEL_SLOTS]  # heads of the rings
    WheelLink due                 # head of the ring of what has fallen out
    int64_t swept                 # every tick below this one has been swept
    uint32_t count                # links in slots and in `due`


cdef void wheel_init(Wheel *wheel, int64_t now) noexcept nogil
cdef void wheel_put(Wheel *wheel, WheelLink *link, int64_t at) noexcept nogil
cdef void wheel_take(Wheel *wheel, WheelLink *link) noexcept nogil
cdef void wheel_sweep(Wheel *wheel, int64_t now) noexcept nogil
cdef WheelLink *wheel_due(Wheel *wheel) noexcept nogil
