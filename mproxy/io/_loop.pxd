"""The event loop: epoll, work to do before the loop sleeps again, timers, calls from other threads.

One turn: wait -> mark what is ready -> run the queued work, slow work last -> run the timers that are due. Sources are
edge-triggered for C users (`Source`) and level-triggered for Python users (`Watch`).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from mproxy.ground._deadlines cimport Deadline, Deadlines
from mproxy.ground._list cimport LinkedList, ListLink


cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP, EPOLLERR, EPOLLHUP
    uint32_t EPOLLET, EPOLLEXCLUSIVE


cdef struct Source:
    int fd                                                # -1 once removed
    void (*ready)(Source *source, uint32_t events) noexcept  # only sets marks and queues work
    void *owner                                           # for `ready`


cdef struct Work:
    void (*run)(Work *work) noexcept  # may queue itself again, to run in the next turn
    void *owner                       # for `run`
    LinkedList *queue                 # in which it waits; NULL: in none
    ListLink in_queue                 # that queue
    int64_t ran_at                    # when it last ran
    bint slow                         # runs after the others, and only for a part of their time
    int favours                       # slow work that had rested goes first for this many more turns


cdef struct DueCall:
    void (*call)(DueCall *due) noexcept  # once, when the time has come; may set it anew
    void *owner                          # for `call`
    Deadline deadline                    # in the loop's heap


cdef enum:
    BUFFER_BYTES = 262144  # one carrier read
    CROWD = 12             # more sessions and strangers than this as slow work are a crowd


cdef class Timer:
    cdef readonly int64_t at    # when, microseconds of Loop.now
    cdef uint32_t number        # order among equals
    cdef object callback        # None once cancelled or run


cdef class Loop:
    cdef int epoll_fd           # the epoll instance
    cdef int wake_fd            # eventfd: other threads and signals end the wait
    cdef Source wake_source     # of wake_fd
    cdef LinkedList quick       # work that is not slow
    cdef LinkedList favoured    # slow work that had rested
    cdef LinkedList slow        # slow work otherwise
    cdef bint slow_is_next      # which of these two is next, when there is work in both
    cdef Work *last_run         # what ran last; only compared
    cdef int64_t others_at      # when that last changed
    cdef object slow_calls      # collections.deque of Python calls that are slow work
    cdef int64_t quick_at       # when work that is not slow last ran
    cdef int64_t slow_at        # when slow work was last looked at
    cdef int64_t slow_credit_us  # time that it may take; negative: how much it took too much
    cdef int64_t quick_ns       # time that other work took lately, while slow work was waiting
    cdef readonly uint32_t slow_waits  # times that slow work waited, although there may have been nothing else to do
    cdef list timers            # heap of Timer
    cdef Deadlines dues         # of DueCalls: for what comes by the thousand, and may cost no Python
    cdef uint32_t timer_number  # numbers given
    cdef object soon            # collections.deque of calls from any thread
    cdef void **garbage         # memory to free at the end of the turn: fetched events may still point there
    cdef int garbage_count      # entries
    cdef int garbage_size       # room for entries
    cdef int64_t trim_at        # when to look for unused ring memory
    cdef int light_turns        # in a row until now, up to look_after
    cdef int look_after         # light turns in a row after which the loop looks for events before it sleeps
    cdef bint stopping          # leave `run`
    cdef int64_t now_us         # of this turn
    cdef readonly uint32_t turns  # turns so far, modulo 2**32
    cdef readonly uint32_t looks_in_vain  # times that the loop looked for events before sleeping, and none came
    cdef object leaving           # what a signal handler raised within a callback: `run` ends by raising it
    cdef public object on_error   # called with an exception that a Python callback raised
    cdef uint8_t *buffer        # BUFFER_BYTES, for whoever is reading

    cdef int add(self, Source *source, uint32_t events) noexcept
    cdef void modify(self, Source *source, uint32_t events) noexcept
    cdef void suspend(self, Source *source) noexcept
    cdef void remove(self, Source *source) noexcept
    cdef void close(self, Source *source) noexcept
    cdef void schedule(self, Work *work) noexcept
    cdef LinkedList *queue_of(self, Work *work) noexcept
    cdef Work *next_slow(self) noexcept
    cdef int slow_count(self) noexcept
    cdef void unschedule(self, Work *work) noexcept
    cdef void free_later(self, void *memory) noexcept
    cdef bint undisturbed(self) noexcept
    cdef void note_run(self, Work *work) noexcept
    cdef void run_work(self) noexcept
    cdef void run_slow(self, bint busy) noexcept
    cdef bint is_free(self, int64_t now) noexcept
    cdef run_soon(self)
    cdef run_timers(self)
    cdef int set_due(self, DueCall *due, int64_t at) noexcept
    cdef void cancel_due(self, DueCall *due) noexcept
    cdef void run_dues(self) noexcept
    cdef int wait(self, epoll_event *events, int before) noexcept
    cdef int look(self, epoll_event *events, int64_t until) noexcept nogil
    cdef int wait_ms(self) noexcept
    cdef object guard(self, callback, argument)


cdef class Watch:
    cdef Loop loop         # None once closed
    cdef Source source     # the descriptor
    cdef object callback   # called with the epoll events
    cdef uint32_t events   # that are waited for
    cdef bint paused       # none are, nor is the end

    cdef begin(self)
