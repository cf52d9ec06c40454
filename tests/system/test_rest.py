"""cproxy --idle-heartbeat: what both programs say while nothing moves."""

import pytest
from capture import Capture
from lab import outage
from proxies import SPROXY_PORT
from traffic import read_exactly

LOOK_S = 6.5
INTERVAL_S = 2


def to_sproxy(packets):
    """IPv4 packets to and from sproxy's port."""
    port = SPROXY_PORT.to_bytes(2, "big")
    return [packet for packet in packets if packet[12:14] == b"\x08\x00" and port in (packet[34:36], packet[36:38])]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tcp", "datagram"])
def test_an_idle_session_is_quiet(pair, kind):
    """Goal: a heartbeat, its echo and an ack each interval, whatever carries them, instead of ten a second; an
    application is answered at once, and the quick heartbeats are back."""
    pair.echo()
    pair.start_sproxy("--heartbeat", "100ms")
    pair.start_cproxy("--carrier", kind, "--heartbeat", "100ms", "--idle-heartbeat", f"{INTERVAL_S}s")
    app = pair.app()
    app.sendall(b"before")
    assert read_exactly(app, 6) == b"before"
    outage(2)  # ten heartbeats, and the one with which rest begins
    capture = Capture(pair.lab.client, "wifi")
    outage(LOOK_S)
    capture.end()
    quiet = to_sproxy(capture.packets)
    assert 3 <= len(quiet) <= 6 * (LOOK_S / INTERVAL_S + 1), len(quiet)
    capture = Capture(pair.lab.client, "wifi")
    app.sendall(b"after")
    assert read_exactly(app, 5) == b"after"
    outage(0.8)
    capture.end()
    assert len(to_sproxy(capture.packets)) >= 20
    for proxy in (pair.cproxy, pair.sproxy):
        assert not proxy.events("lost") and len(proxy.events("connected")) == 1
