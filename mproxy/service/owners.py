"""Which process has the other end of a connection on this host: for those who ask, in their own process.

The kernel tells a connection's inode by its addresses, and each process's descriptors by inode, to whoever may look
into that process: its user, and root. So a name is known where the asker has the right to know it.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from mproxy.service._sockets import find_inodes, find_processes

# As _stream_text.SocketKey: the own and the other address, as IPv6 has it, and their ports.
_KEY = struct.Struct("!16s16sHH")

# An IPv4 address as one of IPv6 begins so (RFC 4291, section 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"

# (address, port) of the end that is looked for, and of the other one.
Ends = tuple[tuple[str, int], tuple[str, int]]


def find_owners(asked: Sequence[tuple[int, Collection[Ends]]],
                last: Collection[int] = ()) -> list[dict[Ends, tuple[int, str]]]:
    """(process, its name) of those ends of connections that processes on this host have, as far as they may be seen.

    `asked`: (process, ends of connections in its network namespace) of several, for all of which each process is looked
    into once; the processes `last` after all others. Returns a dictionary for each.
    """
    numeric = [[(ends, key) for ends in wanted if (key := _key(ends)) is not None] for _pid, wanted in asked]
    found = find_pids([(pid, b"".join(key for _ends, key in each))
                       for (pid, _wanted), each in zip(asked, numeric, strict=True)], last)
    names = {process: name_of(process) for process in {process for some in found for process in some} if process}
    return [{ends: (process, names[process]) for (ends, _key), process in zip(each, some, strict=True) if process}
            for each, some in zip(numeric, found, strict=True)]


def find_pids(asked: Sequence[tuple[int, bytes]], last: Collection[int] = ()) -> list[list[int]]:
    """The process that has each connection, 0 where none is seen: as `find_owners`, with keys of _stream_text."""
    inodes = [_inodes(pid, keys) if keys else [] for pid, keys in asked]
    found = [inode for each in inodes for inode in each]
    if any(found):
        found = find_processes(found, _processes(last))
    each_found = iter(found)
    return [list(islice(each_found, len(each))) for each in inodes]


def name_of(process: int) -> str:
    """What `ps` calls a process."""
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _key(ends: Ends) -> bytes | None:
    """None: not numeric; whoever said so means something else."""
    try:
        (here, here_port), (there, there_port) = ends
        return _KEY.pack(_packed(here), _packed(there), here_port, there_port)
    except (OSError, ValueError, struct.error):
        return None


def _packed(host: str) -> bytes:
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return _MAPPED + socket.inet_aton(host)


def _inodes(pid: int, keys: bytes) -> list[int]:
    """Of those that `pid` could see."""
    if _shares_network(pid):
        try:
            inodes = find_inodes(keys)
        except OSError:
            inodes = []
        if any(inodes):
            return inodes  # else the kernel may not answer such questions
    found = dict(_from_tables(pid, {keys[at:at + _KEY.size] for at in range(0, len(keys), _KEY.size)}))
    return [found.get(keys[at:at + _KEY.size], 0) for at in range(0, len(keys), _KEY.size)]


def _shares_network(pid: int) -> bool:
    """Whether a process is in our network namespace: these files are the same then, and may be looked at."""
    try:
        return os.stat("/proc/self/net/tcp").st_ino == os.stat(f"/proc/{pid}/net/tcp").st_ino
    except OSError:
        return False


def _from_tables(pid: int, wanted: Collection[bytes]) -> Iterator[tuple[bytes, int]]:
    """(its key, its inode) of every TCP connection that is wanted, as proc_net_tcp shows them."""
    known = {spelt: key for key in wanted for spelt in _spell(key)}
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as lines:
                for line in lines:
                    fields = line.split()
                    key = known.get((fields[1], fields[2]))
                    if key is not None and fields[9] != "0":  # nobody has it any more
                        yield key, int(fields[9])
        except OSError:
            continue  # the process has gone, or there is no IPv6


def _spell(key: bytes) -> Iterator[tuple[str, str]]:
    """Both ends as the kernel shows them, `0100007F:1F90`: four bytes at a time are a number of this host. An IPv4
    address also as a socket for IPv6 has it."""
    own, other, own_port, other_port = _KEY.unpack(key)
    for skipped in (0, 12) if own.startswith(_MAPPED) else (0,):
        yield f"{_spell_address(own[skipped:])}:{own_port:04X}", f"{_spell_address(other[skipped:])}:{other_port:04X}"


def _spell_address(packed: bytes) -> str:
    words = [int.from_bytes(packed[at:at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words)


def _processes(last: Iterable[int]) -> list[int]:
    """All of this host, those of `last` and their children at the end."""
    behind = set(last)
    for process in last:
        behind.update(children_of(process))
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [each for each in found if each not in behind] + [each for each in found if each in behind]


def children_of(process: int) -> list[int]:
    """Those of its first thread; none when it has gone."""
    try:
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
