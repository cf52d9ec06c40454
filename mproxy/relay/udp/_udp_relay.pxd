"""UDP relay, for Python: rules by key.

Observer: on_refused(key, target, errno), 0 for a target without an address, at most once a second a rule; with several
targets on_target_down(key, target) and on_target_up(key, target).
"""

from mproxy.relay.udp._flow_set cimport FlowSet
from mproxy.relay.udp._forwarder cimport Forwarder


cdef class UdpRelay:
    cdef FlowSet flows        # of all rules
    cdef Forwarder forwarder  # of their packets
    cdef dict rules           # key -> UdpRule
    cdef set leaving          # removed rules that still have flows
