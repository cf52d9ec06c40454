"""What is said to HTTP and SOCKS proxies, and what any answer of theirs leads to."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mproxy.ground.errors import PeerError
from mproxy.policy.tunnel import MOST_HEAD_BYTES, open_tunnel

HTTP, SOCKS = ("http", "proxy", 3128, None, ""), ("socks5h", "proxy", 1080, None, "")
ANN = ("ann", "s:cret")


def asked(scheme, user=None, password="", host="server", port=6200):
    return open_tunnel((scheme, "proxy", 1, user, password), host, port)


def take(tunnel):
    said, tunnel.outgoing = tunnel.outgoing, b""
    return said


def refusal(tunnel, *answers):
    with pytest.raises(PeerError) as caught:
        for answer in answers:
            assert tunnel.feed(answer) is None
    return str(caught.value)


# --- HTTP

def test_connect():
    tunnel = asked("http", host="fd00::1")
    assert take(tunnel) == b"CONNECT [fd00::1]:6200 HTTP/1.1\r\nHost: [fd00::1]:6200\r\n\r\n"
    assert tunnel.feed(b"HTTP/1.1 200 Connection established\r\nVia: squid\r\n") is None
    assert tunnel.feed(b"\r\n\xab\r\n\r\n") == b"\xab\r\n\r\n"


def test_connect_with_a_password():
    assert b"\r\nProxy-Authorization: Basic YW5uOnM6Y3JldA==\r\n\r\n" in take(asked("http", *ANN))


@pytest.mark.parametrize(("login", "answer", "text"), [
    ((), "HTTP/1.1 407 Proxy Authentication Required", "wants a user and a password (407): --proxy"
     " http://USER:PASSWORD@HOST:PORT"),
    (ANN, "HTTP/1.1 407 Proxy Authentication Required", "does not accept this user and password (407)"),
    ((), "HTTP/1.0 403 For\x1bbidden", "refuses the connection: 403 For\\x1bbidden"),
    ((), "HTTP/1.1 503", "refuses the connection: 503"),
    ((), "HTTP/1.1 99999 x", "does not speak HTTP"),
    ((), "HTTP/1.1", "does not speak HTTP"),
    ((), "SSH-2.0-OpenSSH", "does not speak HTTP")])
def test_http_refusals_are_one_line(login, answer, text):
    assert refusal(asked("http", *login), f"{answer}\r\n\r\n".encode()) == f"the HTTP proxy {text}"


@given(st.integers(1, 20_000))
def test_an_endless_head_is_refused(piece):
    tunnel = asked("http")
    tunnel.feed(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(PeerError, match="more than 16 KiB"):
        for _ in range(0, MOST_HEAD_BYTES + piece, piece):
            assert tunnel.feed(b"x" * piece) is None


# --- SOCKS

def test_socks():
    tunnel = asked("socks5h")
    assert take(tunnel) == b"\5\1\0"
    assert tunnel.feed(b"\5\0") is None
    assert take(tunnel) == b"\5\1\0\3\6server\x18\x38"
    assert tunnel.feed(b"\5\0\0\1\1\2\3\4\0\1behind") == b"behind"


def test_socks_with_a_password_and_an_address():
    tunnel = asked("socks5h", *ANN, host="::1")
    assert take(tunnel) == b"\5\2\0\2"
    assert tunnel.feed(b"\5\2") is None
    assert take(tunnel) == b"\1\3ann\6s:cret"
    assert tunnel.feed(b"\1\0") is None
    assert take(tunnel) == b"\5\1\0\4" + bytes(15) + b"\1\x18\x38"
    assert tunnel.feed(b"\5\0\0\3\2ab\0\1") == b""


def test_a_socks_proxy_may_want_no_password_after_all():
    tunnel = asked("socks5h", *ANN)
    take(tunnel)
    assert tunnel.feed(b"\5\0") is None
    assert take(tunnel)[:4] == b"\5\1\0\3"


@pytest.mark.parametrize(("login", "answers", "text"), [
    ((), [b"\5\xff"], "wants a user and a password: --proxy socks5h://USER:PASSWORD@HOST:PORT"),
    ((), [b"\5\2"], "wants a user and a password: --proxy socks5h://USER:PASSWORD@HOST:PORT"),
    (ANN, [b"\5\xff"], "takes no user and password"),
    (ANN, [b"\5\2", b"\1\1"], "does not accept this user and password"),
    ((), [b"\5\0", b"\5\5"], "refuses the connection: the connection was refused"),
    ((), [b"\5\0", b"\5\x63\0\1"], "refuses the connection: code 99"),
    ((), [b"\4"], "does not speak SOCKS 5"),
    ((), [b"\5\0", b"H"], "does not speak SOCKS 5"),
    ((), [b"\5\0", b"\5\0\0\7\0"], "does not speak SOCKS 5")])
def test_socks_refusals_are_one_line(login, answers, text):
    assert refusal(asked("socks5h", *login), *answers) == f"the SOCKS proxy {text}"


# --- any answer

@given(st.sampled_from(["http", "socks5h"]), st.sampled_from([(), ANN]), st.lists(st.binary(max_size=30), max_size=8))
@example("socks5h", ANN, [b"\5\2\1\0\5\0\0\1\1\2\3\4\0\1behind"])
def test_any_answer_opens_is_refused_or_is_waited_for(scheme, login, answers):
    tunnel = asked(scheme, *login)
    try:
        for answer in answers:
            if tunnel.feed(answer) is not None:
                break
    except PeerError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(("scheme", "login", "answer"), [
    ("http", (), b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbehind"), ("socks5h", (), b"\5\0\5\0\0\3\2ab\0\1behind"),
    ("socks5h", ANN, b"\5\2\1\0\5\0\0\4" + bytes(18) + b"behind")])
def test_answers_may_come_in_any_pieces(scheme, login, answer):
    for cut in range(1, len(answer)):
        tunnel = asked(scheme, *login)
        parts = [tunnel.feed(answer[:cut]), None]
        if parts[0] is None:
            parts[1] = tunnel.feed(answer[cut:])
        else:
            parts[1] = answer[cut:]
        assert b"".join(part for part in parts if part) == b"behind"
    tunnel = asked(scheme, *login)
    assert [tunnel.feed(answer[at:at + 1]) for at in range(len(answer) - 6)][-1] == b""
