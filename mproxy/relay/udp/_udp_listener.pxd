"""One bound socket of a UDP rule: where packets of clients come in, and whence the replies leave."""

from libc.stdint cimport uint32_t

from mproxy.io._loop cimport Loop, Source, Work
from mproxy.io._packets cimport Address
from mproxy.relay.udp._gather cimport Gather
from mproxy.relay.udp._udp_rule cimport UdpRule


cdef class UdpListener:
    cdef Loop loop          # tells when there are packets
    cdef UdpRule rule       # what to do with what comes
    cdef Source source      # the socket; -1 when it is closed
    cdef Work work          # reads it
    cdef void *forwarder    # borrowed Forwarder, for `work`; it outlives its listeners
    cdef Address bound      # its address
    cdef bint is_wildcard   # packets tell which address they came to
    cdef int most_slots     # read at a time: fewer once trains come
    cdef Gather gather      # whether packets shall gather, and how long
    cdef bint gathers       # they do: an alarm, in place of arriving packets, has the socket read
    cdef list gathering     # those of all rules that do; None: there is no alarm
    cdef uint32_t dropped   # packets that the kernel had dropped when it was last asked

    cdef void set_gathering(self, bint on) noexcept
    cdef void count_dropped(self) noexcept
