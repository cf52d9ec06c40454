"""One direction of a bad network. What happens to a packet, and in which order: _path_emulator.pxd."""

from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from mproxy.ground._clock cimport NEVER


cdef enum:
    DAMAGED_BYTES = 4    # most bytes of a damaged packet that are changed
    LARGEST_CHANGE = 62  # to one of them; even all of them on the same byte change it
    OWN_NUMBERS = 64     # random numbers of a packet before those of bursts: more than all others need


cdef class PathEmulator:
    """One direction; by default nothing is done. `options`: those of `change`."""

    def __init__(self, uint64_t seed=0, **options):
        self.seed = seed
        self.change(**options)

    def change(self, **options):
        """From the next packet on: loss, duplicate, corrupt, reorder (0 to 1), burst_share (of all packets, 0 to 1) and
        burst_packets (on average) while the wire is bad, burst_loss (0 to 1) then, outage_every_us, outage_us,
        outage_from_us, delay_us, jitter_us, reorder_us, rate (bits a second), queue_bytes, mtu (bytes of the largest IP
        packet). What is not named has its default: nothing is done. What is on its way stays there."""
        cdef double share = options.pop("burst_share", 0.0)
        self.loss = options.pop("loss", 0.0)
        self.duplicate = options.pop("duplicate", 0.0)
        self.corrupt = options.pop("corrupt", 0.0)
        self.reorder = options.pop("reorder", 0.0)
        self.burst_ends = 1.0 / options.pop("burst_packets", 1.0)
        self.burst_begins = self.burst_ends * share / (1.0 - share)
        self.burst_loss = options.pop("burst_loss", 1.0)
        self.outage_every_us = options.pop("outage_every_us", 0)
        self.outage_us = options.pop("outage_us", 0)
        self.outage_from_us = options.pop("outage_from_us", 0)
        self.delay_us = options.pop("delay_us", 0)
        self.jitter_us = options.pop("jitter_us", 0)
        self.reorder_us = options.pop("reorder_us", 5000)
        self.rate = options.pop("rate", 0)
        self.queue_bytes = options.pop("queue_bytes", 262144)
        self.mtu = options.pop("mtu", 0)
        if options:
            raise TypeError(f"no such option: {', '.join(options)}")

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            free(self.heap[i].data)
        free(self.heap)

    cdef void put(self, const uint8_t *data, uint32_t length, uint64_t client, int64_t now) noexcept:
        """A packet enters."""
        cdef int64_t at, usual
        cdef double lost, twice, damaged, late, lateness, jitter
        cdef bint in_burst
        self.counts.packets += 1
        self.counts.bytes += length
        self.draw = mixed(self.seed + mixed(self.counts.packets))
        in_burst = self.in_burst()
        # Every packet draws the same numbers, needed or not, so that one option does not change what another does.
        lost, twice, damaged, late = self.random(), self.random(), self.random(), self.random()
        lateness, jitter = self.random(), self.random()
        if self.mtu and length + HEADER_BYTES > self.mtu:
            self.counts.too_large += 1
            return
        if self.in_outage(now):
            self.counts.lost_in_outages += 1
            return
        at = self.pass_link(length, now)
        if at < 0:
            self.counts.queue_full += 1
            return
        if lost < self.loss:
            self.counts.lost += 1
            return
        if in_burst:
            self.counts.lost_in_bursts += 1
            return
        usual = max(at + self.delay_us + <int64_t>((2 * jitter - 1) * self.jitter_us), at)
        if late < self.reorder:
            self.counts.reordered += 1
            at = usual + 1 + <int64_t>(lateness * self.reorder_us)
        else:
            at = self.latest_at = max(usual, self.latest_at)
        self.hold(at, data, length, client, damaged < self.corrupt)
        if damaged < self.corrupt:
            self.counts.corrupted += 1
        if twice < self.duplicate:
            self.counts.duplicated += 1
            self.hold(at, data, length, client, False)

    cdef bint in_burst(self) noexcept:
        """Whether this packet is lost in a burst; may have the wire change from good to bad or back."""
        cdef double change = self.nth(OWN_NUMBERS), lost = self.nth(OWN_NUMBERS + 1)
        if change < (self.burst_ends if self.is_bad else self.burst_begins):
            self.is_bad = not self.is_bad
        return self.is_bad and lost < self.burst_loss

    cdef bint in_outage(self, int64_t now) noexcept:
        if self.outage_every_us == 0 or now < self.outage_from_us:
            return False
        return (now - self.outage_from_us) % self.outage_every_us >= self.outage_every_us - self.outage_us

    cdef int64_t pass_link(self, uint32_t length, int64_t now) noexcept:
        """When the packet has left the link; -1 when the queue in front of it is full."""
        cdef int64_t now_ns = now * 1000, bits = (<int64_t>length + HEADER_BYTES) * 8
        if self.rate == 0:
            return now
        if self.link_free_ns < now_ns:
            self.link_free_ns = now_ns
        # Dividing first would round away the time on a fast link; bits * 10**9 fits for packets up to 1 GiB.
        elif <double>(self.link_free_ns - now_ns) * self.rate / 8e9 + length + HEADER_BYTES > self.queue_bytes:
            return -1
        self.link_free_ns += bits * 1000000000 // self.rate
        return (self.link_free_ns + 999) // 1000

    cdef void hold(self, int64_t at, const uint8_t *data, uint32_t length, uint64_t client, bint damage) noexcept:
        """Keep a copy of the packet until it arrives."""
        cdef Held held
        cdef Held *larger
        cdef size_t i, parent
        cdef uint32_t _change
        if self.count == self.room:
            larger = <Held *>realloc(self.heap, (self.room * 2 + 64) * sizeof(Held))
            if larger == NULL:
                self.counts.no_memory += 1
                return
            self.heap = larger
            self.room = self.room * 2 + 64
        held.data = <uint8_t *>malloc(length + 1) if self.held_bytes + length <= MOST_HELD_BYTES else NULL
        if held.data == NULL:
            self.counts.no_memory += 1
            return
        memcpy(held.data, data, length)
        if damage and length > 0:
            for _change in range(1 + <uint32_t>(self.random() * DAMAGED_BYTES)):
                held.data[<uint32_t>(self.random() * length)] += <uint8_t>(1 + self.random() * LARGEST_CHANGE)
        held.at = at
        held.order = self.counts.packets * 2 + (not damage)
        held.client = client
        held.length = length
        self.held_bytes += length
        i = self.count
        self.count += 1
        while i > 0:
            parent = (i - 1) // 2
            if not before(&held, &self.heap[parent]):
                break
            self.heap[i] = self.heap[parent]
            i = parent
        self.heap[i] = held

    cdef bint take(self, int64_t now, Held *out) noexcept:
        """The next packet that has arrived by `now`, whose memory becomes the caller's; false when there is none."""
        cdef size_t i = 0, child
        cdef Held *last
        if self.count == 0 or self.heap[0].at > now:
            return False
        out[0] = self.heap[0]
        self.count -= 1
        last = &self.heap[self.count]
        while True:
            child = 2 * i + 1
            if child >= self.count:
                break
            if child + 1 < self.count and before(&self.heap[child + 1], &self.heap[child]):
                child += 1
            if not before(&self.heap[child], last):
                break
            self.heap[i] = self.heap[child]
            i = child
        self.heap[i] = last[0]
        self.held_bytes -= out.length
        self.counts.delivered += 1
        self.counts.delivered_bytes += out.length
        return True

    cdef int64_t deadline(self) noexcept:
        """When the next packet arrives."""
        return self.heap[0].at if self.count else NEVER

    cdef double random(self) noexcept:
        """This packet's next random number in [0, 1) (SplitMix64: Steele, Lea, Flood 2014)."""
        self.draw += STEP
        return unit(mixed(self.draw))

    cdef double nth(self, uint64_t n) noexcept:
        """The nth of the same numbers, counted from the next."""
        return unit(mixed(self.draw + STEP * n))

    # ---- for Python

    def statistics(self):
        """What happened so far: {name: number}."""
        return self.counts


cdef uint64_t STEP = <uint64_t>0x9E3779B97F4A7C15


cdef inline double unit(uint64_t value) noexcept nogil:
    """In [0, 1)."""
    return (value >> 11) * (1.0 / (<uint64_t>1 << 53))


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    """The finaliser of SplitMix64."""
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)


cdef inline bint before(const Held *one, const Held *other) noexcept nogil:
    return one.at < other.at or (one.at == other.at and one.order < other.order)
