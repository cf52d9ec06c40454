"""A connection with the program's buffers, and the set of all that one endpoint has.

Of the set the endpoint asks which link a packet is for, which have something to do, and when the next is to be told the
time. Whoever dials is a stranger there until it has sent a packet that only the right peer could make.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from mproxy.ground._deadlines cimport Deadline, Deadlines
from mproxy.transport._connection cimport Connection
from mproxy.transport._link_names cimport LinkNames
from mproxy.transport._seal cimport PacketKey
from mproxy.io._loop cimport Loop, Work
from mproxy.io._packets cimport LocalAddress


cdef enum:
    LATE_US = 1000000        # an alarm this late means that the process, or the machine, was stopped


cdef class LinkSet


cdef class Link:
    cdef readonly Connection connection  # the engine
    cdef LinkSet siblings                # with all other links of its endpoint
    cdef public object handler           # a LinkHandler, told of events
    cdef bint active                     # in the endpoint's list of this turn
    cdef readonly bint ended             # `on_ended` was called
    cdef bint admitted                   # it dialled us and is no longer a stranger: it takes one of the places
    cdef bint read_end_told              # `on_read_ended` was called
    cdef bint closed                     # to be forgotten
    cdef bint finish_due                 # FIN after the last buffer
    cdef LocalAddress local              # our address on this path; zeros: whichever the route gives
    cdef int64_t asked_at                # when the peer may be shown next that we are here, because somebody asked
    cdef int64_t unknown_at              # when it may be told next that the peer does not know the connection
    cdef int64_t singly_until            # until then trains are sent packet by packet
    cdef object fill_buffer              # keeps the memory of `fill_at`
    cdef uint8_t *fill_at                # where the next bytes go
    cdef size_t fill_left                # bytes of room there
    cdef size_t fill_least               # least bytes worth reporting; 0: there is no buffer to be filled
    cdef readonly size_t filled          # bytes that the buffer given to `fill` has got
    cdef Deadline deadline               # when its connection is to be told the time
    cdef object send_queue               # deque of buffers to be sent
    cdef object send_buffer              # keeps the memory of `send_at`
    cdef const uint8_t *send_at          # the next byte of the buffer in hand
    cdef size_t send_left                # bytes left of it
    cdef PacketKey sending               # keeps the memory of the engine's Seal
    cdef PacketKey receiving             # keeps the memory of the engine's Seal

    cdef void keep_source(self) noexcept
    cdef void wake(self) noexcept
    cdef void move_in(self, int64_t now) noexcept
    cdef void move_out(self) noexcept
    cdef bint next_buffer(self) noexcept
    cdef void events(self, int64_t now) noexcept
    cdef void tell(self, event) noexcept


cdef class LinkSet:
    cdef Loop loop            # of their endpoint
    cdef Work *work           # its turn
    cdef int fd               # the socket that they send from; -1: closed
    cdef dict all             # by their first id
    cdef LinkNames names      # by every id that packets to them may have
    cdef list waiting         # those that something happened to
    cdef Deadlines deadlines  # of all; of those in `waiting` perhaps no longer the right ones
    cdef object strangers     # Strangers: peers that have dialled and shown nothing yet; None: no peer may dial
    cdef uint32_t admitted    # peers that have dialled and shown that they may

    cdef int insert(self, Link link) except -1
    cdef void remove(self, Link link) noexcept
    cdef void wait(self, Link link) noexcept
    cdef list take_due(self, int64_t due_at, int64_t now)
    cdef void note_deadline(self, Link link) noexcept
    cdef int64_t due(self) noexcept
    cdef void admit(self, Link link) noexcept
    cdef void vacate(self, Link link) noexcept
