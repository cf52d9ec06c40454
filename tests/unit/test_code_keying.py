"""Codes that people tell each other: their words, and the handshake that makes keys of them."""

import sys

import pytest

from mproxy.ground.code_words import WORDS
from mproxy.ground.errors import MproxyError, PeerError, UsageError
from mproxy.programs.recv_options import parse_recv
from mproxy.programs.send import parse_send
from mproxy.transport.code_keying import Code, CodeKeying, is_code, make_code, parse_code

CODE = Code(7, ("violet", "harbour"))


class FakeLink:
    """What a keying needs of a Link; what it sends waits in `sent`."""

    def __init__(self, prologue=b"prologue"):
        self.prologue = prologue
        self.sent = []
        self.keys = None

    def send_handshake(self, data):
        self.sent.append(data)

    def secure(self, send_key, receive_key, cipher):
        self.keys = send_key, receive_key, cipher


class Handshake:
    """Both sides."""

    def __init__(self, code=CODE, other=CODE, prologue=b"prologue"):
        pytest.importorskip("spake2")
        self.wrong = []
        self.receiver, self.sender = FakeLink(), FakeLink(prologue)
        self.receives, self.sends = CodeKeying(code, True), CodeKeying(other, False, lambda: self.wrong.append(1))

    def step(self, data=b""):
        """The receiver's next message and the sender's answer; the answer."""
        self.receives.take(self.receiver, data)
        self.sends.take(self.sender, self.receiver.sent[-1])
        return self.sender.sent[-1]


def test_words_are_told_apart():
    assert len(WORDS) == len(set(WORDS)) == 256 and list(WORDS) == sorted(WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() and 3 < len(word) < 9 for word in WORDS)
    assert len({word[:4] for word in WORDS}) > 225, "most are known by their beginning"


def test_codes_are_read_as_they_are_made():
    for _ in range(50):
        code = make_code()
        assert is_code(str(code)) and 1 <= code.number <= 999
        assert parse_code(str(code).upper()).secret == code.secret
    assert not any(map(is_code, ["7000", "7-", "a-violet-harbour", "violet-harbour-7", "7-8-9", "file-1-2", ""]))


@pytest.mark.parametrize("text, why", [
    ("0-violet-harbour", "a number up to 999"), ("1000-violet-harbour", "a number up to 999"),
    ("7-vilet-harbour", "vilet is not a word of any code; is it violet?"),
    ("7-violet-xxxxxx", "xxxxxx is not a word of any code"), ("7-violet", "such as 7-violet-harbour"),
    ("7-violet-harbour-red", "such as 7-violet-harbour"), ("7000", "such as 7-violet-harbour")])
def test_a_slip_is_told(text, why):
    with pytest.raises(UsageError) as refusal:
        parse_code(text)
    assert str(refusal.value).endswith(why) or why in str(refusal.value)


def test_both_sides_get_the_same_keys():
    both = Handshake()
    proof = both.step(both.step())
    both.receives.take(both.receiver, proof)
    (a, b, cipher), (c, d, other) = both.receiver.keys, both.sender.keys
    assert (a, b, cipher) == (d, c, other) and a != b and {len(a), len(b)} == {32}
    assert not both.wrong
    again = Handshake()
    again.step(again.step())
    assert again.sender.keys != both.sender.keys


@pytest.mark.parametrize("difference", ["code", "number", "prologue"])
def test_a_wrong_guess_is_seen_by_the_sender_and_learns_nothing(difference):
    """Goal: the sender says nothing that depends on the code before the receiver has proven it."""
    code = {"code": Code(7, ("violet", "hammer")), "number": Code(8, CODE.words)}.get(difference, CODE)
    both = Handshake(code, prologue=b"another" if difference == "prologue" else b"prologue")
    answer = both.step()
    with pytest.raises(PeerError):
        both.step(answer)
    assert both.wrong == [1]
    assert len(both.sender.sent) == 1 and both.sender.keys is None and both.receiver.keys is None


def test_a_false_sender_is_refused():
    both = Handshake()
    both.step(both.step())
    with pytest.raises(PeerError):
        both.receives.take(both.receiver, bytes(32))
    assert both.receiver.keys is None


@pytest.mark.parametrize("data", [b"", b"\0", b"\1" + bytes(40), b"\7", b"\7A", b"\7" + bytes(33),
                                  b"\7A" + b"\xff" * 32, b"\7B" + bytes(32), b"\7A" + bytes(32), b"\7" + b"A" * 200])
def test_nonsense_costs_no_guess(data):
    both = Handshake()
    with pytest.raises(PeerError):
        both.sends.take(both.sender, data)
    assert not both.wrong and not both.sender.sent


def test_reflected_messages_are_refused():
    both = Handshake()
    both.receives.take(both.receiver, b"")
    with pytest.raises(PeerError):
        both.receives.take(both.receiver, both.receiver.sent[0][1:])


def test_without_the_package_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spake2", None)
    (tmp_path / "file").touch()
    for parse, words in ((parse_send, [str(tmp_path / "file")]), (parse_recv, ["7-violet-harbour"])):
        with pytest.raises(MproxyError, match=r"'spake2' is missing.* -m pip install 'spake2>="):
            parse(words)


def test_when_a_code_is_meant(tmp_path, monkeypatch):
    pytest.importorskip("spake2")
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "7000"):
        (tmp_path / name).touch()
    assert parse_send(["a", "b"]).code is not None
    assert parse_send(["a", "7000"]).code is not None
    assert parse_send(["a", "b", "7000"]).host == "b", "as it always was"
    assert parse_send(["a", "server", "7000"]).code is None
    assert parse_send(["a", "server:7000"]).code is None
    config = parse_recv(["7-violet-harbour", "server:6200", "-o", "x/"])
    assert (str(config.code), config.host, config.port, config.once) == ("7-violet-harbour", "server", 6200, True)
    assert config.datagram.sealed
    for words, why in ((["c"], "c: there is no such file"), (["a", "c"], "missing argument: PORT")):
        with pytest.raises(UsageError, match=why):
            parse_send(words)
    with pytest.raises(UsageError, match="CODE 7-violet: a code is a number"):
        parse_recv(["7-violet"])
    for words in (["a", "--own-key"], ["a", "--peer", f"SHA256:{'A' * 43}"], ["a", "--ack-port", "7"]):
        with pytest.raises(UsageError):
            parse_send(words)
    for words in (["--open"], ["--senders", "3"], ["server", "6200", "7"]):
        with pytest.raises(UsageError):
            parse_recv(["7-violet-harbour", *words])
