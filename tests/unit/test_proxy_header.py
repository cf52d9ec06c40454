"""PROXY protocol headers: what we write, what we accept, and what we refuse."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.drivers._relay import parse_header

from mproxy.relay._proxy_header import make_header

FOUR = (("192.0.2.7", 40_000), ("203.0.113.9", 443))
SIX = (("2001:db8::7", 1), ("ff02::1:2", 65_535))
LONGEST = (("1111:2222:3333:4444:5555:6666:7777:8888", 11_111), ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65_535))
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2_FOUR = SIGNATURE + b"\x21\x11\0\x0c\xc0\0\2\7\xcb\0\x71\x09\x9c\x40\x01\xbb"


@pytest.mark.parametrize("version, origin, header", [
    (1, FOUR, b"PROXY TCP4 192.0.2.7 203.0.113.9 40000 443\r\n"),
    (1, SIX, b"PROXY TCP6 2001:db8::7 ff02::1:2 1 65535\r\n"),
    (1, None, b"PROXY UNKNOWN\r\n"),
    (2, FOUR, V2_FOUR),
    (2, None, SIGNATURE + b"\x21\0\0\0"),
])
def test_bytes_of_the_specification(version, origin, header):
    assert make_header(version, origin) == header
    assert parse_header(header) == (len(header), origin)
    assert parse_header(header + b"PROXY and the rest") == (len(header), origin)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("origin", [FOUR, SIX, LONGEST, None])
def test_byte_by_byte(version, origin):
    header = make_header(version, origin)
    assert len(header) <= 107
    for n in range(len(header)):
        assert parse_header(header[:n]) == (0, None)
    assert parse_header(header) == (len(header), origin)


@given(st.sampled_from([1, 2]), st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) |
       st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)), st.integers(0, 65535), st.integers(0, 65535))
def test_there_and_back(version, addresses, source_port, destination_port):
    origin = (str(addresses[0]), source_port), (str(addresses[1]), destination_port)
    assume(not any(address.version == 6 and address.ipv4_mapped for address in addresses))  # these count as IPv4
    header = make_header(version, origin)
    assert parse_header(header) == (len(header), origin)


@pytest.mark.parametrize("header", [
    SIGNATURE + b"\x20\0\0\0",                       # LOCAL
    SIGNATURE + b"\x20\x11\0\x0c" + bytes(12),       # LOCAL with addresses: not to be used
    SIGNATURE + b"\x21\x31\0\xd8" + bytes(216),      # unix sockets
    SIGNATURE + b"\x21\x12\0\x0c" + bytes(12),       # UDP
    SIGNATURE + b"\x20\0\0\7\4\0\4rest",             # LOCAL with an extension
    b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n",
])
def test_headers_without_an_origin(header):
    assert parse_header(header + b"x") == (len(header), None)


def test_extensions_are_skipped():
    header = V2_FOUR[:14] + (12 + 300).to_bytes(2, "big") + V2_FOUR[16:] + bytes(300)
    assert parse_header(header[:-1]) == (0, None)
    assert parse_header(header + b"GET") == (len(header), FOUR)


@pytest.mark.parametrize("garbage", [
    b"G", b"GET / HTTP/1.0\r\n\r\n", b"PROXYTCP4", b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n", b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n", b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 000001 2\r\n",
    b"PROXY \r\n", b"PROXY UNKNOWNS\r\n",
    b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n", b"PROXY UNKNOWN " + b"x" * 93, b"\n", b"\r\n\r\n\0\r\nQUIX",
    SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),       # version 1 in a header of version 2
    SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),       # no such command
    SIGNATURE + b"\x21\x41\0\x0c" + bytes(12),       # no such family
    SIGNATURE + b"\x21\x13\0\x0c" + bytes(12),       # no such protocol
    SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),       # too short for its addresses
    SIGNATURE + b"\x21\x21\0\x23" + bytes(35),
    SIGNATURE + b"\x21\x11\xff\xff",                 # longer than we hold
])
def test_garbage(garbage):
    assert parse_header(garbage) is None


@given(st.binary(max_size=300) | st.binary(max_size=120).map(lambda rest: SIGNATURE + rest)
       | st.binary(max_size=120).map(lambda rest: b"PROXY TCP4 " + rest))
def test_no_bytes_do_harm(data):
    """An input that may still be right has a length, or asks for a bounded number of further bytes."""
    found = parse_header(data)
    assert found is None or found[0] <= len(data)
    if found == (0, None):
        assert data.startswith(SIGNATURE[:len(data)]) or data.startswith(b"PROXY "[:len(data)])
