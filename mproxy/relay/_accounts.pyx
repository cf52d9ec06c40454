"""What is noted of a connection or flow: _accounts.pxd."""

import os
import socket as _python_socket

from libc.stdint cimport uint8_t, uint16_t

from mproxy.ground._sockaddr cimport AF_INET, is_mapped, sockaddr, take_address
from mproxy.relay.relay_observer import Account


_WHY = {
    STOPPED: "stopped", DONE: "done", CLIENT_BROKE: "client reset", TARGET_BROKE: "target reset", SILENT: "silent",
    NO_TARGET: "no target: no address known", BAD_HEADER: "bad PROXY header", IN_CIRCLE: "leads back to the relay",
    TOO_OFTEN: "its source came too often", MADE_ROOM: "made room for another",
}


cdef object account_of(const Noted *noted, int64_t now, TargetAddress address, int why, int error):
    """The Account of what has ended; `address`: where it led, or None; `error`: the errno that ended it, or 0."""
    reason = _WHY[why]
    if error and why == NO_TARGET:
        reason = f"no target: {os.strerror(error)}"
    elif error:
        reason = f"{reason}: {os.strerror(error)}"
    peer = place_text(&noted.peer)
    client = place_text(&noted.client) if noted.client.ss_family else peer
    return Account(
        client, peer if noted.client.ss_family else None, None if address is None else address.target.text,
        None if address is None else address.target.address_text(address.index), noted.bytes_in, noted.bytes_out,
        now - noted.began_us, reason)


cdef str place_text(const sockaddr_storage *name):
    """ADDRESS:PORT of a socket address; an IPv4-mapped one as that of IPv4."""
    cdef uint8_t address[16]
    cdef uint16_t port
    if not take_address(<const sockaddr *>name, address, &port):
        return "unknown"
    if is_mapped(address):
        return f"{_python_socket.inet_ntop(AF_INET, (<char *>address)[12:16])}:{port}"
    return f"[{_python_socket.inet_ntop(_python_socket.AF_INET6, (<char *>address)[:16])}]:{port}"
