"""A network as bad as asked for: packets lost, delayed, doubled, reordered by a seeded plan.

Read first: `_path_emulator.pxd`, what happens to a packet, without clock or socket; then `_emulator.pxd`.
"""
