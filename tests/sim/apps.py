"""The applications of the simulation: one at each end of a stream, checking every byte it is given."""

import random

PERIOD = 65521   # prime, so that no window or ring size is a multiple of it
_BYTES = random.Random("pattern").randbytes(PERIOD)
PATTERN = _BYTES * 4


def pattern(key, offset, length):
    """The bytes [offset, offset + length) that the direction `key` carries; length at most 3 PERIOD."""
    start = (key * 40503 + offset) % PERIOD
    return PATTERN[start:start + length]


class Plan:
    """What one application does: times in microseconds, sizes in bytes."""

    def __init__(self, total, *, chunk=4096, pause=0, read_chunk=1 << 20, read_pause=0, stall_at=None, stall_for=0,
                 start=0, end_pause=0, reset_at=None, reset_behind=False, discard=False, refuse=False, release_pause=0):
        self.total = total                # bytes written before the direction ends
        self.chunk = chunk                # bytes of one write
        self.pause = pause                # between two writes; 0: as fast as the session takes them
        self.read_chunk = read_chunk      # bytes taken at once
        self.read_pause = read_pause      # between two reads when there is more than that
        self.stall_at = stall_at          # received this much: stop reading ...
        self.stall_for = stall_for        # ... for so long
        self.start = start                # delay before the first write
        self.end_pause = end_pause        # between the last write and the end
        self.reset_at = reset_at          # reset after so many bytes written and received
        self.reset_behind = reset_behind  # reset instead of an end, as who closes with bytes unread
        self.discard = discard            # vanish after the end
        self.refuse = refuse              # server: reset at once, the daemon refused
        self.release_pause = release_pause  # between both ends seen and release


class App:
    """One end of one stream. `peer` is the application at the other end, once there is one."""

    def __init__(self, end, stream_id, plan, key, peer=None):
        self.end = end
        self.id = stream_id
        self.plan = plan
        self.key = key
        self.peer = peer
        self.written = 0
        self.received = 0
        self.ended = False         # wrote its end
        self.saw_end = False       # was told the peer's end
        self.did_reset = False
        self.did_discard = False
        self.saw_reset = None      # ResetCode it was told
        self.released = False
        self.may_write = False
        self.stalled_until = 0
        self.stalls_left = plan.stall_at is not None
        self.reading = False       # a read is scheduled

    # ---- life

    def begin(self):
        """Start writing after the plan's delay."""
        self.end.clock.after(self.plan.start, self._start)

    def _start(self):
        self.may_write = True
        self.write()
        self.end.pump()

    @property
    def over(self):
        """Whether this application has finished."""
        return self.released

    def let_go(self):
        """Both directions ended: give the stream back."""
        if self.saw_end and self.ended and not self.released:
            if self.plan.release_pause and not self.end.world.healing:
                self.end.clock.after(self.plan.release_pause, self._release)
            else:
                self._release()

    def _release(self):
        if not self.released:
            self.released = True
            self.end.ps.release(self.id)
            self.end.pump()

    def reset(self):
        """Break the connection."""
        if self.released:
            return
        self.did_reset = self.released = True
        if self.end.ps.look(self.id) is not None:   # the peer's reset may have come in the same bytes
            self.end.ps.discard(self.id)
        self.end.pump()

    def discard(self):
        """Close without waiting for the peer's end."""
        if self.released:
            return
        self.did_discard = self.released = True
        self.end.ps.discard(self.id)
        self.end.pump()

    def told_reset(self, code):
        """The session says that the stream was reset (and has released it)."""
        if self.did_reset:
            return
        assert not self.released, f"reset told to an application that is gone: {self}"
        self.saw_reset = code
        self.released = True
        self.end.world.judge_reset(self, code)

    # ---- writing

    def write(self):
        """Write as much as plan and session allow."""
        plan = self.plan
        if not self.may_write or self.released or self.ended:
            return
        while self.written < plan.total:
            data = pattern(self.key, self.written, min(plan.chunk, plan.total - self.written))
            done = self.end.ps.write(self.id, data)
            self.written += done
            self._maybe_reset()
            if self.released:
                return
            if done < len(data):
                return
            if plan.pause and not self.end.world.healing:
                self.may_write = False
                self.end.clock.after(plan.pause, self._start)
                return
        self.may_write = False
        if plan.reset_behind:
            self.reset()
        elif plan.end_pause and not self.end.world.healing:
            self.end.clock.after(plan.end_pause, self.finish)
        else:
            self.finish(pump=False)

    def finish(self, pump=True):
        """End this direction."""
        if self.released or self.ended:
            return
        self.ended = True
        self.end.ps.end(self.id)
        if self.plan.discard and not self.saw_end:
            self.discard()
        self.let_go()
        if pump:
            self.end.pump()

    def _maybe_reset(self):
        if self.plan.reset_at is not None and self.written + self.received >= self.plan.reset_at:
            self.reset()

    # ---- reading

    def wants(self, length):
        """How many of `length` bytes the application takes at once."""
        if self.released or self.end.clock.now < self.stalled_until:
            return 0
        return min(length, self.plan.read_chunk)

    def given(self, data):
        """Check bytes that arrived."""
        assert not self.saw_end, f"bytes behind the end: {self}"
        expected = pattern(self.peer.key, self.received, len(data))
        assert data == expected, f"wrong bytes at {self.received}: {self}"
        self.received += len(data)
        assert self.received <= self.peer.written, f"more bytes than were written: {self}"
        if self.stalls_left and self.received >= self.plan.stall_at:
            self.stalls_left = False
            if not self.end.world.healing:
                self.stalled_until = self.end.clock.now + self.plan.stall_for
        if not self.did_reset:
            self._maybe_reset()

    def told_end(self):
        """The peer's direction is over."""
        assert self.peer.ended, f"end that nobody sent: {self}"
        assert self.received == self.peer.plan.total, f"end before all bytes: {self}"
        self.saw_end = True
        self.let_go()

    def read_later(self):
        """Come back for bytes that the session keeps."""
        if not self.reading and not self.released and not self.saw_end:
            self.reading = True
            healing = self.end.world.healing
            pause = 0 if healing else max(self.plan.read_pause, self.stalled_until - self.end.clock.now)
            self.end.clock.after(max(pause, 1), self._read)

    def _read(self):
        self.reading = False
        if self.released or self.saw_end:
            return
        if self.end.clock.now < self.stalled_until and not self.end.world.healing:
            self.read_later()
            return
        data, ended = self.end.ps.hand(self.id, self.plan.read_chunk)
        if data:
            self.given(data)
        if self.released:
            return
        if ended:
            self.told_end()
        elif self.end.ps.look(self.id)["received"] > self.received or data:
            self.read_later()
        self.end.pump()

    def __str__(self):
        return (f"{self.end.name} stream {self.id} wrote {self.written}/{self.plan.total} ended={self.ended}"
                f" received={self.received} saw_end={self.saw_end} reset={self.did_reset}"
                f" discarded={self.did_discard} saw_reset={self.saw_reset}"
                f" look={self.end.ps.look(self.id)}")
