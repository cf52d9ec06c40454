"""Hard paths: what they take away, and how soon a connection goes on; and what UDP costs where no path is hard."""

from functools import partial

from harness.bench import Workload
from harness.contenders import MPROXY_AUTO, MPROXY_DATAGRAM, MPROXY_TLS
from harness.group import WorkloadGroup
from harness.targets import Limit, Target, absolute, at_most
from workloads import bad_path, black_hole, bulk

BULK_ROWS = tuple(row for row, _mode, _streams in bulk.ONE_STREAM)
CARRIERS = (MPROXY_TLS, MPROXY_DATAGRAM)
CARRIERS_BULK = Workload("carriers-bulk", "Bulk over loopback, both kinds of carriers",
                         partial(bulk.cases, bulk.ONE_STREAM), CARRIERS, CARRIERS, peer=MPROXY_TLS)

GROUP = WorkloadGroup(
    "paths",
    "Hard paths",
    (black_hole.WORKLOAD, bad_path.WORKLOAD, CARRIERS_BULK),
    (
        *(absolute(row, black_hole.METRIC, 10, 4, ours=ours) for row in black_hole.ROWS for ours in CARRIERS),
        absolute(bad_path.ROAM, bad_path.SILENCE, 1.6, 1.2, ours=MPROXY_DATAGRAM),
        absolute(bad_path.KEYS, bad_path.P50, 1.15, ours=MPROXY_DATAGRAM),
        at_most(bad_path.KEYS, bad_path.P99, 0.5, None, MPROXY_TLS, ours=MPROXY_DATAGRAM),
        Target(bad_path.BULK, bad_path.SHARE, Limit(0.85, at_least=True), Limit(0.93, at_least=True), MPROXY_DATAGRAM),
        Target(bad_path.BLOCKED, bad_path.FIRST, Limit(1.1, "over", (MPROXY_TLS,)), Limit(0.3, "over", (MPROXY_TLS,)),
               MPROXY_AUTO),
        *(at_most(row, "CPU s/GB", 1.6, 1.1, MPROXY_TLS, ours=MPROXY_DATAGRAM) for row in BULK_ROWS),
        absolute(bad_path.IDLE, bad_path.DAILY, 4, 2, ours=MPROXY_DATAGRAM),
        absolute(bad_path.IDLE, bad_path.DAILY, 4, 2, ours=MPROXY_TLS),
    ),
    (*((row, black_hole.METRIC, "less is better") for row in black_hole.ROWS),
     (bad_path.ROAM, bad_path.SILENCE, "less is better"), (bad_path.KEYS, bad_path.P99, "less is better"),
     (bad_path.BULK, bad_path.SHARE, "more is better")),
)
