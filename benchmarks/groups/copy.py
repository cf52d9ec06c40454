"""Files copied as with scp and rsync: the whole command, to a host that ssh reaches."""

from harness.contenders import RSYNC_SSH, SCP
from harness.group import WorkloadGroup
from harness.targets import at_most
from workloads import copying
from workloads.copying import FAR_ROW, LARGE_ROW, MANY_ROW, SECONDS, SMALL_ROW

GROUP = WorkloadGroup(
    "copy",
    "Copying to a host",
    (copying.WORKLOAD,),
    (
        at_most(LARGE_ROW, SECONDS, 0.67, 0.4, SCP),
        at_most(LARGE_ROW, SECONDS, 0.67, 0.4, RSYNC_SSH),
        at_most(SMALL_ROW, SECONDS, 1.0, 0.5, SCP),
        at_most(MANY_ROW, SECONDS, 1.0, 0.5, RSYNC_SSH),
        at_most(FAR_ROW, SECONDS, 0.2, 0.1, RSYNC_SSH),
    ),
    (
        (LARGE_ROW, SECONDS, "less is better"),
        (MANY_ROW, SECONDS, "less is better"),
        (FAR_ROW, SECONDS, "less is better"),
    ),
)
