"""Hard paths: what they take away, and how soon a connection goes on."""

from harness.contenders import MPROXY_TLS
from harness.group import WorkloadGroup
from harness.targets import absolute
from workloads import black_hole

GROUP = WorkloadGroup(
    "paths",
    "Hard paths",
    (black_hole.WORKLOAD,),
    tuple(absolute(row, black_hole.METRIC, 10, 4, ours=MPROXY_TLS) for row in black_hole.ROWS),
    tuple((row, black_hole.METRIC, "less is better") for row in black_hole.ROWS),
)
