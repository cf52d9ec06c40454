"""Which links a program waits for when it ends."""

import socket

from mproxy.carrier._datagram_carrier import is_busy
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import DatagramConfig
from mproxy.transport.observers import LinkHandler

PATIENCE_US = 30_000_000
LOOK_US = 20_000


def test_a_link_that_is_silent_for_too_long_is_not_waited_for():
    """Goal: whoever ends in an outage does not wait for an answer that cannot come."""
    loop = Loop()
    with open_udp("127.0.0.1", 0) as deaf, open_udp(None, 0) as own:
        endpoint = DatagramEndpoint(loop, own.fileno(), DatagramConfig(keepalive_us=10_000))
        link = endpoint.connect(Target("deaf", [(socket.AF_INET, deaf.getsockname())]), LinkHandler())
        assert is_busy(endpoint)
        end = loop.now() + PATIENCE_US

        def look():
            if is_busy(endpoint) and loop.now() < end:
                loop.call_later(LOOK_US, look)
            else:
                loop.stop()

        look()
        loop.run()
        assert not is_busy(endpoint) and not link.ended
        endpoint.close()
