"""Who is who on a link of packets: both sides' keys by Noise, and a session's HELLO that belongs to one link alone."""

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from mproxy.ground.key_formats import SPKI_PREFIX
from mproxy.policy.certificates import MOST_BYTES
from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair
from tests import keys
from tests.unit.test_handshake import SECRET, Client, Server, make_hello, make_welcome


class Wire:
    """A Link as its Keying sees it: what it sends goes to the other one."""

    def __init__(self, prologue=b"ids and options"):
        self.prologue = prologue
        self.said, self.keys = [], None

    def send_handshake(self, data):
        self.said.append(data)

    def secure(self, *keys):
        self.keys = keys


def judge_nothing(_spki, _link):
    pass


class OldKeying(Keying):
    """One of builds that know no certificates: a key, and nothing else, is what it says and hears."""

    def _identity(self, handshake):
        return self._key.public if handshake.shows_static else b""

    def _heard(self, payload, handshake, link):
        assert not handshake.remote_static or len(payload) == 32
        super()._heard(payload if handshake.remote_static else b"", handshake, link)


def agree(client=1, server=2, purposes=(SESSION_PURPOSE, SESSION_PURPOSE), judge=judge_nothing,
          certificates=(b"", b""), kinds=(Keying, Keying)):
    """(client's, server's) Keying after the handshake."""
    wires = Wire(), Wire()
    ends = (kinds[0](KeyPair(keys.pem(client), "client"), True, judge, purposes[0]),
            kinds[1](KeyPair(keys.pem(server), "server"), False, judge_nothing, purposes[1]))
    for end, certificate in zip(ends, certificates, strict=True):
        end._key.certificate = certificate
    ends[0].take(wires[0], b"")
    for turn in range(3):
        ends[1 - turn % 2].take(wires[1 - turn % 2], wires[turn % 2].said.pop())
    assert wires[0].keys[:2] == wires[1].keys[1::-1]
    return ends


def link_keys(**more):
    return tuple(end.link_keys for end in agree(**more))


def test_each_knows_the_others_key():
    client, server = link_keys()
    assert client.peer_spki() == SPKI_PREFIX + KeyPair(keys.pem(2), "server").public
    assert server.peer_spki() == SPKI_PREFIX + KeyPair(keys.pem(1), "client").public


def test_what_is_derived_is_of_one_link_and_purpose():
    client, server = link_keys()
    other, _server = link_keys()
    secret = client.exporter(b"label", b"context", 32)
    assert secret == server.exporter(b"label", b"context", 32)
    for differs in (client.exporter(b"other", b"context", 32), client.exporter(b"label", b"others", 32),
                    client.exporter(b"labelc", b"ontext", 32), other.exporter(b"label", b"context", 32)):
        assert differs != secret


def test_a_client_shows_nothing_to_the_wrong_server():
    """Goal: the server's key is judged before the client's own is sent."""
    def judge(_spki, _link):
        raise PeerError(CloseCode.KEY_REFUSED, "not in known_hosts")
    wires = Wire(), Wire()
    client = Keying(KeyPair(keys.pem(1), "client"), True, judge, SESSION_PURPOSE)
    server = Keying(KeyPair(keys.pem(2), "server"), False, judge_nothing, SESSION_PURPOSE)
    client.take(wires[0], b"")
    server.take(wires[1], wires[0].said.pop())
    with pytest.raises(PeerError, match="known_hosts"):
        client.take(wires[0], wires[1].said.pop())
    assert not wires[0].said and wires[0].keys is None


def test_certificates_go_with_the_keys():
    """Goal: the longest fits a handshake message (docs/datagram.md) on its way in either direction."""
    longest = bytes(range(200)) * 4
    assert len(longest) == MOST_BYTES
    client, server = link_keys(certificates=(longest, longest[::-1]))
    assert (client.peer_certificate(), server.peer_certificate()) == (longest[::-1], longest)
    client, server = link_keys(certificates=(b"", b"host"))
    assert (client.peer_certificate(), server.peer_certificate()) == (b"host", b"")
    wires = Wire(), Wire()
    pair = KeyPair(keys.pem(1), "both")
    pair.certificate = longest
    one = Keying(pair, True, judge_nothing, SESSION_PURPOSE)
    other = Keying(pair, False, judge_nothing, SESSION_PURPOSE)
    one.take(wires[0], b"")
    for turn in range(3):
        said = wires[turn % 2].said.pop()
        assert len(said) <= 1024
        (other, one)[turn % 2].take(wires[1 - turn % 2], said)


@pytest.mark.parametrize("purpose", [SESSION_PURPOSE, b""], ids=["session", "files"])
@pytest.mark.parametrize("kinds", [(OldKeying, Keying), (Keying, OldKeying), (OldKeying, OldKeying)])
def test_sides_of_before_certificates_agree_as_ever(kinds, purpose):
    client, server = link_keys(certificates=(b"client's", b"host's"), kinds=kinds, purposes=(purpose, purpose))
    assert client.peer_spki() == SPKI_PREFIX + KeyPair(keys.pem(2), "server").public
    assert client.peer_certificate() == server.peer_certificate() == b""


@pytest.mark.parametrize("payload", [b"", b"k" * 31, b"k" * 33, b"k" * 32 + b"\2cert"])
def test_what_is_neither_a_key_nor_one_with_a_certificate_is_refused(payload):
    class Odd(Keying):
        def _identity(self, handshake):
            return payload.replace(b"k" * 32, self._key.public) if handshake.shows_static else b""
    with pytest.raises(PeerError, match="did not prove"):
        agree(kinds=(Odd, Keying))


def test_a_link_for_files_is_none_for_sessions():
    with pytest.raises(PeerError, match="keys do not agree"):
        agree(purposes=(b"", SESSION_PURPOSE))


# ---- HELLO and WELCOME on it

def test_hello_goes_with_the_first_words():
    """Goal: no round trip for preambles, which are sealed anyway."""
    ours, theirs = link_keys()
    client, server = Client(tls=ours), Server(tls=theirs)
    hello = server.greeter.feed(client.said())
    assert hello.payload() == client.caller.hello.payload()
    assert server.judged == [ours_spki()], "as with TLS, before HELLO is read"
    welcome = make_welcome()
    welcome.prove(SECRET, server.greeter.channel(), hello, b"")
    assert client.caller.feed(server.said() + welcome.encode()).epoch == 5


def ours_spki():
    return SPKI_PREFIX + KeyPair(keys.pem(1), "client").public


def test_a_fresh_secret_is_never_sent():
    ours, theirs = link_keys()
    client = Client(make_hello(session_id=b""), b"", b"", tls=ours)
    server = Server(tls=theirs)
    assert server.greeter.feed(client.said()) is not None
    welcome = make_welcome()
    assert client.caller.feed(server.said() + welcome.encode()).secret == server.greeter.fresh_secret(b"s" * 16)


def test_a_hello_of_another_link_proves_nothing():
    """Goal: whoever has been shown a HELLO cannot say it on a link of his own."""
    ours, _theirs = link_keys()
    _mine, theirs = link_keys(client=3)
    client, server = Client(tls=ours), Server(tls=theirs)
    with pytest.raises(PeerError, match="wrong proof"):
        server.greeter.feed(client.said())


def test_a_welcome_of_another_link_proves_nothing():
    ours, theirs = link_keys()
    _others, foreign = link_keys()
    client, server = Client(tls=ours), Server(tls=theirs)
    hello = server.greeter.feed(client.said())
    welcome = make_welcome()
    welcome.prove(SECRET, Server(tls=foreign).greeter.channel(), hello, b"")
    with pytest.raises(PeerError, match="did not prove"):
        client.caller.feed(server.said() + welcome.encode())


def test_a_refusal_can_be_read():
    ours, theirs = link_keys()
    client, server = Client(tls=ours), Server(tls=theirs)
    server.greeter.feed(client.said())
    with pytest.raises(PeerError, match="no such session"):
        client.caller.feed(server.greeter.farewell(PeerError(CloseCode.UNKNOWN_SESSION, "no such session")))
    assert client.caller.refused
