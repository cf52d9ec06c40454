"""The relay's UDP engine: a socket for every client, and packets in batches.

Read first: `_flow.pxd`, one client of a rule; then `_forwarder.pyx`, the way of its packets, and
`_udp_relay.pyx`, the engine.
"""
