"""One bound socket of a UDP rule: where clients' packets arrive, and from where the replies leave."""

from libc.stdint cimport uint32_t

from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport SocketAddress
from mproxy.relay.udp._gather cimport Gather
from mproxy.relay.udp._udp_rule cimport UdpRule


cdef class UdpListener:
    cdef Loop loop          # tells when there are packets
    cdef UdpRule rule       # what to do with packets
    cdef Source source      # the socket; -1 when it is closed
    cdef Work work          # reads it
    cdef void *forwarder    # borrowed Forwarder, for `work`; it outlives its listeners
    cdef SocketAddress bound  # its address
    cdef bint is_wildcard   # packets tell which address they came to
    cdef int most_slots     # slots to read at a time: fewer once trains come
    cdef Gather gather      # whether packets are to gather, and how long
    cdef bint gathers       # they gather: an alarm, not an arriving packet, has the socket read
    cdef list gathering     # listeners of all rules that gather; None: there is no alarm
    cdef uint32_t dropped   # packets that the kernel had dropped when it was last asked

    cdef void set_gathering(self, bint on) noexcept
    cdef void count_dropped(self) noexcept
