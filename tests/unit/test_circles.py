"""Relay rules that lead back to the relay itself."""

import ipaddress
import socket

import pytest

from mproxy.relay.circles import find_circles, has_clients, is_own_address
from mproxy.relay.rule_file import parse_rules

OWN = {"10.0.0.2", "fd00::2", "fe80::2%lo"}
NAMES = {"me.test": ["10.9.9.9", "10.0.0.2"], "other.test": ["10.9.9.9"]}


def circles(*lines):
    """{(listening port, address of a target)} of the steps found."""
    rules = parse_rules("\n".join(lines))
    found = find_circles(rules, lambda host: NAMES.get(host, [host] if host[0].isdigit() or ":" in host else []),
                         OWN.__contains__)
    return {(step.rule.listen_port, step.address) for step in found}


@pytest.mark.parametrize("lines, expected", [
    # Itself: by an own address, by a name with one, IPv6, a listener of one address.
    (["7000 -> 10.0.0.2:7000"], {(7000, "10.0.0.2")}),
    (["7000 -> me.test:7000"], {(7000, "10.0.0.2")}),
    (["7000 -> [fd00::2]:7000"], {(7000, "fd00::2")}),
    (["7000 -> [fe80::2%lo]:7000"], {(7000, "fe80::2%lo")}),
    (["7000 -> 10.9.9.9:1, 10.0.0.2:7000"], {(7000, "10.0.0.2")}),
    (["udp 7000 -> 10.0.0.2:7000"], {(7000, "10.0.0.2")}),
    # Each other, and three in a row.
    (["7000 -> 127.0.0.1:7001", "7001 -> 127.0.0.1:7000"], {(7000, "127.0.0.1"), (7001, "127.0.0.1")}),
    (["udp 7000 -> 127.0.0.1:7001", "udp 10.0.0.2:7001 -> 0.0.0.0:7000"], set()),
    (["udp 7000 -> 10.0.0.2:7001", "udp 10.0.0.2:7001 -> 0.0.0.0:7000"], {(7000, "10.0.0.2"), (7001, "0.0.0.0")}),
    (["1 -> 127.0.0.1:2", "2 -> me.test:3", "3 -> 10.0.0.2:1"],
     {(1, "127.0.0.1"), (2, "10.0.0.2"), (3, "10.0.0.2")}),
    # No circle: a chain, another protocol, another family, another address, another host.
    (["7000 -> 10.0.0.2:7001", "7001 -> 10.9.9.9:7002"], set()),
    (["7100-7103 -> 10.0.0.2:7101-7104"], set()),
    (["7000 -> 10.0.0.2:7001", "udp 7001 -> 10.0.0.2:7000"], set()),
    (["0.0.0.0:7000 -> [fd00::2]:7000"], set()),
    (["127.0.0.1:7000 -> 10.0.0.2:7000"], set()),
    (["7000 -> other.test:7000"], set()),
    # Who leads into a circle is not part of it.
    (["6000 -> 127.0.0.1:7000", "7000 -> 10.0.0.2:7000"], {(7000, "10.0.0.2")}),
])
def test_circles(lines, expected):
    assert circles(*lines) == expected


def test_own_address():
    assert is_own_address("127.0.0.1") and is_own_address("127.9.9.9")
    assert not is_own_address("192.0.2.1") and not is_own_address("2001:db8::1")


@pytest.mark.parametrize("host, form", [
    ("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1"), ("127.0.0.1", "::ffff:127.0.0.2")])
def test_clients_of_this_host_are_found(host, form):
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        place = server.getsockname()[:2]
        with socket.create_connection(place) as client:
            port = client.getsockname()[1]
            there = ipaddress.ip_address(form).packed
            assert has_clients([(port, there, place[1])]) == (form != "::ffff:127.0.0.2")
            assert not has_clients([(port, there, 1), (1, there, place[1])])
