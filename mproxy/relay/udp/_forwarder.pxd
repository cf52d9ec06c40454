"""The way of packets through a UDP relay: from the listeners to the targets, and back."""

from mproxy.io._alarm cimport Alarm
from mproxy.io._loop cimport Loop, Work
from mproxy.relay.udp._batch cimport Batch
from mproxy.relay.udp._flow cimport Flow
from mproxy.relay.udp._flow_set cimport FlowSet
from mproxy.relay.udp._udp_listener cimport UdpListener


cdef class Forwarder:
    cdef Loop loop       # runs everything here
    cdef FlowSet flows   # whose packets these are
    cdef Batch batch     # packets on their way right now
    cdef Work look       # reads packets that have gathered
    cdef list gathering  # listeners whose packets gather; None: there is no alarm
    cdef Alarm alarm     # rings when packets have gathered

    cdef void listen(self, UdpListener listener) noexcept
    cdef void read(self, UdpListener listener) noexcept
    cdef bint read_batch(self, UdpListener listener) noexcept
    cdef void deliver(self, UdpListener listener, int count) noexcept
    cdef void read_replies(self) noexcept
    cdef int read_reply(self, Flow *flow, int slot) noexcept
    cdef void close(self) noexcept
