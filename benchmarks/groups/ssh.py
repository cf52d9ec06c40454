"""ssh by `mproxy ssh`: what it costs that a connection survives."""

from harness.contenders import MPROXY_SSH, PLAIN_SSH
from harness.group import WorkloadGroup
from harness.targets import at_most
from workloads import ssh_start

GROUP = WorkloadGroup(
    "ssh",
    "ssh",
    (ssh_start.WORKLOAD,),
    tuple(at_most(row, ssh_start.NEXT, 1.1, 1.0, PLAIN_SSH, ours=MPROXY_SSH) for row in ssh_start.ROWS)
    + tuple(at_most(row, ssh_start.FIRST, 1.3, 1.2, PLAIN_SSH, ours=MPROXY_SSH) for row in ssh_start.ROWS),
    tuple((row, ssh_start.NEXT, "less is better") for row in ssh_start.ROWS),
)
