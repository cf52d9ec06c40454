"""The hash of a file: BLAKE2b in its own tree mode (BLAKE2 specification, section 2.10; hashlib's documentation).

Depth 3, unlimited fanout, digests of 32 bytes. A block of 1 MiB is a node over the leaves of its quarters of 256 KiB,
which four lanes of a vector unit hash at once. A block is hashed as it passes, in any order and on any thread; the root
is the hash over the blocks' digests. So the sender need not read again what an interrupted transfer has brought, and
two files are equal when their roots are.

A block of zeros has the same digest wherever it is, but as the last: so a hole costs nothing, however large it is.
"""

from __future__ import annotations

import hashlib

from mproxy.transfer._hash import four_leaves, is_fast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.arriving import Data

LEAF_BYTES = 1 << 20
QUARTER_BYTES = LEAF_BYTES // 4
DIGEST_BYTES = 32
# Of a block of zeros that is not the last.
ZERO_DIGEST = bytes.fromhex("55b2f3904336f90dc1d2a9d87bebb01f04ec5b514655dd27ecd6df00b0e683c2")
_DEPTH = 3
_ZEROS = bytes(LEAF_BYTES)


def leaf(data: Data, number: int, is_last: bool) -> bytes:
    """The digest of block `number`; releases the GIL while it computes."""
    if len(data) <= QUARTER_BYTES:
        digests = _node(data, 0, number * 4, is_last)
    elif not is_last and _is_zeros(data):
        return ZERO_DIGEST
    elif is_fast and len(data) == LEAF_BYTES:
        digests = four_leaves(data, (DIGEST_BYTES, 0, _DEPTH, QUARTER_BYTES, 0, DIGEST_BYTES), number * 4, is_last)
    else:
        digests = slow_leaves(data, number, is_last)
    return _node(digests, 1, number, is_last)


def _is_zeros(data: Data) -> bool:
    """Whether it is a whole block of zeros; found out at the first byte of most others."""
    return data[0] == data[-1] == 0 and len(data) == LEAF_BYTES and bytes(data) == _ZEROS


def slow_leaves(data: Data, number: int, is_last: bool) -> bytes:
    """The digests of the quarters of block `number`, joined; the last one may be short, or the only one."""
    view = memoryview(data)
    count = max(1, -(-len(view) // QUARTER_BYTES))
    return b"".join(
        _node(view[i * QUARTER_BYTES:(i + 1) * QUARTER_BYTES], 0, number * 4 + i, is_last and i == count - 1)
        for i in range(count))


def root(leaves: Data) -> bytes:
    """The digest over all blocks' digests, joined in order."""
    return _node(leaves, 2, 0, True)


def _node(data: Data, depth: int, offset: int, is_last: bool) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES, fanout=0, depth=_DEPTH, leaf_size=QUARTER_BYTES,
                           node_offset=offset, node_depth=depth, inner_size=DIGEST_BYTES, last_node=is_last).digest()


def block_count(size: int) -> int:
    """Number of blocks of a file; an empty file has one, empty block."""
    return max(1, -(-size // LEAF_BYTES))


def block_length(size: int, number: int) -> int:
    """Bytes of block `number` of a file of `size` bytes."""
    return min(LEAF_BYTES, size - number * LEAF_BYTES)
