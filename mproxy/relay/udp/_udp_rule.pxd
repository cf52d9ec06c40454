"""One UDP rule as the engine keeps it: who may come, where the flows go, what was counted. No system calls."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mproxy.ground._sockaddr cimport sockaddr
from mproxy.io._packets cimport Slot
from mproxy.relay._balance cimport Balance
from mproxy.relay._cidr cimport CidrSet
from mproxy.relay._hops cimport HopCount
from mproxy.relay._proxy_header cimport Origin
from mproxy.relay.udp._flow_table cimport FlowGroup, FlowKey


cdef enum:
    TELL_US = 1000000    # from one report of a refusal to the next: a stranger must not fill the log


cdef struct FlowCounts:
    uint64_t total        # flows opened
    uint64_t refused      # packets of clients that got no flow
    uint64_t limited      # packets that would have begun a flow of a source that came too often
    uint64_t evicted      # flows that made room for others
    uint64_t expired      # flows whose idle time was over
    uint64_t errors       # flows that ended with an error, and packets that could not be sent
    uint64_t dropped      # packets that the kernel dropped because nobody read them in time
    uint64_t packets_in   # client to target
    uint64_t packets_out  # target to client
    uint64_t bytes_in     # client to target
    uint64_t bytes_out    # target to client


cdef class UdpRule:
    cdef object key         # the caller's name for this rule
    cdef int64_t number     # the same, if it is one; else 0
    cdef str targets_text   # of its targets, for people
    cdef uint32_t slot      # where its flows are counted together with those of other workers
    cdef uint32_t most      # flows at once, in all workers; 0: no bound
    cdef FlowGroup group    # its flows here; the bound is what the other workers leave
    cdef CidrSet allow      # None: everybody
    cdef CidrSet deny       # None: nobody
    cdef Balance balance    # where flows go
    cdef FlowCounts counts  # see FlowCounts
    cdef bint proxy         # every datagram to a target begins with a PROXY header
    cdef bint accept_proxy  # every datagram of a client does
    cdef HopCount hops      # of packets that begin flows
    cdef list listeners     # its sockets: of UdpListener
    cdef set leaving        # if removed, those it is among: it admits nobody new and ends with its last flow; else None
    cdef int64_t new_interval_ns  # from one new flow of a source to the next; 0: no limit
    cdef int new_burst            # of these at once
    cdef uint64_t limited_told    # of the limited ones, reported
    cdef int64_t limited_told_at  # when
    cdef int64_t told_at    # when the observer was last told of a refusal

    cdef bint admits(self, const sockaddr *client) noexcept
    cdef bint take_header(self, Slot *slot, Origin *out_origin) noexcept
    cdef void began(self) noexcept
    cdef bint goes_round(self, Slot *slot, const FlowKey *key) noexcept
    cdef void leave(self, set leaving)
    cdef void dissolve(self) noexcept
