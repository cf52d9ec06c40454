"""How long an answer of the domain name system is valid, which getaddrinfo(3) does not tell.

The C library's own stub resolver is asked (resolver(3): it reads /etc/resolv.conf, searches, repeats, and falls back to
TCP), and only the times to live are read from the answer. RFC 1035: section 4.1 has the layout, 3.2.1 the field.
"""

from __future__ import annotations

import ctypes
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CLASS_IN = 1
_TYPES: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 28}  # A, AAAA
_ANSWER_BYTES = 65_535


def ask_ttl(host: str, families: Iterable[int]) -> int | None:
    """For how many seconds the addresses of `host` are valid; None if the name service does not know it. Blocks."""
    ttls = [_ask(host, _TYPES[family]) for family in families]
    return min((ttl for ttl in ttls if ttl is not None), default=None)


def _ask(host: str, record_type: int) -> int | None:
    try:
        search = ctypes.CDLL(None).res_search
    except (AttributeError, OSError):  # a C library with another name for it
        return None
    answer = ctypes.create_string_buffer(_ANSWER_BYTES)
    try:
        length = search(host.encode("idna") + b"\0", _CLASS_IN, record_type, answer, _ANSWER_BYTES)
    except UnicodeError:
        return None
    return lowest_ttl(answer.raw[:length]) if length > 0 else None


def lowest_ttl(packet: bytes) -> int | None:
    """The lowest time to live in the answer section, in seconds; None if there is no answer, or it is malformed."""
    try:
        questions, answers = struct.unpack_from("!HH", packet, 4)
        at = 12
        for _ in range(questions):
            at = _skip_name(packet, at) + 4
        ttls = []
        for _ in range(answers):
            at = _skip_name(packet, at)
            ttl, length = struct.unpack_from("!4xIH", packet, at)
            ttls.append(ttl if ttl < 1 << 31 else 0)  # RFC 2181 section 8
            at += 10 + length
        return min(ttls, default=None)
    except (struct.error, IndexError):
        return None


def _skip_name(packet: bytes, at: int) -> int:
    """Where the name that starts at `at` ends: labels up to the empty one or a pointer (RFC 1035 section 4.1.4)."""
    while packet[at]:
        if packet[at] & 0xC0 == 0xC0:
            return at + 2
        at += 1 + packet[at]
    return at + 1
