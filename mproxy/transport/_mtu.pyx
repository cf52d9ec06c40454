"""Packet size of the path; theory: _mtu.pxd."""

from mproxy.ground._clock cimport NEVER
from mproxy.transport._packet cimport BASE_PACKET_BYTES, SMALL_PACKET_BYTES


# Sizes that paths have: jumbo frames and Ethernet over IPv4 and IPv6, Ethernet in PPPoE and tunnels, IPv6's least.
cdef uint32_t[9] USUAL = [8972, 8952, 1472, 1452, 1444, 1432, 1400, 1350, 1232]


cdef void mtu_init(Mtu *mtu, uint32_t base, uint32_t ceiling, int64_t now) noexcept nogil:
    """Use packets of `base` bytes, and search up to `ceiling`."""
    mtu.current = mtu.floor = base
    mtu.ceiling = ceiling if ceiling > base else base
    mtu.failed = mtu.ceiling + 1
    mtu.tries = 0
    mtu.most_tries = PROBE_TRIES
    mtu.in_flight = False
    mtu.next_at = now
    choose(mtu, now)


cdef void choose(Mtu *mtu, int64_t now) noexcept nogil:
    """Pick the next size to try, or end the search."""
    cdef int i
    mtu.tries = 0
    mtu.probing = 0
    mtu.in_flight = False
    if mtu.failed > mtu.ceiling:
        if mtu.ceiling > mtu.current:
            mtu.probing = mtu.ceiling
    elif mtu.failed - mtu.current > SEARCH_STEP:
        mtu.probing = (mtu.current + mtu.failed) // 2
        for i in range(9):
            if USUAL[i] < mtu.failed:
                if USUAL[i] > mtu.current:
                    mtu.probing = USUAL[i]
                elif USUAL[i] == mtu.current and is_next_above(i, mtu.failed):
                    mtu.probing = 0  # a usual size passed and the next usual one did not: so that is the path's
                break
    if mtu.probing == 0:
        mtu.next_at = now + RAISE_US if mtu.current < mtu.ceiling else NEVER
    else:
        mtu.next_at = now


cdef inline bint is_next_above(int index, uint32_t failed) noexcept nogil:
    return index == 0 or USUAL[index - 1] <= failed


cdef uint32_t mtu_probe(Mtu *mtu, uint64_t most, int64_t now) noexcept nogil:
    """The size of a probe of at most `most` bytes to be sent now, 0: none. The caller sends it."""
    cdef int i
    if mtu.in_flight or now < mtu.next_at:
        return 0
    if mtu.probing == 0:
        mtu.failed = mtu.ceiling + 1
        choose(mtu, now)
        if mtu.probing == 0:
            return 0
    if mtu.probing > most:
        for i in range(9):
            if USUAL[i] <= most and mtu.current < USUAL[i] < mtu.failed and USUAL[i] <= mtu.ceiling:
                mtu.probing = USUAL[i]
                mtu.tries = 0
                break
        else:
            return 0
    mtu.in_flight = True
    return mtu.probing


cdef void mtu_acked(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil:
    """A probe of `size` bytes came through."""
    if size == mtu.probing:
        mtu.in_flight = False
    if size > mtu.current and size <= mtu.ceiling:
        mtu.current = size
        mtu.floor = max(mtu.floor, min(size, <uint32_t>BASE_PACKET_BYTES))
        if mtu.failed <= size:
            mtu.failed = mtu.ceiling + 1
        choose(mtu, now)


cdef void mtu_lost(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil:
    """A probe of `size` bytes was lost; perhaps an old one that the host had refused, while another is under way."""
    if size != mtu.probing:
        return
    mtu.in_flight = False
    mtu.tries += 1
    if mtu.tries >= mtu.most_tries:
        mtu.failed = size
        choose(mtu, now)


cdef void mtu_too_big(Mtu *mtu, uint32_t size, int64_t now) noexcept nogil:
    """This host cannot send packets of `size` bytes."""
    if size <= BASE_PACKET_BYTES or size > mtu.failed:
        return
    mtu.in_flight = False
    if mtu.current >= size:
        mtu.current = BASE_PACKET_BYTES
    mtu.failed = size
    choose(mtu, now)


cdef void mtu_black_hole(Mtu *mtu, int64_t now) noexcept nogil:
    """Packets above the floor vanish: go back to it, and search below what no longer passes. If they still vanish the
    floor is lower the next time."""
    mtu.failed = mtu.current if mtu.current > mtu.floor else mtu.ceiling + 1
    mtu.current = mtu.floor
    mtu.floor = SMALL_PACKET_BYTES
    mtu.in_flight = False
    choose(mtu, now)
