"""The hash of a file: BLAKE2b in its own tree mode (BLAKE2 specification, section 2.10; hashlib's documentation).

Depth 2, unlimited fanout, leaves of 1 MiB, digests of 32 bytes. A leaf is hashed when its block passes, in any order
and on any thread; the root is the hash over the leaves' digests. So an interrupted transfer needs no second reading of
what has arrived, and two files are equal when their roots are.
"""

import hashlib

LEAF_BYTES = 1 << 20
DIGEST_BYTES = 32


def leaf(data, number, is_last):
    """The digest of block `number`; releases the GIL while it computes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES, fanout=0, depth=2, leaf_size=LEAF_BYTES, node_offset=number,
                           node_depth=0, inner_size=DIGEST_BYTES, last_node=is_last).digest()


def root(leaves):
    """The digest over all leaves' digests, in order, as one bytes-like."""
    return hashlib.blake2b(leaves, digest_size=DIGEST_BYTES, fanout=0, depth=2, leaf_size=LEAF_BYTES, node_offset=0,
                           node_depth=1, inner_size=DIGEST_BYTES, last_node=True).digest()


def block_count(size):
    """Blocks of a file; an empty one has one, empty block."""
    return max(1, -(-size // LEAF_BYTES))


def block_length(size, number):
    """Bytes of block `number` of a file of `size` bytes."""
    return min(LEAF_BYTES, size - number * LEAF_BYTES)
