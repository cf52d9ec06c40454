"""What sproxy notes of a client for its next worker, beside the session's own state.

    version flags tags   1 byte each; flags: 1 --stdio, 2 resumed, 4 the place is the key's, 8 the carrier is over UDP
    instance id          16 bytes
    began, lost, away    8 bytes each: microseconds of the loop's clock; 0: it has a carrier, it is not away
    outages              how many (4 bytes), the longest, all together, bytes sent again (8 bytes each)
    tags                 8 bytes each
    certificate          since version 3: its length (2 bytes), and what the key has shown
    places               since version 2: how many sockets listen for it (1 byte), then of each its number (1 byte),
                         the mark of its place, its descriptor and its inode (4 bytes each)
    texts                key, host, peer, holder: each after its length (1 byte)
    check                4 bytes: CRC-32 of all before

Numbers are in the processor's order: what wrote them reads them.
"""

from __future__ import annotations

import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# A client without a certificate, or without places, is noted as builds do that know none.
VERSION, WITHOUT_CERTIFICATE, WITHOUT_PLACES = 3, 2, 1
STDIO, RESUMED, KEYS_PLACE, OVER_UDP = 1, 2, 4, 8
HEAD = struct.Struct("=BBB16s3QI3Q")
CHECK = struct.Struct("=I")
PLACE = struct.Struct("=B3I")
LENGTH = struct.Struct("=H")


class DamagedRecord(ValueError):
    """It is not what any sproxy has noted."""


class PlaceSocket:
    """A socket that listens at a place (served_places.py)."""

    __slots__ = ("fd", "inode", "mark", "number")

    def __init__(self, number: int, mark: int, fd: int, inode: int) -> None:
        self.number = number
        self.mark = mark
        self.fd = fd
        self.inode = inode


class ClientRecord:
    """One client's. Times as in `Client`; None: there is none."""

    __slots__ = ("away_at", "began_at", "certificate", "holder", "host", "instance_id", "longest_us", "lost_at",
                 "outages", "over_udp", "peer", "places", "resent_bytes", "resumed", "spki", "stdio", "tags",
                 "total_us")

    def __init__(self, *, spki: bytes, instance_id: bytes, host: str, peer: str, holder: bytes | str, stdio: bool,
                 resumed: bool, tags: Sequence[int], began_at: int, lost_at: int | None, away_at: int | None,
                 outages: int, longest_us: int, total_us: int, resent_bytes: int,
                 places: Sequence[PlaceSocket] = (), certificate: bytes = b"", over_udp: bool = False) -> None:
        self.spki = spki
        self.certificate = certificate  # empty: none
        self.instance_id = instance_id
        self.host, self.peer = host, peer
        self.holder = holder        # the key itself, or a source
        self.stdio, self.resumed = stdio, resumed
        self.tags = list(tags)
        self.began_at = began_at
        self.lost_at = lost_at      # its last carrier
        self.away_at = away_at      # when the present outage began
        self.outages = outages      # so many, with that one
        self.longest_us, self.total_us = longest_us, total_us  # without it
        self.resent_bytes = resent_bytes
        self.places = list(places)
        self.over_udp = over_udp

    def encode(self) -> bytes:
        """The record."""
        flags = STDIO * self.stdio | RESUMED * self.resumed | KEYS_PLACE * isinstance(self.holder, bytes) | (
            OVER_UDP * self.over_udp)
        holder = self.holder if isinstance(self.holder, str) else ""
        version = VERSION if self.certificate else WITHOUT_CERTIFICATE if self.places else WITHOUT_PLACES
        parts = [HEAD.pack(version, flags, len(self.tags), self.instance_id, self.began_at, self.lost_at or 0,
                           self.away_at or 0, self.outages, self.longest_us, self.total_us, self.resent_bytes),
                 struct.pack(f"={len(self.tags)}Q", *self.tags)]
        if version == VERSION:
            parts += [LENGTH.pack(len(self.certificate)), self.certificate]
        if version != WITHOUT_PLACES:
            parts.append(bytes([len(self.places)]))
        parts += [PLACE.pack(each.number, each.mark, each.fd, each.inode) for each in self.places]
        for text in (self.spki, self.host.encode(), self.peer.encode(), holder.encode()):
            parts += [bytes([len(text)]), text]
        data = b"".join(parts)
        return data + CHECK.pack(zlib.crc32(data))


def decode_record(data: bytes) -> ClientRecord:
    """What was noted; DamagedRecord."""
    body = data[:-CHECK.size]
    if len(data) < CHECK.size or CHECK.unpack(data[-CHECK.size:]) != (zlib.crc32(body),):
        raise DamagedRecord("the check is wrong")
    if not body or body[0] not in (VERSION, WITHOUT_CERTIFICATE, WITHOUT_PLACES):
        raise DamagedRecord("of another version")
    try:
        _version, flags, count, instance_id, began_at, lost_at, away_at, *counts = HEAD.unpack_from(body)
        tags = struct.unpack_from(f"={count}Q", body, HEAD.size)
        at = HEAD.size + 8 * count
        places, certificate = [], b""
        if body[0] == VERSION:
            (length,), at = LENGTH.unpack_from(body, at), at + LENGTH.size
            certificate, at = body[at:at + length], at + length
        if body[0] != WITHOUT_PLACES:
            end = at + 1 + body[at] * PLACE.size
            places = [PlaceSocket(*each) for each in PLACE.iter_unpack(body[at + 1:end])]
            if len(places) != body[at]:
                raise ValueError("a place is cut off")
            at = end
        spki, *words = texts_of(body[at:], 4)
        host, peer, holder = (word.decode() for word in words)
    except (struct.error, ValueError, IndexError) as error:
        raise DamagedRecord(str(error)) from None
    outages, longest_us, total_us, resent_bytes = counts
    return ClientRecord(
        spki=spki, instance_id=instance_id, host=host, peer=peer, holder=spki if flags & KEYS_PLACE else holder,
        stdio=bool(flags & STDIO), resumed=bool(flags & RESUMED), tags=tags, began_at=began_at,
        lost_at=lost_at or None, away_at=away_at or None, outages=outages, longest_us=longest_us, total_us=total_us,
        resent_bytes=resent_bytes, places=places, certificate=certificate, over_udp=bool(flags & OVER_UDP))


def understands(data: bytes) -> bool:
    """Whether it is what a sproxy has noted of which this one knows the version."""
    try:
        decode_record(data)
    except DamagedRecord:
        return False
    return True


def texts_of(data: bytes, count: int) -> list[bytes]:
    """So many texts, each after its length, and nothing else; ValueError."""
    found = []
    for _number in range(count):
        if not data or len(data) <= data[0]:
            raise ValueError("a text is cut off")
        found.append(data[1:1 + data[0]])
        data = data[1 + data[0]:]
    if data:
        raise ValueError("there is more than the texts")
    return found
