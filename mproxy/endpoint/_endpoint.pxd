"""Joins a session to its carrier and its applications: every relayed byte passes through here.

Life of an inbound byte: the carrier brings it in a buffer (`read_carrier`) -> the session parses -> written to the
application's socket straight from that buffer, or kept in the stream's ring if the application does not take it.
Life of an outbound byte: application's socket -> the stream's ring (`app_read`) -> the carrier takes it from there,
with the headers between (`write_carrier`).

Python is told of events only: observer.py.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._parcel_reader cimport ParcelReader
from mproxy._session cimport Session
from mproxy._state cimport StreamState
from mproxy._stream cimport Stream
from mproxy.carrier._carrier cimport Carrier, Recipient
from mproxy.endpoint._app cimport App, Apps
from mproxy.endpoint._cost cimport Cost
from mproxy.endpoint._flow_side cimport FlowSide
from mproxy.endpoint._news cimport News
from mproxy.endpoint._vitals cimport Vitals
from mproxy.io._loop cimport DueCall, Loop, Work
from mproxy.io._socket cimport Target


cdef class Endpoint:
    cdef readonly Loop loop              # runs everything here
    cdef readonly Session session        # the state machine
    cdef public object observer          # an EndpointObserver
    cdef public Target default_target    # sproxy: the daemon; None: ask the observer for every stream of the peer's
    cdef Apps apps                       # the application connections
    cdef public FlowSide flows           # its datagrams
    cdef Work work                       # `pump`, in the loop's queue
    cdef DueCall due                     # calls `on_due`
    cdef readonly Carrier carrier        # what moves its frames; None: there is none at the moment
    cdef Recipient recipient             # this endpoint, for a carrier of packets
    cdef ParcelReader parcels            # what comes in single packets of it
    cdef bint short_of_memory            # the carrier is not read
    cdef bint awaits_memory              # `on_memory` will look: the carrier is not read, or applications are not
    cdef object unopened                 # deque of (stream id, target) of OPENs for the next turn
    cdef int opens_left                  # more may be served in this turn
    cdef Cost cost                       # what the session costs, and how much it is read at a time
    cdef News news                       # how often the observer is told of applications that were refused or left
    cdef bint suspected                  # the observer was told that the carrier is silent
    cdef bint forsaken                   # the carrier counts as lost, and is kept until another one works
    cdef Vitals vitals                   # what the carrier last said of its path
    cdef int64_t waiting_told_at         # the observer was last told that an application waits for a carrier
    cdef bint ending                     # the session is over, its last applications are still to be reset
    cdef bint disposed                   # forget this endpoint when that is done
    cdef bint was_busy                   # there was an application when the observer was last told of idleness

    cdef void pump(self) noexcept
    cdef bint carrier_can_go_on(self) noexcept
    cdef void wait_for_memory(self) noexcept
    cdef void read_carrier(self) noexcept
    cdef bint process(self, const uint8_t *data, size_t length, bint is_parcel) noexcept
    cdef void read_apps(self) noexcept
    cdef void write_carrier(self) noexcept
    cdef void note_unanswered(self) noexcept
    cdef void carrier_failed(self, str why) noexcept
    cdef void forsake(self, str why) noexcept
    cdef void revive(self) noexcept
    cdef void end_carrier(self, bint abort) noexcept
    cdef void reset_apps(self) noexcept
    cdef void end_rest(self) noexcept
    cdef void vanish(self) noexcept
    cdef bint adopt(self, StreamState *state) noexcept
    cdef int accepted(self, int fd, bytes target, uint16_t read=*, uint16_t written=*) noexcept
    cdef void opened(self, Stream *stream, const uint8_t *target, uint32_t length) noexcept
    cdef void open_rest(self) noexcept
    cdef void open_app(self, Stream *stream, const uint8_t *target, size_t length) noexcept
    cdef void dial(self, Stream *stream, Target target) noexcept
    cdef void try_next(self, App *app, int error) noexcept
    cdef void refused(self, Stream *stream, Target target, int error) noexcept
    cdef void arm(self) noexcept
    cdef void on_due(self) noexcept
    cdef void tell_news(self, method, tuple arguments) noexcept
    cdef void tell(self, method, tuple arguments) noexcept
    cdef void take_turn(self) noexcept
