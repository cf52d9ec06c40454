"""`mproxy relay` beside the relays people use: one hop, one worker, against one thread of each peer."""

from harness.contenders import MPROXY_UDP, NGINX_UDP
from harness.group import WorkloadGroup
from harness.targets import at_least
from workloads import relay_kernel, relay_udp

GROUP = WorkloadGroup(
    "relay",
    "One relay",
    (relay_udp.WORKLOAD, relay_kernel.WORKLOAD),
    (
        at_least(relay_udp.TRAINS, relay_udp.METRIC, 3.0, 6.0, NGINX_UDP, ours=MPROXY_UDP),
        at_least(relay_udp.CROWD, relay_udp.METRIC, 1.2, 2.0, NGINX_UDP, ours=MPROXY_UDP),
        at_least(relay_kernel.ROW, relay_kernel.METRIC, 1.2, 1.2, relay_kernel.USER, *relay_kernel.PEERS,
                 ours=relay_kernel.KERNEL),
    ),
    (
        (relay_udp.TRAINS, relay_udp.METRIC, "more is better"),
        (relay_udp.PLAIN, relay_udp.METRIC, "more is better"),
        (relay_udp.CROWD, relay_udp.METRIC, "more is better"),
    ),
)
