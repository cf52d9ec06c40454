"""What the kernel has counted of a TCP connection: bytes read from it and written to it, and how it ended.

A process may die between a system call and its bookkeeping; whoever goes on with its descriptors asks. Why that is
exact: docs/decisions/the-kernel-counts.md.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum TcpState:   # as the kernel numbers them (its include/net/tcp_states.h)
    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6     # never seen: a descriptor that is still open shows CLOSE
    CLOSE = 7         # ended in order, reset, or never connected
    CLOSE_WAIT = 8
    LAST_ACK = 9
    CLOSING = 11


cdef struct KernelFacts:
    bint is_connection   # a stream socket that does not listen
    bint is_counted      # over TCP, and every byte is in the numbers below
    uint8_t tcp_state    # a TcpState
    bint peer_ended      # the other end's FIN has arrived
    uint64_t received    # what has arrived in order: bytes, and that FIN
    uint32_t unread      # bytes of it that nobody has read (SIOCINQ)
    uint64_t acked       # what the other end has acknowledged: our SYN if we have dialled, bytes, our FIN
    uint32_t unacked     # bytes written, and our FIN, that it has not (SIOCOUTQ)


cdef void ask_kernel(int fd, KernelFacts *facts) noexcept nogil
