"""The workloads, one module each, in the order of the tables. A new one is a module and a line here."""

from workloads import bulk, http, key_stroke, long_path, memory, ping_pong, resume, stdio_start

ALL = (
    *bulk.WORKLOADS,
    *http.WORKLOADS,
    ping_pong.WORKLOAD,
    key_stroke.WORKLOAD,
    long_path.WORKLOAD,
    memory.WORKLOAD,
    *resume.WORKLOADS,
    stdio_start.WORKLOAD,
)
