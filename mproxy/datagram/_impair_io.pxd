"""The sockets of `mproxy impair`: clients on one side, the server on the other, a bad network in both directions
between. As with a NAT every client has a socket of its own towards the server, so the server can tell them apart."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.datagram._impair cimport Held, Path
from mproxy.net._alarm cimport Alarm
from mproxy.net._batch cimport Address, Receiver, Sender
from mproxy.net._loop cimport Loop, Source, Work


cdef enum:
    BUCKETS = 4096           # of the table of clients by address
    BURST = 256              # packets that leave together
    TOGETHER_US = 100        # what arrives within this leaves together; a wake-up per packet would cost more
    READS_A_TURN = 16        # batches of one socket before others get their turn
    SOCKET_BYTES = 8388608   # socket buffers: the path alone shall lose packets


cdef struct Client:
    Source source      # its socket towards the server, connected
    void *relay        # borrowed ImpairRelay
    Address address    # where it writes from
    uint64_t id        # slot and generation: names it while its packets are on their way
    int64_t used_at    # when it wrote last
    bint readable      # the server's answers wait
    Client *next       # of the same bucket
    Client *older      # by `used_at`
    Client *newer      # by `used_at`


cdef class ImpairRelay:
    cdef Loop loop                 # runs everything here
    cdef object observer           # on_client(host, port, count)
    cdef readonly Path up          # clients to server
    cdef readonly Path down        # server to clients
    cdef Source listening          # the clients' socket
    cdef Address server            # where the server is
    cdef bint readable             # clients' packets wait
    cdef Work work                 # moves packets
    cdef Alarm alarm               # the next arrival
    cdef Receiver receiver         # of whichever socket is read
    cdef Sender to_clients         # answers
    cdef Sender to_server          # of the client in hand
    cdef Client **slots            # clients by slot, NULL where free
    cdef uint32_t *generations     # of each slot
    cdef uint32_t most             # clients at once
    cdef readonly uint32_t count   # clients now
    cdef readonly uint64_t total   # clients ever
    cdef readonly uint64_t unsent  # packets that a socket did not take
    cdef int64_t idle_us           # a client is forgotten after so long
    cdef Client *buckets[4096]     # table by address
    cdef Client *oldest            # who wrote longest ago
    cdef Client *newest            # who wrote last
    cdef Held burst[256]           # packets being sent

    cdef void run(self) noexcept
    cdef bint read_clients(self, int64_t now) noexcept
    cdef bint read_server(self, Client *client, int64_t now) noexcept
    cdef void send_up(self, int64_t now) noexcept
    cdef void send_down(self, int64_t now) noexcept
    cdef Client *client_of(self, const Address *address, int64_t now) noexcept
    cdef Client *add_client(self, const Address *address, int64_t now) noexcept
    cdef void forget(self, Client *client) noexcept
    cdef void used(self, Client *client, int64_t now) noexcept
    cdef void unlink(self, Client *client) noexcept
    cdef Client *find(self, uint64_t id) noexcept
