"""A network as bad as asked for: packets lost, delayed, doubled, reordered by a seeded plan.

Read first: `_impair.pxd`, what happens to a packet, without clock or socket; then `_impair_io.pxd`.
"""
