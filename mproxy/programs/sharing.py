"""What the sessions of an sproxy share: memory and descriptors."""

from __future__ import annotations

from mproxy._pool import limit_memory
from mproxy.endpoint._app import share_descriptors
from mproxy.policy.memory import SESSION_BYTES, buffer_limit, promises
from mproxy.programs.greeting import most_unfinished

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.ground.config import SproxyConfig
    from mproxy.service.log import Log


def share_out(config: SproxyConfig, log: Log) -> int:
    """Promise every session its part of --memory-limit and of the descriptors; returns how many sessions there can be.
    Each worker has its part of both, and of the sessions."""
    whole = buffer_limit(config.memory_limit_bytes)
    most, each = promises(whole, config.max_sessions)
    if most < config.max_sessions:
        log.warning("few-sessions", most=most, why=(
            f"--memory-limit is too small for --max-sessions {config.max_sessions}"))
    part = -(-most // config.workers)
    limit_memory((whole - most * SESSION_BYTES) // config.workers, part, each)
    share_descriptors(part, 2 * most_unfinished(config))
    return most
