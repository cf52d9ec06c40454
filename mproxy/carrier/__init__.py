"""What carries a session's frames from host to host: the interface of all kinds, and TCP, with TLS over it or without.

Read first: `_carrier.pxd`, what an endpoint asks of a carrier; then `_tcp_carrier.pyx`, the one kind so far, `_tls.pxd`
and `_records.pxd`, its encryption, `_pace.pxd` and `_flight.pxd`, how much may be under way.
"""
