"""How a carrier begins, what a resume has to prove, and which peers are refused, with TLS and without."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy import _wire
from mproxy._frames import encode_frame
from mproxy._wire import CloseCode, FrameFlag, FrameType
from mproxy.ground.errors import PeerError
from mproxy.handshake import NO_SECRET, Caller, Greeter, Hello, Welcome, encode_preamble
from tests import keys

SESSION, SECRET, INSTANCE, NONCE = b"s" * 16, b"k" * 32, b"i" * 16, b"n" * 16
LIST = encode_frame(FrameType.RESUME, stream=7, seq=70, ack=60) + encode_frame(FrameType.RESUME, flags=FrameFlag.END)


def make_hello(**values):
    """A HELLO that resumes SESSION, or with a changed value."""
    return Hello(**{"session_id": SESSION, "instance_id": INSTANCE, "nonce": NONCE, "epoch": 5,
                    "budget_bytes": 1 << 26, "window_bytes": 1 << 22, **values})


def make_welcome(**values):
    """The WELCOME for `make_hello`, or with a changed value."""
    return Welcome(**{"session_id": SESSION, "secret": NO_SECRET, "nonce": b"N" * 16, "epoch": 5,
                      "budget_bytes": 1 << 26, "window_bytes": 1 << 22, "routing_tag": 99, **values})


class Client:
    """A Caller and what happened to it."""

    def __init__(self, hello=None, resume_list=LIST, secret=SECRET, tls=None, judge=None, **more):
        self.judged = []
        self.caller = Caller(
            lambda: (hello or make_hello(), resume_list, secret), tls, judge or self.judged.append, **more)

    def said(self):
        """Take what is to be sent."""
        words, self.caller.outgoing = self.caller.outgoing, b""
        return words


class Server:
    """A Greeter that knows one session, and what happened to it."""

    def __init__(self, tls=None, judge=None, secret=SECRET):
        self.secret = secret
        self.judged = []
        self.checked = []
        self.greeter = Greeter(self.check, tls, judge or self.judged.append)

    def check(self, hello, channel):
        self.checked.append(hello)
        if hello.session_id and not hello.proves(self.secret, channel):
            raise PeerError(CloseCode.BAD_PROOF, "wrong proof")

    def said(self):
        """Take what is to be sent."""
        words, self.greeter.outgoing = self.greeter.outgoing, b""
        return words

    def welcome(self, hello, resume_list=LIST, secret=None, **values):
        """WELCOME and list as they go to the client."""
        welcome = make_welcome(**{"epoch": hello.epoch, **values})
        if hello.session_id:
            welcome.prove(secret or self.secret, self.greeter.channel(), hello, resume_list)
        words = self.greeter.prefix + welcome.encode() + resume_list
        return words if self.greeter.tls is None else self.greeter.tls.seal(words)


def fed(opening, data, size=None):
    """Feed `data` in pieces of `size`; the first thing that comes out."""
    result = None
    for at in range(0, len(data), size or len(data) or 1):
        result = opening.feed(data[at:at + (size or len(data))])
        if result is not None:
            return result
    return result


def refusal(opening, data, size=None):
    """The PeerError that `data` gives."""
    with pytest.raises(PeerError) as caught:
        fed(opening, data, size)
    return caught.value


def greet(client, server, size=None):
    """Everything up to the server's decision: its Hello."""
    hello = fed(server.greeter, client.said(), size)
    if server.greeter.tls is None:
        return hello
    assert hello is None
    assert fed(client.caller, server.said(), size) is None
    return fed(server.greeter, client.said(), size)


@pytest.fixture(params=["tls", "plaintext"])
def ends(request):
    """Makes (client, server), both with TLS or both without."""
    def make(client=None, server=None):
        encrypted = request.param == "tls"
        return (Client(tls=keys.client() if encrypted else None, **(client or {})),
                Server(tls=keys.server() if encrypted else None, **(server or {})))
    return make


# ---- both ways

@pytest.mark.parametrize("size", [None, 1, 16, 17, 44])
def test_a_resume(ends, size):
    client, server = ends()
    hello = greet(client, server, size)
    assert (hello.session_id, hello.instance_id, hello.nonce, hello.epoch) == (SESSION, INSTANCE, NONCE, 5)
    assert (hello.budget_bytes, hello.window_bytes) == (1 << 26, 1 << 22)
    assert server.greeter.leftover == LIST
    welcome = fed(client.caller, server.welcome(hello), size)
    assert (welcome.session_id, welcome.epoch, welcome.routing_tag) == (SESSION, 5, 99)
    assert client.caller.leftover == LIST


# ---- a handshake that begins in one process and ends in another

def moved(server, where):
    """Have the server's connection in a Server that has no part in it yet; returns what `take_over` does."""
    tls = keys.server() if server.greeter.tls is not None else None
    other = Server(tls=tls)
    about, secret = server.greeter.hand_over(server.checked[-1], b"f" * 16)
    where.append(other)
    return other.greeter.take_over(about, secret)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("times", [1, 3])
def test_another_process_goes_on_behind_hello(ends, new, times):
    client, server = ends({"hello": make_hello(session_id=b"")} if new else None)
    greet(client, server)
    where = [server]
    for _ in range(times):
        hello = moved(where[-1], where)
    last = where[-1]
    assert hello.payload() == server.checked[0].payload()
    assert last.greeter.leftover == LIST and last.greeter.peer_tag == server.greeter.peer_tag
    values = {}
    if new:
        values["session_id"] = last.greeter.fresh_id or SESSION
        secret = last.greeter.fresh_secret(last.greeter.fresh_id) if last.greeter.tls is not None else NO_SECRET
    welcome = fed(client.caller, last.welcome(hello, **values) + b"")
    assert not new or welcome.secret == secret
    assert client.caller.leftover == LIST


def test_another_process_gets_the_rest_of_the_list(ends):
    """The list may come in pieces, and a record of TLS, too."""
    for size in range(1, 40, 7):
        client, server = ends()
        if server.greeter.tls is not None:
            fed(server.greeter, client.said())
            fed(client.caller, server.said())
        words = client.said()
        for at in range(len(words)):
            if server.checked:
                break
            server.greeter.feed(words[at:at + 1])
        else:
            at = len(words)
        where = []
        hello = moved(server, where)
        hello = hello or fed(where[0].greeter, words[at:], size)
        assert hello.session_id == SESSION and where[0].greeter.leftover == LIST
        assert fed(client.caller, where[0].welcome(hello)).session_id == SESSION


def test_another_process_checks_the_proof_again(ends):
    client, server = ends()
    greet(client, server)
    about, secret = server.greeter.hand_over(server.checked[-1], b"")
    other = Server(tls=keys.server() if server.greeter.tls is not None else None, secret=b"x" * 32)
    with pytest.raises(PeerError) as caught:
        other.greeter.take_over(about, secret)
    assert caught.value.code == CloseCode.BAD_PROOF


def test_whoever_has_handed_over_can_do_nothing_more():
    client, server = Client(tls=keys.client()), Server(tls=keys.server())
    greet(client, server)
    server.greeter.hand_over(server.checked[-1], b"")
    for deed in (lambda: server.greeter.tls.seal(b"x"), lambda: server.greeter.tls.receive(b"x"),
                 lambda: server.greeter.hand_over(server.checked[-1], b"")):
        with pytest.raises(PeerError):
            deed()


def test_a_new_session_without_tls():
    client, server = Client(make_hello(session_id=b"")), Server()
    hello = greet(client, server)
    assert hello.session_id == b"" and hello.list_bytes == 0
    assert fed(client.caller, server.welcome(hello, secret=SECRET) + b"more").secret == NO_SECRET
    assert client.caller.leftover == LIST + b"more"


def test_the_secret_of_a_new_session_is_never_sent_with_tls():
    client, server = Client(make_hello(session_id=b""), tls=keys.client()), Server(tls=keys.server())
    hello = greet(client, server)
    secret = server.greeter.fresh_secret(SESSION)
    assert secret != server.greeter.fresh_secret(b"S" * 16)
    assert fed(client.caller, server.welcome(hello)).secret == secret


def test_hello_leaves_with_the_end_of_the_tls_handshake():
    """One flight: the server's answer to it is WELCOME, and no round trip lies between."""
    client, server = Client(tls=keys.client()), Server(tls=keys.server())
    assert server.greeter.feed(client.said()) is None
    client.caller.feed(server.said())
    assert server.greeter.feed(client.said()) is not None
    assert client.judged == [keys.context(2, True).spki]
    assert server.judged == [keys.context(1, False).spki]


@given(st.binary(max_size=200), st.integers(1, 200), st.booleans())
@settings(deadline=None)
def test_what_follows_is_left_for_the_session(rest, size, is_new):
    client, server = Client(make_hello(session_id=b"" if is_new else SESSION)), Server()
    data = client.said() + rest
    hello = at = None
    for at in range(0, len(data), size):
        hello = server.greeter.feed(data[at:at + size])
        if hello:
            break
    assert hello
    assert server.greeter.leftover + data[at + size:] == LIST + rest


# ---- proof of the client

@pytest.mark.parametrize("changed", [
    {"session_id": b"S" * 16}, {"instance_id": b"I" * 16}, {"nonce": b"M" * 16}, {"epoch": 6}, {"proof": bytes(32)},
    {"budget_bytes": 1 << 25}, {"window_bytes": 1 << 21}, {"list_digest": bytes(32)}, {"list_bytes": 28},
])
def test_the_proof_covers_all_that_a_resume_claims(changed):
    hello = make_hello()
    hello.prove(SECRET, b"c" * 32, LIST)
    assert Hello.decode(hello.payload()).proves(SECRET, b"c" * 32)
    for name, value in changed.items():
        setattr(hello, name, value)
    assert not Hello.decode(hello.payload()).proves(SECRET, b"c" * 32)


def test_the_proof_covers_secret_and_connection():
    hello = make_hello()
    hello.prove(SECRET, b"c" * 32, LIST)
    assert not hello.proves(b"K" * 32, b"c" * 32)
    assert not hello.proves(SECRET, b"C" * 32)


def test_who_has_the_id_but_not_the_secret_is_refused(ends):
    """Nothing of that caller's list is kept."""
    client, server = ends(client={"secret": b"guess" * 6})
    with pytest.raises(PeerError) as caught:
        greet(client, server)
    assert caught.value.code == CloseCode.BAD_PROOF
    assert server.greeter.leftover == b""


def test_a_proof_is_worth_nothing_on_another_connection():
    """Whoever terminates TLS in the middle and passes the bytes on has two connections, with two channel bindings."""
    client, middle = Client(tls=keys.client()), Server(tls=keys.server(3))
    middle.check = None
    middle.greeter = Greeter(lambda hello, channel: None, keys.server(3), lambda spki: None)
    stolen = greet(client, middle)
    assert stolen.session_id == SESSION
    server = Server(tls=keys.server())
    thief = Client(hello=stolen, tls=keys.client(3))
    thief.caller.hello = stolen
    stolen.prove = lambda *_arguments: None  # he cannot make one; he repeats what he heard
    with pytest.raises(PeerError) as caught:
        greet(thief, server)
    assert caught.value.code == CloseCode.BAD_PROOF


def test_a_recorded_handshake_is_worth_nothing():
    """The client's bytes are sent to the same server a second time."""
    client, server = Client(tls=keys.client()), Server(tls=keys.server())
    first = client.said()
    server.greeter.feed(first)
    client.caller.feed(server.said())
    second = client.said()
    assert server.greeter.feed(second) is not None
    again = Server(tls=keys.server())
    assert again.greeter.feed(first) is None
    with pytest.raises(PeerError) as caught:
        again.greeter.feed(second)
    assert caught.value.code == CloseCode.ENCRYPTION
    assert not again.checked and not again.judged


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-1] + b"\1", lambda data: data[:-28] + data[:28], lambda data: bytes(len(data))])
def test_a_list_that_was_not_proven_is_refused(spoil):
    """The proof covers the offsets."""
    client, server = Client(), Server()
    words = client.said()
    error = refusal(server.greeter, words[:-len(LIST)] + spoil(LIST))
    assert error.code == CloseCode.BAD_PROOF and "list" in str(error)


def test_hello_waits_for_its_list():
    client, server = Client(), Server()
    words = client.said()
    assert fed(server.greeter, words[:-1], 5) is None
    assert server.checked and server.greeter.proven
    assert server.greeter.feed(words[-1:]) is not None


# ---- proof of the server

def test_a_server_without_the_secret_is_not_believed(ends):
    client, server = ends()
    hello = greet(client, server)
    error = refusal(client.caller, server.welcome(hello, secret=b"guess" * 6))
    assert error.code == CloseCode.BAD_PROOF and not client.caller.refused


def test_a_client_does_not_believe_its_own_proof(ends):
    """Reflection: the client's own proof, sent back, does not prove the server."""
    client, server = ends()
    hello = greet(client, server)
    welcome = make_welcome()
    welcome.proof = hello.proof
    words = server.greeter.prefix + welcome.encode()
    error = refusal(client.caller, words if server.greeter.tls is None else server.greeter.tls.seal(words))
    assert error.code == CloseCode.BAD_PROOF


@pytest.mark.parametrize("changed", [
    {"window_bytes": 1 << 21}, {"budget_bytes": 1 << 25}, {"nonce": bytes(16)}, {"routing_tag": 1}, {"features": 1},
])
def test_the_servers_proof_covers_its_words(changed):
    hello, welcome = make_hello(), make_welcome()
    hello.prove(SECRET, b"c" * 32, LIST)
    welcome.prove(SECRET, b"c" * 32, hello, LIST)
    assert Welcome.decode(welcome.payload()).proves(SECRET, b"c" * 32, hello)
    assert not welcome.proves(SECRET, b"c" * 32, make_hello())
    for name, value in changed.items():
        setattr(welcome, name, value)
    assert not Welcome.decode(welcome.payload()).proves(SECRET, b"c" * 32, hello)


def test_the_servers_list_is_proven():
    client, server = Client(), Server()
    words = server.welcome(greet(client, server))
    assert refusal(client.caller, words[:-1] + b"\1").code == CloseCode.BAD_PROOF


# ---- keys

def test_a_server_with_another_key_hears_nothing_of_us():
    """The client's certificate, HELLO and list are not sent."""
    def judge(_spki):
        raise PeerError(CloseCode.KEY_REFUSED, "another key")
    client, server = Client(tls=keys.client(), judge=judge), Server(tls=keys.server())
    server.greeter.feed(client.said())
    assert refusal(client.caller, server.said()).code == CloseCode.KEY_REFUSED
    assert client.said() == b"" and client.caller.hello is None


def test_a_client_with_a_refused_key_is_told_so():
    def judge(_spki):
        raise PeerError(CloseCode.KEY_REFUSED, "the key is not in authorized_keys")
    client, server = Client(tls=keys.client()), Server(tls=keys.server(), judge=judge)
    with pytest.raises(PeerError) as caught:
        greet(client, server)
    assert not server.checked
    error = refusal(client.caller, server.greeter.farewell(caught.value))
    assert (error.code, str(error)) == (CloseCode.KEY_REFUSED, "the key is not in authorized_keys")
    assert client.caller.refused


# ---- one encrypts, the other does not

@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("who", ["client", "server"])
def test_who_encrypts_and_who_does_not_tell_each_other(who, size):
    client = Client(tls=keys.client() if who == "client" else None)
    server = Server(tls=keys.server() if who == "server" else None)
    error = refusal(server.greeter, client.said(), size)
    assert error.code == CloseCode.ENCRYPTION and "--plaintext" in str(error)
    assert not server.checked
    error = refusal(client.caller, server.greeter.farewell(error), size)
    assert error.code == CloseCode.ENCRYPTION and "--plaintext" in str(error)
    assert not client.caller.refused, "a word that anybody could have said must not end a session"


@pytest.mark.parametrize("encrypted", [True, False])
def test_an_old_peer_hears_of_the_version(encrypted):
    """Version 1 had neither flags nor TLS; such a peer reads our version number in our preamble."""
    server = Server(tls=keys.server() if encrypted else None)
    error = refusal(server.greeter, encode_preamble(version=1) + bytes(132))
    assert error.code == CloseCode.VERSION_ERROR
    assert server.greeter.farewell(error)[4] == _wire.VERSION
    client = Client(tls=keys.client() if encrypted else None)
    answer = encode_preamble(version=1) + encode_frame(FrameType.GOODBYE, seq=7, payload=b"version")
    assert "version 1" in str(refusal(client.caller, answer))


def test_nothing_but_tls_after_a_preamble_that_says_so():
    """A GOODBYE in plaintext, which anybody could have sent, does not count as a refusal."""
    client = Client(tls=keys.client())
    server = Server(tls=keys.server())
    preamble = server.greeter.prefix
    words = encode_frame(FrameType.GOODBYE, seq=int(CloseCode.UNKNOWN_SESSION), payload=b"gone")
    assert refusal(client.caller, preamble + words).code == CloseCode.ENCRYPTION
    assert not client.caller.refused


def test_a_failed_handshake_leaves_nothing_but_an_alert():
    client, server = Client(tls=keys.client()), Server(tls=keys.server())
    error = refusal(server.greeter, client.said()[:16] + b"\x16\x03\x01\x00\x05hello")
    assert error.code == CloseCode.ENCRYPTION
    farewell = server.said() + server.greeter.farewell(error)
    assert b"hello" not in farewell
    assert refusal(client.caller, farewell).code == CloseCode.ENCRYPTION


# ---- limits

@pytest.mark.parametrize("changed, code", [
    ({"window_bytes": 4095}, CloseCode.LIMIT_ERROR),
    ({"window_bytes": (1 << 30) + 1}, CloseCode.LIMIT_ERROR),
    ({"budget_bytes": 4095}, CloseCode.LIMIT_ERROR),
    ({"epoch": 0}, CloseCode.STALE_EPOCH),
    ({"epoch": 1 << 63}, CloseCode.STALE_EPOCH),
])
def test_hello_with_limits_nobody_can_work_with(changed, code):
    assert refusal(Server().greeter, Client(make_hello(**changed)).said()).code == code


@pytest.mark.parametrize("changed", [{"window_bytes": 0}, {"budget_bytes": 0}, {"window_bytes": (1 << 32) - 1}])
def test_welcome_with_limits_nobody_can_work_with(changed):
    client, server = Client(), Server()
    assert refusal(client.caller, server.welcome(greet(client, server), **changed)).code == CloseCode.LIMIT_ERROR


@pytest.mark.parametrize("changed", [{"epoch": 4}, {"epoch": 6}, {"session_id": b"S" * 16}])
def test_welcome_for_another(changed):
    client, server = Client(), Server()
    assert refusal(client.caller, server.welcome(greet(client, server), **changed)).code == CloseCode.STATE_ERROR


# ---- strangers

@pytest.mark.parametrize("data, words", [
    (b"GET / HTTP/1.1\r\n", "HTTP"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
    (b"\x16\x03\x01\x02\x00\x01", "TLS"),
    (b"\x00\x00\x00\x01", "00 00 00 01"),
    (b"\xab", None),
    (b"\xabmp", None),
    (b"\xabmpX", "ab 6d 70 58"),
])
@pytest.mark.parametrize("size", [None, 1])
def test_strangers_are_known_by_their_first_bytes(data, words, size):
    for opening in (Server().greeter, Client().caller, Server(tls=keys.server()).greeter):
        if words is None:
            assert fed(opening, data, size) is None
        else:
            error = refusal(opening, data, size)
            assert error.code == CloseCode.VERSION_ERROR
            if size is None:
                assert words in str(error)


def test_another_version_is_named_with_ours():
    error = refusal(Server().greeter, encode_preamble(version=7))
    assert error.code == CloseCode.VERSION_ERROR
    assert "7" in str(error) and str(_wire.VERSION) in str(error)


@pytest.mark.parametrize("opening, first", [
    (lambda: Server().greeter, make_welcome().encode()),
    (lambda: Server().greeter, encode_frame(FrameType.HEARTBEAT, payload=bytes(16))),
    (lambda: Client().caller, make_hello().encode()),
    (lambda: Client().caller, encode_frame(FrameType.ACK, stream=1)),
])
def test_wrong_first_frame(opening, first):
    assert refusal(opening(), encode_preamble() + first).code == CloseCode.STATE_ERROR


@given(st.binary(max_size=300), st.sampled_from([0, 1, None]), st.booleans())
@settings(deadline=None, max_examples=300)
def test_garbage_is_refused_or_waited_for(data, flags, encrypted):
    """Invariant: the result is PeerError or None, and at most one small frame is kept."""
    data = data if flags is None else encode_preamble(flags=flags) + data
    for opening in (Server(tls=keys.server() if encrypted else None).greeter,
                    Client(tls=keys.client() if encrypted else None).caller):
        try:
            opening.feed(data)
        except PeerError as error:
            assert error.code in set(CloseCode)


# ---- turned away

@pytest.mark.parametrize("size", [None, 1])
def test_farewell_tells_why(ends, size):
    client, server = ends()
    greet(client, server)
    words = server.greeter.farewell(PeerError(CloseCode.STALE_EPOCH, "a newer carrier", 41))
    error = refusal(client.caller, words, size)
    assert (error.code, str(error)) == (CloseCode.STALE_EPOCH, "a newer carrier")
    assert client.caller.refused and client.caller.detail == 41


@pytest.mark.parametrize("reason", ["", "x" * 500, "\N{EURO SIGN}" * 100, "\udc80"])
def test_farewell_of_any_reason_is_a_valid_frame(reason):
    error = refusal(Client().caller, Server().greeter.farewell(PeerError(CloseCode.TOO_MANY, reason)))
    assert error.code == CloseCode.TOO_MANY
    assert len(str(error)) <= 200


def test_unknown_code_of_a_later_version_is_survived():
    answer = encode_preamble() + encode_frame(FrameType.GOODBYE, seq=1 << 40, payload=b"later")
    assert refusal(Client().caller, answer).code in set(CloseCode)
