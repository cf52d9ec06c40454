"""Reliable transfer over an unreliable datagram path: the engine (no clock, no socket), and what carries it.

Read first: `_connection.pxd`, the state machine of one connection; then `_endpoint.pxd`, its sockets. Of the transfer
of files, `sender.py` and `receiver.py` are its two sides, `messages.py` what they say.
"""
