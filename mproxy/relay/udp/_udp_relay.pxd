"""UDP relay, for Python: rules by key. The observer (relay/relay_observer.py) is told of refusals at most once a second
for each rule."""

from mproxy.relay.udp._flow_set cimport FlowSet
from mproxy.relay.udp._forwarder cimport Forwarder


cdef class UdpRelay:
    cdef FlowSet flows        # of all rules
    cdef Forwarder forwarder  # of their packets
    cdef dict rules           # key -> UdpRule
    cdef set leaving          # removed rules that still have flows
