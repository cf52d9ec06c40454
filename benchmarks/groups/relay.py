"""`mproxy relay` beside the relays people use: one hop, one worker, against one thread of each peer."""

from harness.contenders import HAPROXY, MPROXY_RELAY, MPROXY_UDP, NGINX, NGINX_UDP, SOCAT
from harness.group import WorkloadGroup
from harness.targets import absolute, at_least, at_most
from workloads import relay_kernel, relay_tcp, relay_udp, relay_udp_hosts

# As users meet them. What haproxy does when told to splice, and nginx when told multi_accept, stands in the tables.
BULK_PEERS = (HAPROXY, NGINX, SOCAT)
UDP_BUSY_ROWS = (relay_udp_hosts.ROW, *(row for row, _ in relay_udp.BUSY))

GROUP = WorkloadGroup(
    "relay",
    "One relay",
    (*relay_tcp.WORKLOADS, relay_udp.WORKLOAD, relay_udp_hosts.WORKLOAD, relay_kernel.WORKLOAD),
    (
        *(at_most(row, "CPU s/GB", 0.90, 0.75, *BULK_PEERS, ours=MPROXY_RELAY) for row, *_ in relay_tcp.BULK_ROWS),
        at_least(relay_tcp.KEEP_ALIVE_ROW, "req/s", 1.0, 1.2, HAPROXY, ours=MPROXY_RELAY),
        at_least(relay_tcp.CLOSE_ROW, "conn/s", 1.0, 1.2, HAPROXY, ours=MPROXY_RELAY),
        absolute(relay_tcp.CROWD_ROW, "bytes each", 4096, 1024, ours=MPROXY_RELAY),
        *(at_least(row, relay_udp.METRIC, 3.0, 6.0, NGINX_UDP, ours=MPROXY_UDP) for row in UDP_BUSY_ROWS),
        at_least(relay_udp.CROWD, relay_udp.METRIC, 1.2, 2.0, NGINX_UDP, ours=MPROXY_UDP),
        at_least(relay_kernel.ROW, relay_kernel.METRIC, 1.2, 1.2, relay_kernel.USER, *relay_kernel.PEERS,
                 ours=relay_kernel.KERNEL),
    ),
    (
        ("relay bulk up", "CPU s/GB", "less is better"),
        (relay_tcp.KEEP_ALIVE_ROW, "req/s", "more is better"),
        (relay_tcp.CLOSE_ROW, "conn/s", "more is better"),
        (relay_udp_hosts.ROW, relay_udp.METRIC, "more is better"),
        (relay_udp.TRAINS, relay_udp.METRIC, "more is better"),
        (relay_udp.PLAIN, relay_udp.METRIC, "more is better"),
        (relay_udp.CROWD, relay_udp.METRIC, "more is better"),
    ),
)
