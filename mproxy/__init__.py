"""mproxy keeps TCP connections alive while the address under them changes.

This directory is the session, which knows no clock and no socket; each directory beside it says what it is for.
Read first: `_session.pxd`, the state machine of one session; then the modules in the order of docs/architecture.md,
"Layers".
"""

__version__ = "0.1.0"
