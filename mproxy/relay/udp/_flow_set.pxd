"""The flows of a UDP relay: one for each client address (and local address it sends to), with a socket of its own to
the target. How they begin, change to another address, and end."""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from mproxy.ground._list cimport LinkedList
from mproxy.ground._sockaddr cimport sockaddr
from mproxy.io._loop cimport Loop, Timer, Work
from mproxy.io._packets cimport Slot
from mproxy.relay._balance cimport TargetAddress
from mproxy.relay._proxy_header cimport Origin
from mproxy.relay._tally cimport Tally
from mproxy.relay.udp._batch cimport Batch
from mproxy.relay.udp._flow cimport Flow
from mproxy.relay.udp._flow_table cimport FlowKey, FlowTable
from mproxy.relay.udp._udp_listener cimport UdpListener
from mproxy.relay.udp._udp_rule cimport UdpRule


cdef class FlowSet:
    cdef Loop loop              # runs everything here
    cdef object observer        # a RelayObserver (relay/relay_observer)
    cdef FlowTable table        # of all rules
    cdef Tally tally            # flows of each rule, and how often each source has begun some, in all workers
    cdef Batch batch            # packets on their way right now
    cdef LinkedList ready       # flows with replies to be read
    cdef Work replies           # reads them
    cdef TargetAddress dialled  # the address that `dial` tried last
    cdef int64_t no_port_until  # all ports that the kernel offered are resting: it is not asked again until then
    cdef Timer timer            # ends idle flows; None: not set
    cdef bint keeps_accounts    # the observer is told of what has ended

    cdef Flow *open(self, UdpListener listener, Slot *slot, FlowKey *key, const Origin *origin) noexcept
    cdef Flow *begin(self, UdpListener listener, Slot *slot, FlowKey *key, const Origin *origin) noexcept
    cdef bint comes_too_often(self, UdpRule rule, const sockaddr *client) noexcept
    cdef bint take_in(self, UdpListener listener, uint32_t number) noexcept
    cdef void enter(self, Flow *flow, UdpListener listener, Slot *slot, const Origin *origin) noexcept
    cdef void record(self, Flow *flow) noexcept
    cdef void goes_to(self, Flow *flow, TargetAddress address) noexcept
    cdef void asks(self, Flow *flow, TargetAddress address) noexcept
    cdef int make_room(self, UdpRule rule, const FlowKey *key) noexcept
    cdef void share(self, UdpRule rule) noexcept
    cdef void shrink(self, UdpRule rule) noexcept
    cdef int find_room(self, UdpRule rule, uint16_t *port) noexcept
    cdef bint give_way(self, int error, uint16_t *port) noexcept
    cdef int dial(self, UdpRule rule, uint16_t *port) noexcept
    cdef int connect(self, TargetAddress address, uint16_t *port) noexcept
    cdef void heard(self, Flow *flow, const Slot *slots, int count) noexcept
    cdef void move(self, Flow *flow) noexcept
    cdef void hand_over(self, Flow *flow, UdpListener listener) noexcept
    cdef void enqueue(self, Flow *flow) noexcept
    cdef void let_go(self, Flow *flow) noexcept
    cdef void evict(self, Flow *flow) noexcept
    cdef void fail(self, Flow *flow, int error) noexcept
    cdef void end(self, Flow *flow, int why, int error) noexcept
    cdef void note(self, Flow *flow, const Slot *slot, const Origin *origin) noexcept
    cdef void tell_ended(self, Flow *flow, int why, int error) noexcept
    cdef void look_at(self, int64_t at) noexcept
    cdef void end_all(self) noexcept
    cdef void failed(self, UdpRule rule, TargetAddress address, int64_t began, int error) noexcept
    cdef void tell_down(self, UdpRule rule, TargetAddress address) noexcept
    cdef void tell_refused(self, UdpRule rule, str target, int error) noexcept
    cdef void tell(self, event) noexcept
