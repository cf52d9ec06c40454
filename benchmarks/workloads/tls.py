"""The encrypted carrier beside other encrypted pairs: bulk, keep-alive, a resume, the start of --stdio.

Goal: encryption by default must not cost more than the usual ways to have it.
Method: the workloads `bulk`, `http`, `resume` and `stdio_start` with mproxy as it comes (TLS 1.3, both sides
authenticated) against two haproxies with TLS 1.3 and AES-128-GCM between them, two stunnels, and ssh -L with
aes128-gcm. `mproxy` itself, with --plaintext, shows what encryption costs.
Limits: as in those. haproxy's and stunnel's client sides show no certificate and look at none. The path of
the resume has no delay of its own: of the 100 ms none are spent on round trips.
"""

from __future__ import annotations

from functools import partial

from harness.bench import Workload
from harness.contenders import DIRECT, HAPROXY_TLS, MPROXY, MPROXY_TLS, SSH, STUNNEL

from workloads import bulk, http, resume, stdio_start

BULK_ROWS = tuple(row for row, _mode, _streams in bulk.ONE_STREAM + bulk.MANY_STREAMS)
KEEP_ALIVE_ROW = f"keep-alive, {http.HEADLINE_CLIENTS} clients"
RESUME_ROW = "resume, 1 stream"

_ALL = (DIRECT, MPROXY, MPROXY_TLS, HAPROXY_TLS, STUNNEL, SSH)
_QUICK = (MPROXY_TLS, HAPROXY_TLS, STUNNEL, SSH)
_KEEP_ALIVE = tuple(row for row in http.KEEP_ALIVE if row[0] == KEEP_ALIVE_ROW)

WORKLOADS = (
    Workload(
        "tls-bulk", "Bulk, encrypted", partial(bulk.cases, bulk.ONE_STREAM), _ALL, _QUICK, peer=HAPROXY_TLS
    ),
    Workload(
        "tls-bulk50", "Bulk, 50 streams, encrypted", partial(bulk.cases, bulk.MANY_STREAMS), _ALL, _QUICK,
        peer=HAPROXY_TLS,
    ),
    Workload(
        "tls-keepalive", "HTTP, keep-alive, encrypted", partial(http.cases, _KEEP_ALIVE), _ALL, _QUICK,
        peer=HAPROXY_TLS, note=http.NOTE,
    ),
    Workload(
        "tls-resume", "Another address, encrypted", resume.resume_cases, (MPROXY_TLS,), (MPROXY_TLS,),
        needs_root=True, peer=HAPROXY_TLS,
    ),
    Workload(
        "tls-stdio", "From start to first byte, encrypted", stdio_start.cases, (MPROXY_TLS, SSH), (MPROXY_TLS, SSH),
        peer=SSH,
    ),
)  # fmt: skip
