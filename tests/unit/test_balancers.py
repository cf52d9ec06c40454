"""What a balancer says in front of a client: taken apart wherever it is cut, and refused when it is something else."""

import ipaddress

import pytest

from mproxy.ground.errors import PeerError, UsageError
from mproxy.ground.words import parse_network
from mproxy.programs.balancers import BalancerHeader, Balancers
from mproxy.programs.sproxy_options import parse_sproxy
from mproxy.relay._proxy_header import make_header

CLIENT, BALANCER = ("203.0.113.7", 4711), ("10.0.0.1", 6200)
SIX = ("2001:db8::7", 4711), ("2001:db8::1", 6200)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


@pytest.mark.parametrize("header, client", [
    (make_header(1, (CLIENT, BALANCER)), CLIENT), (make_header(2, (CLIENT, BALANCER)), CLIENT),
    (make_header(2, SIX), SIX[0]), (make_header(1, None), None), (LOCAL, None),
    (make_header(2, (("::ffff:203.0.113.7", 4711), SIX[1])), CLIENT)])
def test_the_client_is_found_wherever_the_header_is_cut(header, client):
    for behind in (b"", b"PROXY and more"):
        for cut in range(1, len(header)):
            taken = BalancerHeader()
            assert taken.feed(header[:cut]) is None
            assert taken.feed(header[cut:] + behind) == (client, behind)


@pytest.mark.parametrize("words", [
    b"\xab\x6d\x70\x78\x02", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY TCP4 nobody nowhere 1 2\r\n", b"PROXY " + b"x" * 200,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd"])
def test_what_is_no_header_is_refused(words):
    with pytest.raises(PeerError, match="--accept-proxy"):
        BalancerHeader().feed(words)


def test_only_addresses_of_the_networks_are_balancers():
    balancers = Balancers([ipaddress.ip_network("10.0.0.0/30"), ipaddress.ip_network("fd00::1")], routed=True)
    assert [balancers.have(host) for host in ("10.0.0.3", "::ffff:10.0.0.1", "fd00::1", "10.0.0.4", "fd00::2",
                                              "fe80::1%eth0")] == [True, True, True, False, False, False]


@pytest.mark.parametrize("text", ["", "10.0.0.1/24", "10.0.0.0/33", "balancer", "10.0.0.0/24,10.0.1.0/24"])
def test_networks_that_are_none(text):
    with pytest.raises(UsageError, match="not an address or network"):
        parse_network(text)


def test_routed_needs_balancers():
    with pytest.raises(UsageError, match="--routed is for use with --accept-proxy"):
        parse_sproxy(["--routed", "6200"])
    with pytest.raises(UsageError, match="--plain and --accept-proxy"):
        parse_sproxy(["--plain", "--accept-proxy", "10.0.0.1", "6200"])
    found = parse_sproxy(["--routed", "--accept-proxy", "10.0.0.1", "--accept-proxy", "fd00::/64", "6200"])
    assert found.routed and [str(each) for each in found.accept_proxy] == ["10.0.0.1/32", "fd00::/64"]
