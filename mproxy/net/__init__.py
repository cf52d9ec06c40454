"""System calls: the event loop, sockets, carriers, the applications' connections.

Read first: `_endpoint.pxd`, where every byte passes that is relayed; then `_loop.pxd`, which calls it.
"""
