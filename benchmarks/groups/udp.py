"""Datagrams inside a session: they may cost no more than through plain relays, which do not encrypt."""

from harness.contenders import MPROXY_UDP_TWO, SESSION_UDP, SOCAT_UDP_TWO
from harness.group import WorkloadGroup
from harness.targets import at_least
from workloads import relay_udp, session_udp

GROUP = WorkloadGroup(
    "udp",
    "Datagrams through two programs",
    (session_udp.WORKLOAD,),
    (
        at_least(session_udp.ROW, relay_udp.METRIC, 1.0, 1.5, SOCAT_UDP_TWO, ours=SESSION_UDP),
        at_least(session_udp.CROWD, relay_udp.METRIC, 1.0, 1.2, MPROXY_UDP_TWO, ours=SESSION_UDP),
    ),
    (
        (session_udp.ROW, relay_udp.METRIC, "more is better"),
        (session_udp.CROWD, relay_udp.METRIC, "more is better"),
    ),
)
