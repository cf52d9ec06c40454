"""How sproxy shares its memory among sessions: docs/decisions/memory-by-what-is-free.md."""

from __future__ import annotations

import os

# What a session costs before it has a stream: its objects, the batch of frames, what TLS keeps for a carrier.
SESSION_BYTES = 65536

MIB = 1 << 20

# Least that each may hold besides, whatever all others do: enough for two streams to go on.
LEAST_PROMISE_BYTES = 16384


def buffer_limit(memory_limit_bytes: int) -> int:
    """What of the process's limit is left for sessions: it already holds something, and sizes are rounded up."""
    with open("/proc/self/statm", "rb") as statm:
        resident_bytes = int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    return max(0, memory_limit_bytes - resident_bytes - memory_limit_bytes // 8)


def limit_for(max_sessions: int, whole: int, memory_limit_bytes: int) -> int:
    """The least --memory-limit with which there can be that many sessions, where a limit of `memory_limit_bytes` leaves
    `whole`; in whole MiB."""
    held = memory_limit_bytes - memory_limit_bytes // 8 - whole if whole else 0
    needed = (2 * max_sessions * (SESSION_BYTES + LEAST_PROMISE_BYTES) + held) * 8 // 7
    return -(-needed // MIB) * MIB


def promises(whole: int, max_sessions: int) -> tuple[int, int]:
    """(sessions, bytes): half of `whole` is promised to that many sessions, that many bytes to each for its streams.

    The other half is for whoever needs it: docs/decisions/memory-by-what-is-free.md.
    """
    most = max(1, min(max_sessions, whole // 2 // (SESSION_BYTES + LEAST_PROMISE_BYTES)))
    return most, max(0, whole // 2 // most - SESSION_BYTES)
