"""The sockets of `mproxy impair`: clients on one side, the server on the other, and a bad network in both directions
between them. As with NAT every client has its own socket towards the server, so the server can tell them apart."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.emulator._path_emulator cimport Held, PathEmulator
from mproxy.ground._list cimport LinkedList, ListLink
from mproxy.ground._sockaddr cimport socklen_t
from mproxy.io._alarm cimport Alarm
from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport Inbox, Outbox, SocketAddress
from mproxy.io._udp_socket cimport Peer


cdef enum:
    BUCKETS = 4096           # of the table of clients by address
    BURST = 256              # packets that leave together
    TOGETHER_US = 100        # packets that arrive within this time leave together; a wake-up for each would cost more
    READS_A_TURN = 16        # batches of one socket before others get their turn
    BATCH = 8                # messages of one system call
    SINGLY_US = 10000000     # how long a device counts as unable to cut trains
    SOCKET_BYTES = 8388608   # socket buffers: only the path is to lose packets


cdef struct EmulatorClient:
    Source source           # its socket towards the server, connected
    void *emulator          # borrowed Emulator
    Peer peer               # from where it writes
    SocketAddress name      # the same in the form that the listening socket needs
    socklen_t name_bytes    # of `name`
    int64_t singly_until[2]  # until then trains are sent packet by packet, to the server and to the client
    uint64_t id             # slot and generation: names it while its packets are on their way
    int64_t used_at         # when it last wrote
    bint readable           # the server's answers wait
    EmulatorClient *next    # of the same bucket
    ListLink in_all         # all clients


cdef class Emulator:
    cdef Loop loop                 # runs everything here
    cdef object on_client          # called with a new client's host and port, and how many there are
    cdef readonly PathEmulator up  # clients to server
    cdef readonly PathEmulator down  # server to clients
    cdef Source listening          # the clients' socket
    cdef Peer server               # where the server is
    cdef bint v4                   # the clients' socket is for IPv4 alone
    cdef bint readable             # clients' packets wait
    cdef Work work                 # moves packets
    cdef Alarm alarm               # the next arrival
    cdef Inbox inbox               # of whichever socket is read
    cdef Outbox outbox             # of whichever socket is written to; empty again before anything else runs
    cdef EmulatorClient **slots    # clients by slot, NULL where free
    cdef uint32_t *generations     # of each slot
    cdef uint32_t most             # clients at once
    cdef readonly uint64_t total   # clients ever
    cdef readonly uint64_t rebound  # how often a client's packets began to come from another port
    cdef readonly uint64_t unsent  # packets that a socket did not take
    cdef int64_t idle_us           # a client is forgotten after this long
    cdef EmulatorClient *buckets[4096]  # table by address
    cdef LinkedList all            # clients, first who wrote longest ago
    cdef Held burst[256]           # packets being sent

    cdef void run(self) noexcept
    cdef bint read_clients(self, int64_t now) noexcept
    cdef bint read_server(self, EmulatorClient *client, int64_t now) noexcept
    cdef void send(self, bint inward, int64_t now) noexcept
    cdef int put_train(self, EmulatorClient *client, int first, int count, bint inward, int64_t now) noexcept
    cdef void flush(self, int fd, bint inward, int64_t now) noexcept
    cdef EmulatorClient *client_of(self, const Peer *peer, int64_t now) noexcept
    cdef EmulatorClient *add_client(self, const Peer *peer, int64_t now) noexcept
    cdef int open_socket(self) noexcept
    cdef void forget(self, EmulatorClient *client) noexcept
    cdef void used(self, EmulatorClient *client, int64_t now) noexcept
    cdef bint is_idle(self, int64_t now) noexcept
    cdef EmulatorClient *find(self, uint64_t id) noexcept
