"""UDP sockets, and the connections that live on them: packets in to the right connection, its output out, one timer.

A turn (`run`), queued by packets, by the timer and by commands:

1. read what the sockets have; each run of joined packets goes to the connection its id names; where peers may dial,
   those that are nobody's yet, or of a peer that was silent for long, go to the backlog (_backlog.pxd);
2. tell connections whose time has come: a heap has the deadlines, so a turn does not look at links at rest;
3. for each connection that something happened to: events, bytes to and from the program's buffers, packets out;
4. set the timer to the earliest deadline.

The backlog is slow work: a few of its packets at a time, and 3. for whom they are.

Python is called per event and per filled or emptied buffer, never per packet: observers.py says who, and what.

Whoever dials is a stranger until it has sent a packet that only the right peer could make (with keys: one sealed with
them). Strangers take places only from each other: see strangers.py.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.transport._backlog cimport Backlog
from mproxy.transport._detours cimport Detours
from mproxy.transport._link cimport Link, LinkSet
from mproxy.transport._listener cimport Listener, Reply
from mproxy.transport._packet cimport PeerAddress
from mproxy.io._alarm cimport Alarm
from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport Inbox, LocalAddress, Outbox, Slot, SocketAddress


cdef enum:
    BATCHES_A_TURN = 16      # reads of one socket before connections get their turn
    BATCH = 8                # messages of one system call: 512 KiB stay in the cache until they are opened
    LATE_A_TURN = 8          # runs of the backlog before others get their turn
    OUT_BYTES = 262144       # packets of one system call
    RUN_BYTES = 65507        # most that UDP sends in one piece
    SENT_A_TURN = 1048576    # by one connection before others get their turn
    SOCKET_BYTES = 8388608   # socket buffers asked for
    FULL_US = 500000         # from one report that there is no room to the next
    UNKNOWN_US = 1000000     # from one report that the peer does not know the connection to the next
    SINGLY_US = 10000000     # how long a device counts as unable to cut trains: the route may change


cdef class DatagramEndpoint:
    cdef Loop loop                    # runs everything here
    cdef object config                # DatagramConfig
    cdef object observer              # a DatagramObserver; None: no peer may dial
    cdef Listener listener            # None: no peer may dial
    cdef Source sources[2]            # the sockets
    cdef bint readable[2]             # packets wait
    cdef int sockets                  # how many
    cdef Detours detours              # to the other workers of a server; None: there are none
    cdef Work work                    # a turn
    cdef Backlog backlog              # packets that wait; None: no peer may dial
    cdef Work late_work               # for some of these
    cdef Alarm alarm                  # the earliest deadline of a link
    cdef Inbox inbox                  # for whichever socket is being read
    cdef Outbox outbox                # for the first socket: packets of one link
    cdef SocketAddress receivers[64]  # of its messages
    cdef Link sending                 # whose packets wait in the outbox until the socket has room; None: it is empty
    cdef bint v4                      # the first socket is for IPv4 alone
    cdef uint8_t *out                 # OUT_BYTES
    cdef LinkSet links                # all
    cdef readonly uint32_t most       # most peers admitted at once
    cdef int64_t due_at               # what the alarm was set to
    cdef int64_t full_at              # when the observer is told again that there is no room
    cdef bint has_answer_to           # answers go to another address
    cdef PeerAddress answer_to        # the address

    cdef int add_socket(self, int fd) except -1
    cdef void run(self) noexcept
    cdef void serve(self, int64_t now) noexcept
    cdef void run_late(self) noexcept
    cdef bint read(self, int index, int64_t now) noexcept
    cdef bint read_detours(self, int64_t now) noexcept
    cdef void take(self, Slot *slot, int64_t now) noexcept
    cdef bint is_full(self, const uint8_t *data, uint32_t length, int64_t now) noexcept
    cdef void take_run(self, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source, bint sent_on,
                       int64_t now) noexcept
    cdef bint can_wait(self, Link link, int64_t now) noexcept
    cdef void give(self, Link link, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source,
                   int64_t now) noexcept
    cdef void take_new(self, Slot *slot, uint32_t offset, uint32_t end, const PeerAddress *source, int64_t now) noexcept
    cdef void deny(self, const uint8_t *packet, uint32_t length, const PeerAddress *source, int64_t now) noexcept
    cdef void answer(self, Reply *reply, const LocalAddress *local, const PeerAddress *source) noexcept
    cdef void accept(self, const Reply *reply, Slot *slot, int64_t now) noexcept
    cdef void put(self, const PeerAddress *to, const LocalAddress *local, uint8_t *data, uint32_t length) noexcept
    cdef bint transmit(self, Link link, int64_t now) noexcept
    cdef bint flush(self, Link link, int64_t now) noexcept
    cdef void settle(self, Link link, int64_t now) noexcept
    cdef void not_taken(self, Link link, int error, int64_t now) noexcept
