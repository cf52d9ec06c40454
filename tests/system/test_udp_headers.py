"""mproxy relay: the PROXY protocol over UDP, in every datagram, in both directions."""

import pytest
from lab import until
from relays import RELAY, RELAY6, SERVER, udp_socket
from tests.drivers._relay import parse_datagram_header

from mproxy.relay._proxy_header import make_header


@pytest.fixture
def server(lab):
    with udp_socket(lab.server, SERVER) as sock:
        sock.bind((SERVER, 8006))
        yield sock


def take(server):
    """(origin, payload, sender) of a datagram with a header."""
    data, address = server.recvfrom(65535)
    length, origin = parse_datagram_header(data)
    return origin, data[length:], address


@pytest.mark.parametrize("address", [RELAY, RELAY6])
def test_every_datagram_says_who_the_client_is(lab, relay, server, address):
    """Goal: the first and all others, large and empty ones, those that come together; answers have no header."""
    relay.start(f"udp 7005 -> {SERVER}:8006 proxy=v2")
    with udp_socket(lab.client, address) as client:
        client.connect((address, 7005))
        sent = [b"first", b"", b"x" * 1400, *(b"%d" % n * 200 for n in range(100))]
        for payload in sent:
            client.send(payload)
        found = [take(server) for _ in sent]
        assert [payload for _, payload, _ in found] == sent
        assert {origin for origin, _, _ in found} == {(client.getsockname()[:2], (address, 7005))}
        server.sendto(b"answer", found[0][2])
        assert client.recv(100) == b"answer"
    counters = relay.status()["rules"][0]["counters"]
    assert (counters["packets_in"], counters["bytes_in"]) == (len(sent), sum(map(len, sent)))


def headed(host, payload, port=4000):
    return make_header(2, ((host, port), ("192.0.2.1", 53)), datagram=True) + payload


def test_headers_are_accepted_and_passed_on(lab, relay, server):
    """Goal: each client that a header names has a flow of its own, though all come from one socket; answers go back to
    that socket; the next one gets the same header."""
    relay.start(f"udp 7005 -> {SERVER}:8006 accept-proxy proxy=v2 deny=192.0.2.66")
    with udp_socket(lab.client, RELAY) as balancer:
        balancer.connect((RELAY, 7005))
        balancer.send(headed("192.0.2.66", b"denied"))
        balancer.send(b"without")
        balancer.send(headed("192.0.2.7", b"no family")[:20])
        balancer.send(headed("192.0.2.7", b"one"))
        balancer.send(headed("192.0.2.8", b"other"))
        one, other = take(server), take(server)
        assert one[:2] == ((("192.0.2.7", 4000), ("192.0.2.1", 53)), b"one")
        assert other[:2] == ((("192.0.2.8", 4000), ("192.0.2.1", 53)), b"other")
        assert one[2] != other[2]
        server.sendto(b"answer", other[2])
        assert balancer.recv(100) == b"answer"
        balancer.send(headed("192.0.2.7", b"again"))
        assert take(server)[2] == one[2]
    until(lambda: relay.status()["rules"][0]["counters"]["refused"] == 3, 5, "three were turned away")


def test_only_who_is_allowed_may_send_headers(lab, relay, server):
    """Goal: a stranger cannot speak for a client of somebody else, not even in a flow that there is."""
    relay.start(f"udp 7005 -> {SERVER}:8006 accept-proxy allow=127.0.0.0/8")
    with udp_socket(lab.router, RELAY) as good, udp_socket(lab.client, RELAY) as stranger:
        good.sendto(headed("192.0.2.7", b"good"), ("127.0.0.1", 7005))
        assert server.recv(100) == b"good"
        stranger.sendto(headed("192.0.2.7", b"bad"), (RELAY, 7005))
        good.sendto(headed("192.0.2.7", b"good again"), ("127.0.0.1", 7005))
        assert server.recv(100) == b"good again"


def test_a_local_header_is_the_senders_own(lab, relay, server):
    relay.start(f"udp 7005 -> {SERVER}:8006 accept-proxy proxy=v2")
    header = make_header(2, None, datagram=True)
    with udp_socket(lab.client, RELAY) as balancer:
        balancer.connect((RELAY, 7005))
        balancer.send(header[:12] + b"\x20" + header[13:] + b"probe")
        origin, payload, _ = take(server)
        assert payload == b"probe" and origin == (balancer.getsockname()[:2], (RELAY, 7005))


def test_a_reload_turns_headers_on_and_off(lab, relay, server):
    """Goal: new flows follow the rule."""
    relay.start(f"udp 7005 -> {SERVER}:8006")
    for option, data in (("accept-proxy", headed("192.0.2.7", b"payload")), ("", b"payload")):
        relay.reload(f"udp 7005 -> {SERVER}:8006 {option}")
        with udp_socket(lab.client, RELAY) as client:
            client.sendto(data, (RELAY, 7005))
            assert server.recv(100) == b"payload"
