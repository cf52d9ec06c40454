"""What the sessions of an sproxy share: memory and descriptors."""

from __future__ import annotations

import resource

from mproxy._pool import limit_memory
from mproxy.endpoint._app import share_descriptors
from mproxy.ground.config import format_size
from mproxy.policy.memory import SESSION_BYTES, buffer_limit, limit_for, promises
from mproxy.programs.greeting import most_unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.config import SproxyConfig
    from mproxy.service.log import Log

# Open files besides those of sessions, at least: connections that have only just come, the log, sockets.
GUESTS_AND_OTHERS = 64


def share_out(config: SproxyConfig, log: Log) -> int:
    """Promise every session its part of --memory-limit and of the descriptors; returns how many sessions there can be.
    Each worker has its part of both, and of the sessions."""
    whole = buffer_limit(config.memory_limit_bytes)
    most, each = promises(whole, config.max_sessions)
    if most < config.max_sessions:
        enough = format_size(limit_for(config.max_sessions, whole, config.memory_limit_bytes))
        log.warning("few-sessions", most=most, why=(
            f"--memory-limit is too small for --max-sessions {config.max_sessions}, which takes {enough}"))
    descriptors, wanted = resource.getrlimit(resource.RLIMIT_NOFILE)[0], most // config.workers + GUESTS_AND_OTHERS
    if wanted > descriptors:
        log.warning("few-descriptors", limit=descriptors, why=(
            f"{most} sessions take {wanted} open files in each process, and as many again as they have connections to"
            " daemons: raise the limit (ulimit -Hn, LimitNOFILE=)"))
    part = -(-most // config.workers)
    limit_memory((whole - most * SESSION_BYTES) // config.workers, part, each)
    share_descriptors(part, 2 * most_unfinished(config))
    return most
