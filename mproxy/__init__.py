"""mproxy keeps TCP connections alive while the address under them changes.

Here lie the session, which knows no clock and no socket, and what everything stands on. Read first: `_session.pxd`, the
state machine of one session; then the modules in the order of docs/architecture.md, "Layers".
"""

__version__ = "0.1.0"
