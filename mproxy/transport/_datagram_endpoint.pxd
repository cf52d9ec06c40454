"""UDP sockets, and the connections that live on them: packets in to the right connection, its output out, one timer.

A turn (`run`), queued by packets, by the timer and by commands:

1. read what the sockets have; each run of joined packets goes to the connection its id names, or to the listener;
2. tell connections whose time has come: a heap has the deadlines, so a turn does not look at links at rest;
3. for each connection that something happened to: events, bytes to and from the program's buffers, packets out;
4. set the timer to the earliest deadline.

Python is called per event and per filled or emptied buffer, never per packet: observers.py says who, and what.

Whoever dials is a stranger until it has sent a packet that only the right peer could make (with keys: one sealed with
them). Strangers take places only from each other: see strangers.py.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mproxy.ground._deadlines cimport Deadline, Deadlines
from mproxy.transport._connection cimport Connection
from mproxy.transport._detours cimport Detours
from mproxy.transport._link_names cimport LinkNames
from mproxy.transport._listener cimport Listener, Reply
from mproxy.transport._packet cimport PeerAddress
from mproxy.transport._seal cimport PacketKey
from mproxy.io._alarm cimport Alarm
from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport Inbox, LocalAddress, Outbox, Slot, SocketAddress


cdef enum:
    BATCHES_A_TURN = 16      # reads of one socket before connections get their turn
    BATCH = 8                # messages of one system call: 512 KiB stay in the cache until they are opened
    OUT_BYTES = 262144       # packets of one system call
    RUN_BYTES = 65507        # most that UDP sends in one piece
    SENT_A_TURN = 1048576    # by one connection before others get their turn
    SOCKET_BYTES = 8388608   # socket buffers asked for
    FULL_US = 500000         # from one report that there is no room to the next
    LATE_US = 1000000        # an alarm this late means that the process, or the machine, was stopped
    SINGLY_US = 10000000     # how long a device counts as unable to cut trains: the route may change


cdef class Link:
    cdef readonly Connection connection  # the engine
    cdef DatagramEndpoint endpoint       # None once ended
    cdef public object handler           # a LinkHandler, told of events
    cdef bint active                     # in the endpoint's list of this turn
    cdef readonly bint ended             # `on_ended` was called
    cdef bint admitted                   # it dialled us and is no longer a stranger: it takes one of the places
    cdef bint read_end_told              # `on_read_ended` was called
    cdef bint closed                     # to be forgotten
    cdef bint finish_due                 # FIN after the last buffer
    cdef LocalAddress local              # our address on this path; zeros: whichever the route gives
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
    cdef Deadlines deadlines          # of all links; of those in `waiting` perhaps no longer the right ones
    cdef Alarm alarm                  # the earliest of them
    cdef Inbox inbox                  # for whichever socket is being read
    cdef Outbox outbox                # for the first socket: packets of one link
    cdef SocketAddress receivers[64]  # of its messages
    cdef Link sending                 # whose packets wait in the outbox until the socket has room; None: it is empty
    cdef bint v4                      # the first socket is for IPv4 alone
    cdef uint8_t *out                 # OUT_BYTES
    cdef dict links                   # all, by their first id
    cdef LinkNames names              # the same, by every id that packets to them may have
    cdef list waiting                 # those that something happened to
    cdef readonly uint32_t most       # most peers admitted at once
    cdef readonly uint32_t places     # how many of these are taken
    cdef object strangers             # Strangers: peers that have dialled and shown nothing yet
    cdef int64_t due_at               # what the alarm was set to
    cdef int64_t full_at              # when the observer is told again that there is no room
    cdef bint has_answer_to           # answers go to another address
    cdef PeerAddress answer_to        # the address

    cdef int add_socket(self, int fd) except -1
    cdef void run(self) noexcept
    cdef bint read(self, int index, int64_t now) noexcept
    cdef bint read_detours(self, int64_t now) noexcept
    cdef void take(self, Slot *slot, int64_t now) noexcept
    cdef bint is_full(self, const uint8_t *data, uint32_t length, int64_t now) noexcept
    cdef void take_run(self, Slot *slot, uint32_t begin, uint32_t end, const PeerAddress *source, bint sent_on,
                       int64_t now) noexcept
    cdef void take_new(self, Slot *slot, uint32_t offset, uint32_t end, const PeerAddress *source, int64_t now) noexcept
    cdef void answer(self, Reply *reply, Slot *slot, const PeerAddress *source) noexcept
    cdef void accept(self, const Reply *reply, Slot *slot, int64_t now) noexcept
    cdef void admit(self, Link link) noexcept
    cdef void vacate(self, Link link) noexcept
    cdef list take_due(self, int64_t now)
    cdef void put(self, const PeerAddress *to, const LocalAddress *local, uint8_t *data, uint32_t length) noexcept
    cdef int insert(self, Link link) except -1
    cdef void remove(self, Link link) noexcept
    cdef bint transmit(self, Link link, int64_t now) noexcept
    cdef bint flush(self, Link link, int64_t now) noexcept
    cdef void settle(self, Link link, int64_t now) noexcept
    cdef void not_taken(self, Link link, int error, int64_t now) noexcept
