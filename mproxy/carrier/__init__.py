"""What carries a session's frames from host to host: the interface of all kinds, TCP, and sockets within the host that
lead to a command; with TLS over them or without; and connections over datagrams.

Read first: `_carrier.pxd`, what an endpoint asks of a carrier; then `_tcp_carrier.pyx`, most of its kinds, `_tls.pxd`
and `_records.pxd`, its encryption, `_pace.pxd` and `_flight.pxd`, how much may be under way; `_local_carrier.pxd`;
`_datagram_carrier.pxd` and `_frame_parcels.pxd`, packets.
"""
