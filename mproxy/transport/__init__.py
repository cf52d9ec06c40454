"""Reliable transfer over an unreliable datagram path: the engine (no clock, no socket), its keys and its sockets.

It knows nothing of files or sessions. Read first: `_connection.pxd`, the state machine of one connection; then
`_datagram_endpoint.pxd`, its sockets.
"""
