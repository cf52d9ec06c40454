"""BLAKE2b of four leaves at once (RFC 7693, with the tree parameters of the BLAKE2 specification, section 2.10).

Each 64-bit word of the state is a vector of four, one lane for each leaf. CPython's own BLAKE2b takes 1.27 s for a
gigabyte on the machine of docs/performance.md; this takes a third of that with AVX2. Why that is worth code of our own:
docs/decisions/transfer-keys-and-hash.md. Without AVX2 `is_fast` is false, and hashlib is just as good.

The root of a small file is three nodes, one above the other: here they are made without an object for each.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef enum:
    DIGEST_SIZE = 32


cdef void root_of_leaf(const uint8_t *data, size_t size, uint8_t *digest) noexcept nogil  # of DIGEST_SIZE bytes
