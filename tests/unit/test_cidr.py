"""Networks: the binary search against ipaddress, and IPv4 addresses mapped into IPv6."""

import ipaddress
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mproxy.relay._cidr import merged
from tests.drivers._relay import DrivenNetworks

FOUR = st.builds(lambda bits, length: ip_network((bits, length), strict=False),
                 st.integers(0, 2**32 - 1), st.integers(0, 32))
SIX = st.builds(lambda bits, length: ipaddress.IPv6Network((bits, length), strict=False),
                st.integers(0, 2**128 - 1), st.integers(0, 128))


def near(network):
    """Addresses at and just outside the ends of a network."""
    first, last = int(network.network_address), int(network.broadcast_address)
    kind = type(network.network_address)
    candidates = first - 1, first, (first + last) // 2, last, last + 1
    return [kind(n) for n in candidates if 0 <= n < 2**kind(0).max_prefixlen]


def is_mapped(address):
    return address.version == 6 and address.ipv4_mapped is not None


@given(st.lists(FOUR | SIX, max_size=12), st.lists(FOUR | SIX, max_size=3))
def test_same_as_asking_every_network(networks, others):
    networks = [n for n in networks if not (n.version == 6 and n.network_address.ipv4_mapped)]
    chosen = DrivenNetworks(networks)
    for address in [a for n in networks + others for a in near(n) if not is_mapped(a)]:
        assert (str(address) in chosen) == any(address in n for n in networks)


@pytest.mark.parametrize("networks, inside, outside", [
    (["10.0.0.0/8"], ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["9.255.255.255", "11.0.0.0", "::a00:1"]),
    (["::ffff:10.0.0.0/104"], ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0"]),
    (["::/0"], ["::1", "2001:db8::1"], ["10.0.0.1", "::ffff:10.0.0.1"]),
    (["0.0.0.0/0"], ["255.255.255.255", "0.0.0.0"], ["::", "ffff::"]),
    (["2001:db8::/32", "fe80::/10"], ["2001:db8:ffff::", "febf::1"], ["2001:db7::", "fec0::"]),
    ([], [], ["0.0.0.0", "::", "::ffff:1.2.3.4"]),
    (["192.0.2.1/32"], ["192.0.2.1"], ["192.0.2.0", "192.0.2.2"]),
])
def test_named_cases(networks, inside, outside):
    chosen = DrivenNetworks([ip_network(text) for text in networks])
    assert [text for text in inside if text not in chosen] == []
    assert [text for text in outside if text in chosen] == []


def test_neighbours_become_one_range():
    chosen = DrivenNetworks([ip_network(f"10.0.{n}.0/24") for n in range(256)] + [ip_network("10.0.3.7/32")])
    assert len(chosen) == 1 and "10.0.255.255" in chosen and "10.1.0.0" not in chosen


def test_merged():
    assert merged([(5, 6), (1, 2), (3, 3), (9, 9), (5, 5)]) == [(1, 3), (5, 6), (9, 9)]


def test_ten_thousand_networks():
    chosen = DrivenNetworks([ip_network((int(ip_address("10.0.0.0")) + 2 * n * 256, 24)) for n in range(10_000)])
    assert len(chosen) == 10_000
    assert "10.0.2.9" in chosen and "10.0.3.9" not in chosen
