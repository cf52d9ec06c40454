"""A session's two ends on this host: its carrier, and the applications' connections.

Read first: `_endpoint.pxd`, through which every proxied byte passes; then `_app.pxd`, the application's side, and
`observer.py`, what programs are told.
"""
