"""The sessions of a UDP relay: one for each client address (and local address it sends to), with a socket of its own to
the target. How they begin, go on with another address, and end."""

from libc.stdint cimport int64_t, uint16_t

from mproxy.io._loop cimport Loop, Timer, Work
from mproxy.io._packets cimport Slot
from mproxy.relay._balance cimport Backend
from mproxy.relay.udp._batch cimport Batch
from mproxy.relay.udp._sessions cimport Key, SessionTable
from mproxy.relay.udp._udp_listener cimport UdpListener
from mproxy.relay.udp._udp_rule cimport UdpRule
from mproxy.relay.udp._udp_session cimport Ready, Session


cdef class SessionSet:
    cdef Loop loop                # runs everything here
    cdef object observer          # a RelayObserver (relay/relay_observer)
    cdef SessionTable table       # of all rules
    cdef Batch batch              # packets on their way just now
    cdef Ready ready              # sessions with replies to be read
    cdef Work replies             # reads them
    cdef Backend dialled          # the address that `dial` tried last
    cdef int64_t no_port_until    # every port that the kernel offered rests: it is not asked again until then
    cdef Timer timer              # ends idle sessions; None: not set

    cdef Session *open(self, UdpListener listener, Slot *slot, Key *key) noexcept
    cdef void enter(self, Session *session, UdpListener listener, Slot *slot) noexcept
    cdef void asks(self, Session *session, Backend backend) noexcept
    cdef int make_room(self, UdpRule rule, const Key *key) noexcept
    cdef int find_room(self, UdpRule rule, uint16_t *port) noexcept
    cdef bint give_way(self, int error, uint16_t *port) noexcept
    cdef int dial(self, UdpRule rule, uint16_t *port) noexcept
    cdef int connect(self, Backend backend, uint16_t *port) noexcept
    cdef void heard(self, Session *session, const Slot *slots, int count) noexcept
    cdef void move(self, Session *session) noexcept
    cdef void hand_over(self, Session *session, UdpListener listener) noexcept
    cdef void enqueue(self, Session *session) noexcept
    cdef void let_go(self, Session *session) noexcept
    cdef void evict(self, Session *session) noexcept
    cdef void fail(self, Session *session, int error) noexcept
    cdef void end(self, Session *session) noexcept
    cdef void look_at(self, int64_t at) noexcept
    cdef void end_all(self) noexcept
    cdef void failed(self, UdpRule rule, Backend backend, int64_t began, int error) noexcept
    cdef void tell_down(self, UdpRule rule, Backend backend) noexcept
    cdef void tell_refused(self, UdpRule rule, str target, int error) noexcept
    cdef void tell(self, event) noexcept
