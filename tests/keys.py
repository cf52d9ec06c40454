"""Three different keys for tests, made once a run."""

import functools

from mproxy.carrier._tls import Tls, TlsContext
from mproxy.policy.keys import fresh_pem


@functools.cache
def pem(number):
    """The key file of host or client `number`."""
    return bytes(fresh_pem())


@functools.cache
def context(number, is_server):
    """The TlsContext of `pem(number)`."""
    return TlsContext(pem(number), is_server=is_server)


def client(number=1):
    """A connection's client end."""
    return Tls(context(number, False))


def server(number=2):
    """A connection's server end."""
    return Tls(context(number, True))


def joined(one=None, other=None):
    """(client, server), after their handshake."""
    one, other = one or client(), other or server()
    one.receive(b"")
    other.receive(one.take_out())
    one.receive(other.take_out())
    other.receive(one.take_out())
    assert one.finished and other.finished
    return one, other
