"""UDP relay, for Python: rules by key.

Observer: on_refused(key, target, errno), 0 for a target without an address, at most once a second a rule; with several
targets on_target_down(key, target) and on_target_up(key, target).
"""

from libc.stdint cimport int64_t

from mproxy.io._loop cimport Loop, Timer
from mproxy.relay.udp._udp_flow cimport Listener, UdpFlow
from mproxy.relay.udp._udp_rule cimport UdpRule
from mproxy.relay.udp._udp_session cimport Session


cdef class UdpRelay(UdpFlow):
    cdef dict rules    # key -> UdpRule
    cdef set leaving   # removed rules that still have sessions
    cdef Timer timer   # ends idle sessions; None: not set

    cdef void hand_over(self, Session *session, Listener listener) noexcept
    cdef void set_timer(self, int64_t at) noexcept
