"""Many machines: who notices when one of them is upgraded, or gone."""

from harness.contenders import MPROXY_TLS
from harness.group import WorkloadGroup
from harness.targets import absolute
from workloads import fleet
from workloads.fleet import BALANCER_ROW, LOST, NODE_ROW, TOLD, UPGRADE_ROW, WAIT

GROUP = WorkloadGroup(
    "fleet",
    "Many machines",
    (fleet.WORKLOAD,),
    (
        absolute(UPGRADE_ROW, LOST, 0, 0, MPROXY_TLS),
        absolute(BALANCER_ROW, LOST, 0, 0, MPROXY_TLS),
        absolute(NODE_ROW, LOST, 0, 0, MPROXY_TLS),
        absolute(NODE_ROW, TOLD, 10, 5, MPROXY_TLS),
    ),
    (
        (UPGRADE_ROW, WAIT, "less is better"),
        (BALANCER_ROW, WAIT, "less is better"),
        (NODE_ROW, TOLD, "less is better"),
    ),
)
