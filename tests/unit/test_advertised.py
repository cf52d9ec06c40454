"""The address that WELCOME may tell: what is read of it, and that a carrier over UDP goes there."""

import pytest

from mproxy import _wire
from mproxy._frames import FrameParser, encode_frame
from mproxy.ground.errors import PeerError, UsageError
from mproxy.handshake import NO_SECRET, Hello, Welcome
from mproxy.programs.introduction import advertised
from mproxy.programs.sproxy_options import parse_sproxy

ID, NONCE, SECRET = b"i" * 16, b"n" * 16, b"s" * 32


def welcome(address=b""):
    return Welcome(ID, NO_SECRET, NONCE, 1, 64 << 20, 4 << 20, 0, 7, 9, address)


@pytest.mark.parametrize("address, spot", [
    (b"", None), (b"198.51.100.21:6200", ("198.51.100.21", 6200)), (b"[2001:db8::1]:6200", ("2001:db8::1", 6200)),
    (b"node1.example.com:6200", ("node1.example.com", 6200)), (b"\xff\xfe", None), (b"nowhere", None), (b"a:0", None),
    (b"a b:1", None), (b":" * 300, None)])
def test_what_is_said_is_read_or_passed_over(address, spot):
    """Goal: an address arrives as it was sent, and rubbish costs nothing but itself; the fields before it are whole."""
    said = Welcome.decode(welcome(address).payload())
    assert (said.address, said.site, said.routing_tag) == (address, 9, 7)
    assert advertised(said) == spot


def test_the_proof_covers_the_address():
    hello = Hello(ID, ID, NONCE, 1, 64 << 20, 4 << 20)
    said = welcome(b"198.51.100.21:6200")
    said.prove(SECRET, b"", hello, b"list")
    assert Welcome.decode(said.payload()).proves(SECRET, b"", hello)
    other = said.payload().replace(b".21:", b".22:")
    assert not Welcome.decode(other).proves(SECRET, b"", hello)


@pytest.mark.parametrize("more, fits", [(0, True), (300, True), (301, False), (-1, False)])
def test_a_welcome_has_no_more_than_an_address(more, fits):
    payload = bytes(_wire.WELCOME_BYTES + more)
    frame = encode_frame(_wire.FrameType.WELCOME, payload=payload) if fits else (
        encode_frame(_wire.FrameType.WELCOME, payload=bytes(_wire.WELCOME_BYTES))[:8]
        + len(payload).to_bytes(4) + bytes(16) + payload)
    if fits:
        assert [len(each[5]) for each in FrameParser().feed(frame, limit=1)] == [len(payload)]
    else:
        with pytest.raises(PeerError, match="length"):
            list(FrameParser().feed(frame, limit=1))


@pytest.mark.parametrize("text, spot", [
    ("198.51.100.21", ("198.51.100.21", 0)), ("198.51.100.21:443", ("198.51.100.21", 443)),
    ("node1.example.com", ("node1.example.com", 0)), ("2001:db8::1", ("2001:db8::1", 0)),
    ("[2001:db8::1]", ("2001:db8::1", 0)), ("[2001:db8::1]:443", ("2001:db8::1", 443))])
def test_addresses_to_advertise(text, spot):
    assert parse_sproxy(["--advertise", text, "6200"]).advertise == spot


def test_behind_balancers_an_advertised_address_brings_udp():
    balancer = ["--accept-proxy", "10.77.0.11"]
    assert not parse_sproxy([*balancer, "6200"]).may_take_udp
    assert parse_sproxy([*balancer, "--advertise", "198.51.100.21", "6200"]).may_take_udp


@pytest.mark.parametrize("words, why", [
    (["--udp", "--advertise", "", "6200"], "--advertise"), (["--udp", "--advertise", "a b", "6200"], "--advertise"),
    (["--udp", "--advertise", "host:70000", "6200"], "not a valid port"),
    (["--no-udp", "--advertise", "host", "6200"], "--advertise and --no-udp")])
def test_addresses_that_are_none(words, why):
    with pytest.raises(UsageError, match=why):
        parse_sproxy(words)
