"""Sending so that it also arrives where only small packets do.

A path may drop larger packets and be silent about it (RFC 2923). What is said before there is a carrier is short: where
it would fit one packet it leaves in several small ones, so that whoever calls is at least heard. What the path does to
a carrier's packets is seen by then (endpoint/_vitals).
"""

from __future__ import annotations

import socket

# With all headers a packet of 576 bytes, which every host must accept (RFC 1122, section 3.3.2).
SMALL_BYTES = 500

# More than this fills packets anyway.
ONE_PACKET_BYTES = 1400


def send_small(sock: socket.socket, data: bytes) -> int:
    """As send(2): how many bytes were taken; BlockingIOError if none. Needs TCP_NODELAY, or it waits for answers."""
    if len(data) > ONE_PACKET_BYTES:
        return sock.send(data)
    sent = 0
    try:
        while sent < len(data):
            sent += sock.send(data[sent:sent + SMALL_BYTES])
    except BlockingIOError:
        if sent == 0:
            raise
    return sent
