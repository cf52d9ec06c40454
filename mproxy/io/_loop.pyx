"""The event loop. Order of a turn and the two kinds of source: _loop.pxd."""

import heapq
import os
from collections import deque

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from mproxy._pool cimport pool_trim
from mproxy.ground._clock cimport read_clock
from mproxy.ground._deadlines cimport deadline_remove, deadline_set, deadlines_first, deadlines_reserve
from mproxy.ground._list cimport list_append, list_remove


cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int most, int timeout_ms)

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned int start, int flags)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<unistd.h>" nogil:
    long read(int fd, void *data, size_t length)
    int close(int fd)
    int dup3(int old, int new, int flags)

cdef enum:
    EVENTS_A_TURN = 128
    DUES_A_TURN = 256       # calls that are due before new events have their turn
    LONGEST_WAIT_MS = 60000
    TRIM_US = 1000000
    SLOW_PART = 2           # one part in this many of the time is for slow work while there is other work
    SLOW_BURST_US = 400     # and this much at once
    CROWD_PART = 8          # the same when a CROWD is slow work,
    CROWD_BURST_US = 100    # and this much at once: a loop that waits for a processor with others has few turns
    RESTED_US = 100000      # slow work that comes after a rest this long is favoured
    FAVOURED_TURNS = 20     # for this many turns: enough to show that it is no longer slow
    QUICK_MEMORY_US = 10000  # other work that ran this recently may come again any moment
    LOAD_US = 16000         # of this much time, the last,
    FREE_PART = 16          # other work may take one part in this many, and slow work gets all the rest
    OTHERS_US = 10000       # work that had all turns for this long has the loop to itself
    LIGHT_TURN_US = 30      # a turn with less work may be part of a conversation
    LOOK_US = 120           # look for an answer before sleeping: enough for a proxy and a daemon to wake and answer
    LOOK_AFTER = 8          # light turns before the first look
    MOST_LOOK_AFTER = 512   # light turns from one look to the next, if these are in vain


cdef void drain_wake(Source *source, uint32_t events) noexcept:
    cdef uint64_t count
    if read(source.fd, &count, sizeof(count)) < 0:
        return  # already taken


cdef void place(int fd, int made) except *:
    """Give a new descriptor the number `fd`, which is free."""
    if made != fd and made >= 0:
        if dup3(made, fd, O_CLOEXEC) < 0:
            raise OSError(errno, os.strerror(errno))
        close(made)
    elif made < 0:
        raise OSError(errno, os.strerror(errno))


cdef Work *take_first(LinkedList *queue) noexcept:
    """Take the first of a queue that is not empty."""
    cdef Work *work = <Work *>queue.first
    list_remove(queue, work, &work.in_queue)
    work.queue = NULL
    return work


cdef class Timer:
    """A call that is due at the time `at`; `cancel` it as often as you like."""

    def __lt__(self, Timer other):
        return self.at < other.at if self.at != other.at else self.number < other.number

    def cancel(self):
        """Never call."""
        self.callback = None


cdef class Loop:
    """An epoll loop for one thread. Times are microseconds of CLOCK_MONOTONIC."""

    def __cinit__(self):
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.epoll_fd < 0 or self.wake_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.buffer = <uint8_t *>malloc(BUFFER_BYTES)
        if self.buffer == NULL:
            raise MemoryError
        self.timers = []
        self.soon = deque()
        self.slow_calls = deque()
        self.now_us = read_clock()
        self.look_after = LOOK_AFTER
        self.wake_source.fd = self.wake_fd
        self.wake_source.ready = drain_wake
        self.add(&self.wake_source, EPOLLIN)

    def __dealloc__(self):
        cdef int i
        for i in range(self.garbage_count):
            free(self.garbage[i])
        free(self.garbage)
        free(self.buffer)
        free(self.dues.heap)
        if self.epoll_fd >= 0:
            close(self.epoll_fd)
        if self.wake_fd >= 0:
            close(self.wake_fd)

    # ---- for Python

    def now(self):
        """Time of this turn."""
        return self.now_us

    def call_at(self, int64_t at, callback):
        """Call `callback()` at a time; returns the Timer."""
        cdef Timer timer = Timer()
        timer.at = at
        timer.callback = callback
        self.timer_number += 1
        timer.number = self.timer_number
        heapq.heappush(self.timers, timer)
        return timer

    def call_later(self, int64_t delay_us, callback):
        """Call `callback()` after a delay."""
        return self.call_at(read_clock() + delay_us, callback)

    def call_soon_threadsafe(self, callback):
        """Call `callback()` in the loop's thread, in its next turn; from any thread."""
        self.soon.append(callback)
        os.write(self.wake_fd, b"\1\0\0\0\0\0\0\0")

    def call_slow(self, callback):
        """Call `callback()` when it is its turn among the slow work: what strangers cause must not hold up others."""
        self.slow_calls.append(callback)

    def watch(self, int fd, callback, *, bint read=True, bint write=False):
        """Call `callback(events)` while `fd` is ready; returns the Watch. The descriptor stays the caller's."""
        return Watch(self, fd, callback, read, write)

    def renew(self):
        """Be the loop of a process that was cloned and shares its descriptors with the one before: what that one has
        left in them is gone, their numbers stay. Until then there are only watches and timers."""
        cdef Watch watch
        close(self.epoll_fd)  # first, for there may be no other number left
        place(self.epoll_fd, epoll_create1(EPOLL_CLOEXEC))
        close(self.wake_fd)
        place(self.wake_fd, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC))
        self.now_us = read_clock()
        self.add(&self.wake_source, EPOLLIN)
        for watch in _watches:
            if watch.loop is self and watch.source.fd >= 0 and not watch.paused:
                self.add(&watch.source, watch.events)

    def stop(self):
        """Leave `run` at the end of the turn; before it, do not begin."""
        self.stopping = True

    def run(self):
        """Run until `stop`. Exceptions of callbacks go to `on_error`; those of signal handlers are raised here."""
        cdef epoll_event events[EVENTS_A_TURN]
        cdef Source *source
        cdef int i, n = 0
        while not self.stopping:
            n = self.wait(events, n)
            PyErr_CheckSignals()
            self.now_us = read_clock()
            self.turns += 1
            for i in range(n):
                source = <Source *>events[i].data.ptr
                if source.fd >= 0:
                    source.ready(source, events[i].events)
            self.run_work()
            if self.soon:
                self.run_soon()
            if self.timers:
                self.run_timers()
            self.run_dues()
            for i in range(self.garbage_count):
                free(self.garbage[i])
            self.garbage_count = 0
            if self.now_us >= self.trim_at:
                self.trim_at = self.now_us + TRIM_US
                pool_trim()
        self.stopping = False
        leaving, self.leaving = self.leaving, None
        if leaving is not None:
            raise leaving

    # ---- sources and work

    cdef int add(self, Source *source, uint32_t events) noexcept:
        """Watch a source; -1 with errno (EPERM: the descriptor is a file, always ready)."""
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = events
        event.data.ptr = source
        return epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, source.fd, &event)

    cdef void modify(self, Source *source, uint32_t events) noexcept:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = events
        event.data.ptr = source
        epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, source.fd, &event)

    cdef void suspend(self, Source *source) noexcept:
        """Stop watching until it is added again; an event already fetched may still arrive."""
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, source.fd, NULL)

    cdef void remove(self, Source *source) noexcept:
        """Stop watching. The source must live to the end of the turn (`free_later`)."""
        if source.fd >= 0:
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, source.fd, NULL)
            source.fd = -1

    cdef void close(self, Source *source) noexcept:
        """Stop watching and close the descriptor. Closing alone would not do: others may have a duplicate, such as a
        program with the same standard input, or a process that is just being started. Events would come for a source
        that is gone."""
        if source.fd >= 0:
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, source.fd, NULL)
            close(source.fd)
            source.fd = -1

    cdef void schedule(self, Work *work) noexcept:
        """Run the work before the loop sleeps again."""
        if work.queue == NULL:
            work.queue = self.queue_of(work)
            list_append(work.queue, work, &work.in_queue)

    cdef LinkedList *queue_of(self, Work *work) noexcept:
        """Work that comes after a rest goes before what comes all the time: a heartbeat must not wait for a crowd."""
        if not work.slow:
            return &self.quick
        if self.now_us - work.ran_at >= RESTED_US:
            work.favours = FAVOURED_TURNS
        if work.favours == 0:
            return &self.slow
        work.favours -= 1
        return &self.favoured

    cdef Work *next_slow(self) noexcept:
        """Take slow work (there is some), by turns favoured work and other, so that none waits for ever."""
        cdef bint from_slow = self.slow.count > 0 and (self.slow_is_next or self.favoured.count == 0)
        self.slow_is_next = not from_slow
        return take_first(&self.slow if from_slow else &self.favoured)

    cdef int slow_count(self) noexcept:
        """How much slow work is waiting."""
        return self.favoured.count + self.slow.count

    cdef void unschedule(self, Work *work) noexcept:
        """Take back queued work; its owner ends."""
        if work.queue != NULL:
            list_remove(work.queue, work, &work.in_queue)
            work.queue = NULL

    cdef void free_later(self, void *memory) noexcept:
        """free(3) at the end of the turn."""
        cdef void **larger
        if self.garbage_count == self.garbage_size:
            larger = <void **>realloc(self.garbage, (self.garbage_size * 2 + 64) * sizeof(void *))
            if larger == NULL:
                return  # leaking one record is the lesser evil
            self.garbage = larger
            self.garbage_size = self.garbage_size * 2 + 64
        self.garbage[self.garbage_count] = memory
        self.garbage_count += 1

    cdef bint undisturbed(self) noexcept:
        """Whether only the present work has run lately: then it holds nobody up."""
        return self.now_us - self.others_at >= OTHERS_US

    cdef void note_run(self, Work *work) noexcept:
        work.ran_at = self.now_us
        if work != self.last_run:
            self.last_run = work
            self.others_at = self.now_us

    cdef void run_work(self) noexcept:
        """Run what is queued now; what that queues is for the next turn, so that new events are seen in between."""
        cdef Work *work
        cdef int left = self.quick.count
        cdef bint busy = left > 0
        while left > 0 and self.quick.count > 0:
            left -= 1
            work = take_first(&self.quick)
            self.note_run(work)
            work.run(work)
        if self.slow_count() > 0 or self.slow_calls:
            self.run_slow(busy)

    cdef void run_slow(self, bint busy) noexcept:
        """Run slow work, by turns; while other work keeps coming, only for a part of the time."""
        cdef Work *work
        cdef int64_t began = read_clock(), spent = 0, since = min(began - self.slow_at, <int64_t>LOAD_US)
        cdef int left = self.slow_count(), calls = len(self.slow_calls)
        cdef bint crowded = left + calls > CROWD
        self.quick_ns -= self.quick_ns * since // LOAD_US
        if busy:
            self.quick_at = began
            self.quick_ns += (began - self.now_us) * 1000
        if self.is_free(began):
            self.slow_credit_us = SLOW_BURST_US
        else:
            self.slow_credit_us += (began - self.slow_at) // (CROWD_PART if crowded else SLOW_PART)
            self.slow_credit_us = min(
                self.slow_credit_us, <int64_t>CROWD_BURST_US if crowded else <int64_t>SLOW_BURST_US)
        self.slow_at = began
        while spent < self.slow_credit_us and (left > 0 or calls > 0):
            if left > 0 and self.slow_count() > 0:
                work = self.next_slow()
                self.note_run(work)
                work.run(work)
            left -= 1
            if calls > 0:
                self.guard(self.slow_calls.popleft(), None)
            calls -= 1
            spent = read_clock() - began
        self.slow_credit_us -= spent

    cdef bint is_free(self, int64_t now) noexcept:
        """Whether slow work holds up next to nobody: there is no other, or very little, such as a key now and then."""
        return now - self.quick_at >= QUICK_MEMORY_US or self.quick_ns < LOAD_US * 1000 // FREE_PART

    cdef run_soon(self):
        for _ in range(len(self.soon)):
            self.guard(self.soon.popleft(), None)

    cdef run_timers(self):
        cdef Timer timer
        while self.timers and (<Timer>self.timers[0]).at <= self.now_us:
            timer = heapq.heappop(self.timers)
            callback = timer.callback
            if callback is not None:
                timer.callback = None
                self.guard(callback, None)

    cdef int set_due(self, DueCall *due, int64_t at) noexcept:
        """Have it called at that time or soon after, and not when it was set to before; -1: there is no memory. The
        record must lie still until it was called or cancelled."""
        try:
            deadlines_reserve(&self.dues, self.dues.count + 1)
        except MemoryError:
            return -1
        due.deadline.owner = due
        deadline_set(&self.dues, &due.deadline, at)
        return 0

    cdef void cancel_due(self, DueCall *due) noexcept:
        """Never call it; does nothing when it is not set."""
        deadline_remove(&self.dues, &due.deadline)

    cdef void run_dues(self) noexcept:
        cdef DueCall *due
        cdef int left = DUES_A_TURN
        while left > 0 and self.dues.count > 0 and deadlines_first(&self.dues).at <= self.now_us:
            due = <DueCall *>deadlines_first(&self.dues).owner
            deadline_remove(&self.dues, &due.deadline)
            due.call(due)
            left -= 1

    cdef int wait(self, epoll_event *events, int before) noexcept:
        """Fetch events, at most EVENTS_A_TURN, and sleep for them if need be; `before`: how many the turn had.

        A series of light turns, with one event and next to no work in each, is a conversation, in which the answer
        often comes sooner than a sleeper can be woken: look for it for a moment first, and let others run meanwhile.
        Each look in vain doubles the series that must come before the next. A busy loop sleeps at once: what
        accumulates meanwhile takes fewer system calls.
        """
        cdef int wait = self.wait_ms(), n = 0
        cdef int64_t now
        if wait == 0:
            return epoll_wait(self.epoll_fd, events, EVENTS_A_TURN, 0)
        with nogil:
            if before > 1:
                self.light_turns = 0
            elif before == 1:
                now = read_clock()
                if now - self.now_us >= LIGHT_TURN_US:
                    self.light_turns = 0
                elif self.light_turns < self.look_after:
                    self.light_turns += 1
                else:
                    n = self.look(events, now + LOOK_US)
            if n == 0:
                n = epoll_wait(self.epoll_fd, events, EVENTS_A_TURN, wait)
        return n

    cdef int look(self, epoll_event *events, int64_t until) noexcept nogil:
        """Look for events without sleeping; 0 if there are none until the time `until`."""
        cdef int n
        while True:
            sched_yield()
            n = epoll_wait(self.epoll_fd, events, EVENTS_A_TURN, 0)
            if n != 0:
                self.look_after = LOOK_AFTER
                return n
            if read_clock() >= until:
                self.looks_in_vain += 1
                self.light_turns = 0
                self.look_after = min(2 * self.look_after, MOST_LOOK_AFTER)
                return 0

    cdef int wait_ms(self) noexcept:
        """How long the loop may sleep."""
        cdef int64_t at, wait
        if self.quick.count > 0 or self.soon or self.stopping:
            return 0
        if self.slow_count() > 0 or self.slow_calls:
            if self.slow_credit_us > 0 or self.is_free(read_clock()):
                return 0
            self.slow_waits += 1
            return 1
        while self.timers and (<Timer>self.timers[0]).callback is None:
            heapq.heappop(self.timers)
        at = self.now_us + LONGEST_WAIT_MS * 1000
        if self.timers:
            at = min(at, (<Timer>self.timers[0]).at)
        if self.dues.count > 0:
            at = min(at, deadlines_first(&self.dues).at)
        wait = at - read_clock()
        if wait <= 0:
            return 0
        return <int>min((wait + 999) // 1000, <int64_t>LONGEST_WAIT_MS)

    cdef object guard(self, callback, argument):
        """Call Python code, whose exceptions must not end the loop."""
        try:
            return callback() if argument is None else callback(argument)
        except Exception as error:
            if self.on_error is None:
                raise
            self.on_error(error)
        except BaseException as error:  # our callers may be C functions, through which nothing can be raised
            self.leaving = error
            self.stopping = True


cdef void watch_ready(Source *source, uint32_t events) noexcept:
    cdef Watch watch = <Watch>source.owner
    if not watch.paused:  # by another callback of this turn
        watch.loop.guard(watch.callback, events)


cdef class Watch:
    """A descriptor that Python code waits for, level-triggered."""

    def __init__(self, Loop loop, int fd, callback, bint read, bint write):
        self.loop = loop
        self.callback = callback
        self.source.fd = fd
        self.source.ready = watch_ready
        self.source.owner = <void *>self
        self.events = (EPOLLIN if read else 0) | (EPOLLOUT if write else 0)
        self.begin()
        _watches.add(self)

    cdef begin(self):
        if self.loop.add(&self.source, self.events) < 0:
            raise OSError(errno, os.strerror(errno))

    def set(self, *, bint read=False, bint write=False):
        """Change the events that are waited for; an error and the end of a connection always are. OSError: it was
        paused, and the system has no room for it."""
        self.events = (EPOLLIN if read else 0) | (EPOLLOUT if write else 0)
        if self.source.fd < 0:
            return
        if self.paused:
            self.begin()
            self.paused = False
        else:
            self.loop.modify(&self.source, self.events)

    def pause(self):
        """Wait for nothing until `set`: whoever cannot act on an end yet would be told of it in every turn."""
        if self.source.fd >= 0 and not self.paused:
            self.paused = True
            self.loop.suspend(&self.source)

    def close(self):
        """Stop waiting. The descriptor stays open."""
        if self.source.fd >= 0:
            self.loop.remove(&self.source)
            # An event already fetched may still point here: live to the end of the turn.
            self.loop.soon.append(lambda: _watches.discard(self))


_watches = set()  # open ones: the kernel holds a pointer to each
