"""System calls: the event loop, sockets, packets, timers.

Read first: `_loop.pxd`, which calls everything else; then `_socket.pxd`.
"""
