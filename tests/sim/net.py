"""Virtual time and the carriers of the simulation.

A carrier is two byte pipes (FIFO), each with a latency and a limit on what is under way, like a TCP connection. It may
be cut (both ends notice, each in its own time), become a black hole (nobody notices anything), or hold everything
back for a while. Nothing here knows a frame.
"""

import heapq
from collections import deque


class Clock:
    """Virtual time in microseconds, and what is to happen when."""

    def __init__(self):
        self.now = 1_000_000
        self._events = []
        self._count = 0

    def at(self, when, call, *args):
        """Call `call(*args)` at time `when`; calls of the same time keep their order."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, call, args))

    def after(self, delay, call, *args):
        """Call `call(*args)` in `delay` microseconds."""
        self.at(self.now + delay, call, *args)

    def step(self):
        """Do what comes next; false when nothing does."""
        if not self._events:
            return False
        self.now, _count, call, args = heapq.heappop(self._events)
        call(*args)
        return True


class Pipe:
    """One direction of a carrier. `sink(data)` gets the bytes, `sink(None)` the end."""

    def __init__(self, clock, latency, capacity):
        self.clock = clock
        self.latency = latency
        self.capacity = capacity       # bytes taken from the writer and not yet delivered, at most
        self.sink = None
        self.on_room = None            # called when there is room again after there was none
        self.cut_after = None          # deliver so many bytes, then call `on_cut`; what is under way behind is lost
        self.on_cut = None
        self.reader = None             # an End; nothing is delivered while its process is stopped
        self.split = None              # function(data) -> list of pieces, or None
        self.under_way = deque()
        self.held_bytes = 0
        self.held_until = 0            # nothing is delivered before
        self.total = 0                 # bytes delivered
        self.swallow = False           # black hole
        self.closed = False            # the reader is gone, or the end was delivered
        self.ended = False             # no more can be written

    def room(self):
        """How many bytes the writer may give now."""
        return max(0, self.capacity - self.held_bytes)

    def write(self, data):
        """Send `data`; what exceeds the capacity is taken too (an opening is sent at once)."""
        if self.ended:
            return
        self.held_bytes += len(data)
        if self.swallow:
            return
        self.under_way.append((self.clock.now + self.latency, data))
        self.clock.after(self.latency, self._deliver)

    def end(self, delay=0):
        """End the direction: the reader is told behind everything under way."""
        if not self.ended:
            self.ended = True
            self.clock.after(self.latency + delay, self._deliver, True)

    def drop(self, keep=0):
        """Lose what is under way but its first `keep` bytes."""
        kept = b"".join(data for _due_at, data in self.under_way)[:keep]
        self.under_way.clear()
        self.held_bytes = 0
        if kept and not self.closed:
            self.under_way.append((self.clock.now, kept))
            self.held_bytes = len(kept)

    def _deliver(self, last=False):
        """Hand over all that is due, in one piece as a read does; `last`: whatever there is, and the end."""
        if self.closed:
            return
        held_until = max(self.held_until, self.reader.frozen_until if self.reader else 0)
        if self.clock.now < held_until:
            self.clock.at(held_until, self._deliver, last)
            return
        was_full = self.room() == 0
        due = []
        while self.under_way and (last or self.under_way[0][0] <= self.clock.now):
            due.append(self.under_way.popleft()[1])
        if due:
            self._hand_over(b"".join(due))
        if last and not self.closed:
            self.closed = True
            self.sink(None)
        elif was_full and self.on_room and not self.ended:
            self.on_room()

    def _hand_over(self, data):
        self.held_bytes -= len(data)
        cut = self.cut_after is not None and self.total + len(data) >= self.cut_after
        if cut:
            data = data[:self.cut_after - self.total]
            self.cut_after = None
            self.held_bytes = 0
            self.under_way.clear()
        for piece in self.split(data) if self.split else (data,):
            if self.closed:
                break
            self.total += len(piece)
            if piece:
                self.sink(piece)
        if cut:
            self.on_cut()


class Carrier:
    """Two pipes between the client (cproxy's side) and the server (sproxy's side)."""

    def __init__(self, clock, latency, capacity):
        self.clock = clock
        self.up = Pipe(clock, latency, capacity)      # client -> server
        self.down = Pipe(clock, latency, capacity)    # server -> client
        self.dead = False

    def attached(self, end, outward):
        """The session of `end` goes on over it."""

    def pump(self, end, outward):
        """Nothing is left to do: `end` has written all that there was room for."""

    def storage(self):
        """Bytes of ring storage that it holds itself."""
        return 0

    def cut(self, keep_up=0, keep_down=0, notice_up=0, notice_down=0):
        """Break the connection: what is under way is lost but for the first bytes kept; both readers see the end."""
        self.dead = True
        for pipe, keep, notice in ((self.up, keep_up, notice_up), (self.down, keep_down, notice_down)):
            pipe.drop(keep)
            pipe.end(notice)

    def black_hole(self):
        """Lose everything from now on; nobody is told."""
        self.dead = True
        for pipe in (self.up, self.down):
            pipe.drop()
            pipe.swallow = True

    def hold(self, delay):
        """Deliver nothing for `delay` microseconds."""
        until = self.clock.now + delay
        self.up.held_until = max(self.up.held_until, until)
        self.down.held_until = max(self.down.held_until, until)

    def close(self, reader, writer):
        """One side closes: it reads no more; the other side sees the end behind what is under way."""
        reader.closed = True
        reader.under_way.clear()
        writer.end()
