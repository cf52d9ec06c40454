"""Words and numbers of binding a socket, for every program that listens."""

from __future__ import annotations

import errno
import os

# The kernel's limit is net.core.somaxconn; asking for more costs nothing.
BACKLOG = 65535

# The host lacks the address, or the whole family.
NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def explain_bind(error: OSError, port: int) -> str:
    """Why bind(2) failed, and what to do about it."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the other program or choose another port"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a port above 1023 instead of {port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; see 'ip address'"
    if error.errno == errno.EAFNOSUPPORT:
        return "this host has no IPv6; leave the address out, or use an IPv4 one"
    return os.strerror(error.errno) if error.errno else str(error)
