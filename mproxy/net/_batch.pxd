"""Batches of UDP packets: recvmmsg with GRO on the way in, sendmmsg with GSO on the way out.

The kernel joins packets of one flow that arrive together (UDP_GRO, udp(7)) and cuts what we hand over in one piece
(UDP_SEGMENT): a system call for 44 packets instead of one. Each side works without the other, and without either.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from mproxy._ring cimport iovec
from mproxy.net._socket cimport msghdr, sockaddr_storage, socklen_t


cdef extern from "<netinet/in.h>" nogil:
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE 1
    #endif
    #include <sys/socket.h>
    """
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len


cdef enum:
    RECEIVES = 8            # messages of one recvmmsg; each may be 64 KiB of joined packets
    RECEIVE_BYTES = 65536   # joined packets are up to 64 KiB; a smaller buffer would cut them off
    SENDS = 64              # messages of one sendmmsg
    SEND_PARTS = 512        # packets, or runs of packets, of one sendmmsg
    CONTROL_BYTES = 128     # packet information and segment size
    SEGMENTS = 64           # packets that the kernel cuts out of one piece (UDP_MAX_SEGMENTS of Linux before 6.9)
    PIECE_BYTES = 65000     # of such a piece, below the 65,507 of a UDP packet
    REFUSALS = 64           # destinations remembered for which cutting did not work


cdef struct Address:
    sockaddr_in6 name      # the peer; an IPv4 address in its IPv6 form (RFC 4291 section 2.5.5.2)
    uint8_t local[16]      # which of our addresses it wrote to: the answer must come from there; zero: any
    uint32_t interface     # by which interface, for link-local addresses; else 0


cdef struct Received:
    uint8_t *data          # one packet, or several joined, all `segment_bytes` long but the last
    uint32_t length        # of all
    uint32_t segment_bytes  # of one packet
    Address from_address   # who sent it
    bint cut_off           # did not fit: to be dropped


cdef struct Receiver:
    uint8_t *buffers             # RECEIVES times RECEIVE_BYTES
    mmsghdr messages[8]          # for recvmmsg
    iovec parts[8]               # one buffer each
    sockaddr_in6 names[8]        # who sent it
    uint8_t controls[8][128]     # what the kernel says beside it


cdef struct Sender:
    int fd                        # a UDP socket, IPv6 that takes IPv4 too
    int count                     # messages gathered
    int part_count                # parts gathered
    mmsghdr messages[64]          # for sendmmsg
    iovec parts[512]              # packets, or runs of packets of equal size
    Address addresses[64]         # of each message
    bint connected                # the socket has one peer: addresses are left out
    bint v4                       # the socket is IPv4 only (a host without IPv6)
    uint32_t segment_bytes[64]    # of each message: size of its packets
    uint32_t packets[64]          # of each message: packets gathered
    uint32_t bytes[64]            # of each message: bytes gathered
    bint closed[64]               # of each message: a shorter packet ended it
    uint8_t controls[64][128]     # packet information and segment size
    uint64_t refused[64]          # hash of a destination for which cutting did not work, by the hash's low bits
    int64_t refused_until[64]     # and how long that is believed
    uint64_t sent                 # packets taken by the kernel
    uint64_t dropped              # packets it did not take
    uint64_t too_large            # of these: larger than the path's MTU
    int next                      # first message that the kernel has not got yet
    int error                     # errno of the last packet dropped; 0: none since sender_init
    bint blocked                  # the socket took no more: wait until it is writable


cdef int receiver_init(Receiver *receiver) noexcept nogil
cdef void receiver_free(Receiver *receiver) noexcept nogil
cdef int receive_batch(Receiver *receiver, int fd) noexcept nogil
cdef void received(Receiver *receiver, int index, Received *out) noexcept nogil

cdef void sender_init(Sender *sender, int fd, bint connected) noexcept nogil
cdef bint send_add(Sender *sender, const Address *address, const void *data, uint32_t length,
                   uint32_t segment_bytes, int64_t now) noexcept nogil
cdef int send_batch(Sender *sender, int64_t now) noexcept nogil

cdef uint64_t address_hash(const Address *address) noexcept nogil
cdef bint address_same(const Address *one, const Address *other) noexcept nogil
cdef void address_set(Address *address, const sockaddr_storage *name) noexcept nogil
cdef tuple address_pair(const Address *address)

cdef int udp_socket(bint any_family) noexcept nogil
cdef int udp_bind(int fd, const Address *address) noexcept nogil
cdef int udp_connect(int fd, const Address *address) noexcept nogil
cdef void udp_fragment(int fd, bint allowed) noexcept nogil
cdef void udp_buffers(int fd, int size) noexcept nogil
