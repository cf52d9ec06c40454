"""The resumable path beside plain relays and ssh: it must cost no more than they do."""

from harness.contenders import DIRECT, SSH
from harness.group import WorkloadGroup
from harness.targets import Limit, Target, absolute, at_least, at_most, ratio
from workloads import bulk, http, key_stroke, long_path, memory, ping_pong, resume, stdio_start

BULK_ROWS = ("bulk up", "bulk down", "bulk both ways", "bulk 50 streams")
KEY_ROWS = (key_stroke.KEY_UP, key_stroke.KEY_DOWN)

GROUP = WorkloadGroup(
    "session",
    "Two proxies in a row",
    (
        *bulk.WORKLOADS,
        *http.WORKLOADS,
        ping_pong.WORKLOAD,
        key_stroke.WORKLOAD,
        long_path.WORKLOAD,
        memory.WORKLOAD,
        *resume.WORKLOADS,
        stdio_start.WORKLOAD,
    ),
    (
        *(at_most(row, "CPU s/GB", 0.90, 0.75) for row in BULK_ROWS),
        *(at_least(row, "Gbit/s", 1.05, 1.25) for row in BULK_ROWS),
        at_least("keep-alive, 32 clients", "req/s", 1.5, 2.0),
        at_least("connection: close, 32 clients", "conn/s", 1.3, 1.6),
        *(at_most(f"ping-pong {size}", "p50 us", 1.0, 0.8) for size in ("1 B", "1 KiB")),
        *(
            Target(row, "p99 ms", ratio(0.25, SSH), Limit(30, "over", (DIRECT,), key_stroke.KEY_IDLE))
            for row in KEY_ROWS
        ),
        *(at_least(row, "Mbit/s", 0.9, 0.98, DIRECT) for row in long_path.LONG_ROWS),
        absolute(memory.IDLE_ROW, memory.METRIC, 20, 8),
        absolute("resume, 10,000 streams", "last byte ms", 1000, 300),
        absolute("resume, 1 stream", "first byte ms", 100, 20),
        absolute(stdio_start.ROW, "first byte ms", 150, 80),
    ),
    (
        ("bulk up", "CPU s/GB", "less is better"),
        ("bulk up", "Gbit/s", "more is better"),
        ("bulk 50 streams", "CPU s/GB", "less is better"),
        ("keep-alive, 32 clients", "req/s", "more is better"),
        ("connection: close, 32 clients", "conn/s", "more is better"),
        ("ping-pong 1 B", "p50 us", "less is better"),
        (key_stroke.KEY_UP, "p99 ms", "less is better"),
        (long_path.LONG_ROWS[0], "Mbit/s", "more is better"),
        (memory.IDLE_ROW, memory.METRIC, "less is better"),
    ),
)
