"""A bad path to order: packets lost, delayed, doubled, reordered by a seeded plan.

Read first: `_impair.pxd`, what happens to a packet, without clock and socket; then `_impair_io.pxd`.
"""
