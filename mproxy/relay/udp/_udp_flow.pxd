"""UDP relay: a session for each client address (and local address it sends to), with a socket of its own to the target.

An inbox and an outbox are shared by all rules; each is empty again before anything else runs.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t

from mproxy.io._alarm cimport Alarm
from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport SLOTS, Address, Inbox, Outbox, Slot
from mproxy.relay._balance cimport Backend
from mproxy.relay.udp._gather cimport Gather
from mproxy.relay.udp._packer cimport Packer
from mproxy.relay.udp._sessions cimport Key, SessionTable
from mproxy.relay.udp._udp_rule cimport UdpRule
from mproxy.relay.udp._udp_session cimport Ready, Session


cdef class Listener:
    cdef UdpFlow flow       # whose
    cdef UdpRule rule       # what to do with what comes
    cdef Source source      # the socket
    cdef Work work          # reads it
    cdef Address bound      # its address
    cdef bint is_wildcard   # packets tell which address they came to
    cdef int most_slots     # read at a time: fewer once trains come
    cdef Gather gather      # whether packets shall gather, and how long
    cdef bint gathers       # they do: the alarm has the socket read
    cdef uint32_t dropped   # packets that the kernel had dropped when it was last asked

    cdef void read(self) noexcept
    cdef bint read_batch(self) noexcept
    cdef void set_gathering(self, bint on) noexcept
    cdef void count_dropped(self) noexcept


cdef class UdpFlow:
    cdef Loop loop                # runs everything here
    cdef object observer          # a RelayObserver (relay/relay_observer)
    cdef SessionTable table       # of all rules
    cdef Inbox inbox              # packets just received; empty between batches
    cdef Outbox outbox            # packets about to be sent; empty between batches
    cdef Packer packer            # puts them there
    cdef Session *touched[SLOTS]  # sessions with packets in the inbox
    cdef int touched_count        # entries
    cdef int next_slot[SLOTS]     # the next slot of the same session, -1: none
    cdef Work work                # reads replies
    cdef Ready ready              # sessions with replies to be read
    cdef list gathering           # listeners whose packets gather
    cdef Alarm alarm              # rings when they have
    cdef Work look                # reads them
    cdef bint can_gather          # there is an alarm
    cdef Backend dialled          # the address that `dial` tried last
    cdef int64_t no_port_until    # every port that the kernel offered rests: it is not asked again until then

    cdef void deliver(self, Listener listener, int count) noexcept
    cdef Session *open(self, Listener listener, Slot *slot, Key *key) noexcept
    cdef int make_room(self, UdpRule rule, const Key *key) noexcept
    cdef int find_room(self, UdpRule rule, uint16_t *port) noexcept
    cdef bint give_way(self, int error, uint16_t *port) noexcept
    cdef int dial(self, UdpRule rule, uint16_t *port) noexcept
    cdef int connect(self, Backend backend, uint16_t *port) noexcept
    cdef void move(self, Session *session) noexcept
    cdef void heard(self, Session *session, int first, int count) noexcept
    cdef void asks(self, Session *session, Backend backend) noexcept
    cdef void let_go(self, Session *session) noexcept
    cdef void enter(self, Session *session, Listener listener, Slot *slot) noexcept
    cdef int send_in(self, Session *session) noexcept
    cdef void flush_out(self, Listener listener) noexcept
    cdef void read_replies(self) noexcept
    cdef int read_reply(self, Session *session, int slot) noexcept
    cdef void fail(self, Session *session, int error) noexcept
    cdef void end(self, Session *session) noexcept
    cdef void evict(self, Session *session) noexcept
    cdef void enqueue(self, Session *session) noexcept
    cdef void rule_ended(self, UdpRule rule) noexcept
    cdef void idle_at(self, int64_t at) noexcept
    cdef void failed(self, UdpRule rule, Backend backend, int64_t began, int error) noexcept
    cdef void tell_down(self, UdpRule rule, Backend backend) noexcept
    cdef void tell_refused(self, UdpRule rule, str target, int error) noexcept
    cdef void tell(self, event) noexcept
