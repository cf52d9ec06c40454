"""UDP packets in batches: recvmmsg with GRO, sendmmsg with GSO, and the local address that a packet was sent to.

A train is what the kernel coalesces on the way in (UDP_GRO, udp(7)) and segments on the way out (UDP_SEGMENT): packets
of equal length, of which only the last may be shorter, in one piece of memory and for the price of one packet.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

from mproxy._ring cimport iovec
from mproxy.ground._sockaddr cimport sockaddr, sockaddr_in, sockaddr_in6, socklen_t
from mproxy.io._socket cimport msghdr


cdef extern from "<sys/socket.h>" nogil:
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len


cdef enum:
    SLOTS = 64             # messages in a batch
    SLOT_BYTES = 65536     # above the largest packet and the largest train
    CONTROL_BYTES = 128    # control data of one message: address, segment
    PARTS = 256            # memory segments of the messages in an outbox
    LARGEST_PACKET = 65507  # payload, of IPv4: 65535 less both headers (RFC 768, 791); IPv6 takes 20 more
    MOST_SEGMENTS = 64     # packets of a train that every kernel with UDP_SEGMENT sends


cdef union SocketAddress:
    sockaddr any           # only the family
    sockaddr_in v4         # AF_INET
    sockaddr_in6 v6        # AF_INET6


cdef struct LocalAddress:
    uint8_t bytes[16]      # IPv4 as ::ffff:a.b.c.d; zeros: whichever the route gives
    uint32_t interface     # for link-local addresses, else 0


cdef struct Slot:
    uint8_t *data          # SLOT_BYTES of storage
    uint32_t length        # bytes received
    uint32_t segment       # bytes of each packet but the last; `length` when it is one packet
    SocketAddress sender   # who sent it, if asked for
    socklen_t sender_bytes  # length of `sender`
    LocalAddress local     # where it was sent to; zeros unless the socket reports it
    bint cut               # the packet was longer than the slot
    int hops               # how many the packet had left (TTL, hop limit); 0: unknown, see `report_hops`


cdef class Inbox:
    cdef Slot slots[SLOTS]          # what was received
    cdef mmsghdr headers[SLOTS]     # for recvmmsg
    cdef iovec parts[SLOTS]         # storage of each slot
    cdef uint8_t controls[SLOTS][CONTROL_BYTES]  # control data of each slot
    cdef uint8_t *storage           # of all slots

    cdef int receive(self, int fd, int first, int most, bint with_sender) noexcept


cdef struct Message:
    void *owner            # for whoever reads the results
    uint32_t segment       # of a train: bytes of each packet but the last; 0: one packet
    uint32_t packets       # of the train
    uint32_t length        # bytes
    int first_part         # its memory: parts [first_part, first_part + part_count)
    int part_count         # see first_part
    uint32_t tried         # packets of the train that were already offered one by one
    uint32_t sent          # result: packets that the kernel took
    uint32_t sent_bytes    # result: their bytes
    int error              # result: errno of the last packet that it did not take, or 0
    bint fell_back         # result: the kernel did not take the train, so its packets went one by one


cdef class Outbox:
    cdef Message messages[SLOTS]    # to be sent, in order
    cdef mmsghdr headers[SLOTS]     # for sendmmsg
    cdef iovec parts[PARTS]         # memory of the messages
    cdef uint8_t controls[SLOTS][CONTROL_BYTES]  # control data of each message
    cdef mmsghdr single_headers[SLOTS]  # for packets of a train that go one by one
    cdef iovec single_parts[SLOTS]  # their memory
    cdef readonly int count         # messages
    cdef int next                   # the first message not yet offered to the kernel
    cdef int part_count             # parts in use

    cdef bint has_room(self, int parts) noexcept
    cdef Message *add(self, SocketAddress *receiver, socklen_t receiver_bytes, const LocalAddress *local) noexcept
    cdef void add_part(self, uint8_t *data, uint32_t length) noexcept
    cdef void finish(self, uint32_t segment, bint one_by_one) noexcept
    cdef bint flush(self, int fd, bint waits) noexcept
    cdef void clear(self) noexcept
    cdef int send(self, int fd, int first) noexcept
    cdef bint send_one_by_one(self, int fd, int index, bint waits) noexcept
    cdef bint send_singles(self, int fd, Message *message, int count, bint waits) noexcept


cdef uint32_t packet_count(uint32_t length, uint32_t segment) noexcept nogil
cdef void receive_trains(int fd) noexcept nogil
cdef void report_local_address(int fd, int family) noexcept nogil
cdef void report_hops(int fd, bint on) noexcept nogil
cdef uint32_t dropped_packets(int fd) noexcept
