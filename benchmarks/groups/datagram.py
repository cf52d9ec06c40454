"""Files over UDP beside SRT, KCP, QUIC and rsync: on a perfect path for cost, on bad ones for the rate that is left."""

from harness.contenders import AIOQUIC, KCPTUN_BARE, KCPTUN_DEFAULT, PATH, RSYNC, SRT
from harness.group import WorkloadGroup
from harness.targets import at_least, at_most
from workloads import datagram_bulk, datagram_long, datagram_loss, datagram_recovery, datagram_small
from workloads.datagram_bulk import COST, WIDE_ROW
from workloads.datagram_bulk import RATE as BULK_RATE
from workloads.datagram_path import RATE

ONE, FIVE = datagram_loss.row_name(1), datagram_loss.row_name(5)
PEERS = (SRT, KCPTUN_BARE, KCPTUN_DEFAULT)

GROUP = WorkloadGroup(
    "datagram",
    "Files over UDP",
    (datagram_bulk.WORKLOAD, datagram_loss.WORKLOAD, datagram_recovery.WORKLOAD, datagram_long.WORKLOAD,
     datagram_small.WORKLOAD),
    (
        at_least(WIDE_ROW, BULK_RATE, 2.0, 4.0, SRT),
        at_most(WIDE_ROW, COST, 0.5, 0.25, SRT),
        at_least(WIDE_ROW, BULK_RATE, 10, 20, AIOQUIC),
        at_least(ONE, RATE, 0.8, 0.9, PATH),
        at_least(FIVE, RATE, 0.6, 0.8, PATH),
        *(at_least(datagram_loss.row_name(loss), RATE, 1.0, None, *PEERS) for loss in datagram_loss.LOSSES),
        at_least(datagram_long.ROW, RATE, 0.85, 0.95, PATH),
        at_most(datagram_small.ROW, datagram_small.SECONDS, 4, 3, RSYNC),
    ),
    (
        (WIDE_ROW, BULK_RATE, "more is better"),
        (WIDE_ROW, COST, "less is better"),
        (datagram_long.ROW, RATE, "more is better"),
        *((datagram_loss.row_name(loss), RATE, "more is better") for loss in datagram_loss.LOSSES),
    ),
    (datagram_recovery.GRID,),
)
