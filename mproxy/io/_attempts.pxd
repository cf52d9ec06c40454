"""Attempts to connect that go on beside the newest one, for a peer with several addresses (RFC 8305, section 5).

The newest attempt is its owner's own socket. If that was not answered within ATTEMPT_US, and there is another address
to try, the owner hands it over (`add`) and begins the next. Racing adds attempts and ends none before its time: the one
answered first wins, then the others are closed. The owner's work is scheduled when one of these was answered or failed,
and when the newest one's time is over.
"""

from libc.stdint cimport int64_t

from mproxy.ground._list cimport LinkedList, ListLink
from mproxy.io._loop cimport Loop, Source, Timer, Work


cdef enum:
    ATTEMPT_US = 250000  # RFC 8305, section 8: Connection Attempt Delay


cdef struct Attempt:
    Source source        # the connection
    void *attempts       # borrowed Attempts
    void *where          # the owner's name for the address
    int64_t began_at     # when it was dialled
    bint is_ready        # it was answered or failed, and nobody has looked yet
    ListLink in_all      # all of them


cdef class Attempts:
    cdef Loop loop        # runs everything here
    cdef Work *work       # the owner's
    cdef Work own_work    # for an owner that has none
    cdef LinkedList all   # attempts beside the newest, last begun first
    cdef Timer timer      # ends the newest one's time; None: not set
    cdef bint is_due      # that time is over
    cdef int error        # errno of the last one that failed

    cdef void wait(self) noexcept
    cdef void rest(self) noexcept
    cdef bint add(self, int fd, void *where, int64_t began) noexcept
    cdef Attempt *answered(self) noexcept
    cdef int take(self, Attempt *attempt) noexcept
    cdef void close(self, Attempt *attempt) noexcept
    cdef void over(self) noexcept
