"""The encrypted carrier beside other encrypted pairs."""

from harness.contenders import HAPROXY_TLS, MPROXY_TLS, SSH, STUNNEL
from harness.group import WorkloadGroup
from harness.targets import absolute, at_least, at_most
from workloads import stdio_start, tls

GROUP = WorkloadGroup(
    "tls",
    "Encrypted pairs",
    tls.WORKLOADS,
    (
        *(at_most(row, "CPU s/GB", 0.85, 0.70, HAPROXY_TLS, ours=MPROXY_TLS) for row in tls.BULK_ROWS),
        *(at_least(row, "Gbit/s", 1.15, None, HAPROXY_TLS, ours=MPROXY_TLS) for row in tls.BULK_ROWS),
        *(at_least(row, "Gbit/s", 1.3, None, STUNNEL, SSH, ours=MPROXY_TLS) for row in tls.BULK_ROWS),
        at_least(tls.KEEP_ALIVE_ROW, "req/s", 1.5, None, HAPROXY_TLS, ours=MPROXY_TLS),
        absolute(tls.RESUME_ROW, "first byte ms", 100, ours=MPROXY_TLS),
        absolute(stdio_start.ROW, "first byte ms", 150, 80, ours=MPROXY_TLS),
    ),
    (
        ("bulk up", "CPU s/GB", "less is better"),
        ("bulk up", "Gbit/s", "more is better"),
        (tls.KEEP_ALIVE_ROW, "req/s", "more is better"),
        (stdio_start.ROW, "first byte ms", "less is better"),
    ),
)
