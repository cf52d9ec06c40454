"""All pairs of a TCP relay. What happens to one of them: _relaying.pyx."""

from mproxy.ground._list cimport list_prepend, list_remove
from mproxy.io._socket cimport close
from mproxy.relay._tally cimport SharedRoom
from mproxy.relay.tcp._wheel cimport TICK_US, WheelLink, wheel_due, wheel_init, wheel_put, wheel_sweep, wheel_take


cdef enum:
    TRIM_US = 2000000
    LOOK_US = 30000000        # from one look at the peers of a connection to the next; most are over before the first
    LAST_WORDS_US = 30000000  # a peer that takes no byte for this long will not read the rest of a broken connection


cdef class PairSet:
    """`most`: connections of all rules and workers, which are counted in `tally`; 0: no bound."""

    def __init__(self, Loop loop, observer, most, Tally tally):
        self.loop = loop
        self.observer = observer
        self.tally = tally
        self.gate = AcceptGate(loop, observer, SharedRoom(tally, most) if most else None)
        self.mover = Mover(loop)
        self.look_us, self.last_words_us = LOOK_US, LAST_WORDS_US
        wheel_init(&self.wheel, loop.now_us)

    cdef void add(self, Pair *pair) noexcept:
        """Enter a new pair, which already has its place in the gate."""
        list_prepend(&self.all, pair, &pair.in_all)

    cdef void remove(self, Pair *pair) noexcept:
        """The pair has ended: give back its place, and after the turn its memory."""
        wheel_take(&self.wheel, &pair.link)
        self.loop.unschedule(&pair.work)
        list_remove(&self.all, pair, &pair.in_all)
        self.gate.leave()
        self.loop.free_later(pair)

    cdef void refuse(self, int fd) noexcept:
        """Reset a connection that has been accepted, and give its place back."""
        close(fd)
        self.gate.leave()

    cdef void wait_until(self, Pair *pair, int64_t at) noexcept:
        """Have `due` called at `at` or soon after."""
        pair.due_at = at
        wheel_put(&self.wheel, &pair.link, at)
        self.arm()

    cdef void arm(self) noexcept:
        """Keep the wheel turning, and the search for unused pipes going."""
        if not self.timing:
            self.timing = True
            self.loop.call_later(TICK_US, self.on_tick)

    def on_tick(self):
        """Look for time-outs and unused pipes; called by the loop."""
        cdef WheelLink *link
        self.timing = False
        wheel_sweep(&self.wheel, self.loop.now_us)
        link = wheel_due(&self.wheel)
        while link != NULL:
            self.due(<Pair *>link.owner, self.loop.now_us)
            link = wheel_due(&self.wheel)
        if self.loop.now_us >= self.trim_at:
            self.trim_at = self.loop.now_us + TRIM_US
            self.mover.pool.trim()
        if self.wheel.count or self.mover.pool.open:
            self.arm()

    cdef void tell(self, event) noexcept:
        """Call a method of the observer; `event` has its arguments."""
        self.loop.guard(event, None)
