"""The relay's TCP engine: every connection is a pair of sockets, with bytes flowing between them.

Read first: `_pair.pxd`, one relayed connection; then `_relaying.pyx`, its life, and `_tcp_relay.pyx`, the engine.
"""
