"""Which process has the other end of a connection on this host: for those who ask, in their own process.

The kernel shows a connection's inode beside its addresses (proc_net_tcp), and each process's descriptors by inode,
to whoever may look into that process: its user, and root. So a name is known where the asker has the right to know it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection, Iterator
from functools import lru_cache

# An IPv4 address as one of IPv6 begins so (RFC 4291, section 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"

# (address, port) of the end that is looked for, and of the other one.
Ends = tuple[tuple[str, int], tuple[str, int]]


def find_owners(pid: int, wanted: Collection[Ends]) -> dict[Ends, tuple[int, str]]:
    """(process, its name) of those ends of connections that processes on this host have, as far as they may be seen.

    Looked for in the network namespace of process `pid`.
    """
    if not wanted:
        return {}
    inodes = {inode: ends for ends, inode in _connections(pid, wanted)}
    owners: dict[Ends, tuple[int, str]] = {}
    if not inodes:
        return owners
    for process in filter(str.isdigit, os.listdir("/proc")):
        owner: tuple[int, str] | None = None
        for inode in _sockets(process):
            ends = inodes.get(inode)
            if ends is not None:
                owner = owner or (int(process), _name(process))
                owners.setdefault(ends, owner)
        if len(owners) == len(inodes):
            break
    return owners


def _connections(pid: int, wanted: Collection[Ends]) -> Iterator[tuple[Ends, str]]:
    """(its two ends, its inode) of every TCP connection that is wanted, of those that `pid` could see."""
    known: dict[tuple[str, str], Ends] = {}
    spell = lru_cache(_spell)  # many connections, few addresses
    for one in wanted:
        (here, here_port), (there, there_port) = one
        for mapped in (False, True):
            try:
                known[f"{spell(here, mapped)}:{here_port:04X}", f"{spell(there, mapped)}:{there_port:04X}"] = one
            except (OSError, ValueError):
                break  # not numeric: whoever said so means something else
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", encoding="ascii") as lines:
                for line in lines:
                    fields = line.split()
                    ends = known.get((fields[1], fields[2]))
                    if ends is not None and fields[9] != "0":  # nobody has it any more
                        yield ends, fields[9]
        except OSError:
            continue  # the process has gone, or there is no IPv6


def _spell(host: str, mapped: bool) -> str:
    """An address as the kernel shows it, `0100007F`: four bytes at a time are a number of this host. `mapped`: an IPv4
    address as a socket for IPv6 has it."""
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    else:
        packed = (_MAPPED if mapped else b"") + socket.inet_aton(host)
    words = [int.from_bytes(packed[at:at + 4], sys.byteorder) for at in range(0, len(packed), 4)]
    return "".join(f"{word:08X}" for word in words)


def _sockets(process: str) -> Iterator[str]:
    """Inodes of the sockets of a process; none when it has gone, or is not ours to look into."""
    directory = f"/proc/{process}/fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return
    for descriptor in descriptors:
        try:
            name = os.readlink(f"{directory}/{descriptor}")
        except OSError:
            continue
        if name.startswith("socket:["):
            yield name[8:-1]


def _name(process: str) -> str:
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
