"""`mproxy hash`: prints the hash of files that `mproxy send` and `mproxy recv` print, or that b3sum does."""

from __future__ import annotations

import os
import stat

from mproxy.ground.errors import UsageError
from mproxy.ground.packages import BLAKE3, import_packages
from mproxy.ground.words import escaped
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import FAILED, complain, exit_status
from mproxy.transfer._disk import status_of
from mproxy.transfer.holes import has_holes, pieces
from mproxy.transfer.partial import read_block
from mproxy.transfer.tree import LEAF_BYTES, ZERO_DIGEST, block_count, block_length, leaf, root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "mproxy hash"
BLAKE3_BYTES = 8 << 20  # at once: enough to be shared by threads


def main(argv: list[str]) -> int:
    """`mproxy hash`; the exit status."""
    return exit_status(PROGRAM, lambda: _print_hashes(*_parse(argv)))


def _parse(argv: list[str]) -> tuple[Sequence[str], Callable[[int], bytes]]:
    """Files, and what hashes all that can be read from a descriptor."""
    parser = OneLineParser(
        PROGRAM, f"{PROGRAM} [options] FILE...",
        "Print the hash of each FILE, as 'mproxy send' and 'mproxy recv' print it.\n"
        "FILE '-' is standard input.",
        "exit status: 0 all were read, 1 one could not be read, 2 wrong command line.")
    parser.add_argument("--blake3", action="store_true", default=None, help=(
        "print BLAKE3, as b3sum does; needs the package blake3"))
    parser.add_last(parser, "mproxy")
    given, words = parser.split(argv)
    if not words:
        raise UsageError("missing argument: FILE (try 'mproxy hash --help')")
    if given.get("blake3"):
        import_packages(BLAKE3)
        return words, blake3_of
    return words, root_of


def _print_hashes(paths: Sequence[str], hash_of: Callable[[int], bytes]) -> int:
    status = 0
    for path in paths:
        try:
            fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
            try:
                digest = hash_of(fd)
            finally:
                if fd:
                    os.close(fd)
        except OSError as error:
            complain(PROGRAM, f"{path}: {error.strerror}")
            status = FAILED
            continue
        print(f"{digest.hex()}  {escaped(path)}")
    return status


def blake3_of(fd: int) -> bytes:
    """BLAKE3 of all that can be read from a descriptor, with all processors."""
    from blake3 import blake3
    state = blake3(max_threads=blake3.AUTO)
    buffer = bytearray(BLAKE3_BYTES)
    while length := _fill(fd, buffer):
        state.update(memoryview(buffer)[:length])
    digest: bytes = state.digest()
    return digest


def root_of(fd: int) -> bytes:
    """The hash of all that can be read from a descriptor."""
    status = status_of(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size > LEAF_BYTES and has_holes(status):
        return _root_with_holes(fd, status.st_size)
    digests = bytearray()
    data, following = bytearray(LEAF_BYTES), bytearray(LEAF_BYTES)
    length = _fill(fd, data)
    number, more = 0, True
    while more:
        rest = _fill(fd, following) if length == LEAF_BYTES else 0
        more = rest > 0
        digests += leaf(memoryview(data)[:length], number, not more)
        data, following, length, number = following, data, rest, number + 1
    return root(digests)


def _root_with_holes(fd: int, size: int) -> bytes:
    count = block_count(size)
    digests = bytearray()
    buffer = bytearray(LEAF_BYTES)
    for piece in pieces(fd, size, [(0, count)]):
        if isinstance(piece, range):
            digests += ZERO_DIGEST * len(piece)
        else:
            data = read_block(fd, buffer, piece, block_length(size, piece))
            digests += leaf(data, piece, piece == count - 1)
    return root(digests)


def _fill(fd: int, buffer: bytearray) -> int:
    """How many bytes were read: fewer than there is room for only at the end."""
    view = memoryview(buffer)
    length = 0
    while length < len(buffer) and (got := os.readv(fd, [view[length:]])):
        length += got
    return length
