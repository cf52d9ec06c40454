"""What carries a session's frames from host to host: TCP, and TLS over it.

Read first: `_send.pyx`, frames out; then `_tls.pxd`, `_records.pxd` for its records, and `_pace.pxd`, how much may be
on its way.
"""
