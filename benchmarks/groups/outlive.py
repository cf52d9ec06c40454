"""A program that outlives its own death: how short the pause is, and that nothing is paid for it."""

from harness.contenders import MPROXY_TLS, MPROXY_UNKEPT
from harness.group import WorkloadGroup
from harness.targets import absolute, at_least, at_most
from workloads import memory, outlive

GROUP = WorkloadGroup(
    "outlive",
    "The serving process dies",
    outlive.WORKLOADS,
    (
        absolute(outlive.PAUSE_ROW, "pause ms", 150, 50),
        absolute(outlive.STREAMS_ROW, "last byte ms", 300, 150),
        absolute(outlive.UPGRADE_ROW, "longest ms", 300, 100),
        absolute(outlive.WORKERS_ROW, "longest ms", 300, 100, ours=MPROXY_TLS),
        at_most("bulk up", "CPU s/GB", 1.03, 1.01, MPROXY_UNKEPT),
        at_least("keep-alive, 32 clients", "req/s", 0.97, 0.99, MPROXY_UNKEPT),
        absolute(outlive.KEEPER_ROW, "USS MB", 6, 3),
        absolute(memory.IDLE_ROW, memory.METRIC, 10, 8),
    ),
    (
        (outlive.PAUSE_ROW, "pause ms", "less is better"),
        (outlive.STREAMS_ROW, "last byte ms", "less is better"),
        (outlive.UPGRADE_ROW, "longest ms", "less is better"),
        (outlive.WORKERS_ROW, "longest ms", "less is better"),
    ),
)
