"""Very many sessions on one sproxy: what each costs, and how soon all are back."""

from harness.contenders import MPROXY_TLS
from harness.group import WorkloadGroup
from harness.targets import absolute
from workloads import many_sessions
from workloads.many_sessions import CPU, LAST, OWN, REST_ROW, STORM_ROW, TYPED

GROUP = WorkloadGroup(
    "sessions-at-rest",
    "Many sessions",
    (many_sessions.TCP, many_sessions.UDP),
    (
        absolute(REST_ROW, OWN, 32, 24, ours=MPROXY_TLS),
        absolute(REST_ROW, CPU, 3, 3, ours=MPROXY_TLS),
        absolute(STORM_ROW, LAST, 15, 10, ours=MPROXY_TLS),
        absolute(STORM_ROW, TYPED, 50, 20, ours=MPROXY_TLS),
    ),
    (
        (REST_ROW, OWN, "less is better"),
        (REST_ROW, CPU, "less is better"),
        (STORM_ROW, LAST, "less is better"),
        (STORM_ROW, TYPED, "less is better"),
    ),
)
