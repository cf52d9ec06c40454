"""Strangers that connect to sproxy's port, or that answer when cproxy connects, before there is a session."""

import contextlib
import random
import socket
import threading
import time

import pytest
from lab import SLOWNESS_S, pause, until
from proxies import SPROXY_PORT
from traffic import Traffic, ends_by_reset, read_exactly
from wire_peer import (
    BAD_PROOF,
    DATA,
    FRAME_ERROR,
    GOODBYE,
    LIMIT_ERROR,
    MIB,
    OPEN,
    STALE_EPOCH,
    STATE_ERROR,
    TOO_MANY,
    UNKNOWN_SESSION,
    VERSION,
    VERSION_ERROR,
    LyingClient,
    LyingServer,
    frame,
    hello,
    preamble,
)

TLS_CLIENT_HELLO = bytes.fromhex("16030100c8010000c40303") + random.Random(1).randbytes(194)

STRANGERS = {
    "garbage": random.Random(2).randbytes(500),
    "http": b"GET / HTTP/1.1\r\nHost: server\r\n\r\n",
    "tls": TLS_CLIENT_HELLO,
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(300),
    "one letter": b"x",
    "nearly our magic": preamble(magic=0xAB6D7079),
}


@pytest.fixture
def carrier_options():
    """The peers of wire_peer.py do not encrypt."""
    return ["--plaintext"]


def test_strangers_are_turned_away(pair, lab, bystander):
    """Goal: for garbage, HTTP, TLS, ... the connection is closed at once, and one log line says what it was; a session
    beside them goes on."""
    bystander()
    for number, (name, first_bytes) in enumerate(STRANGERS.items(), 1):
        stranger = LyingClient(lab, SPROXY_PORT)
        stranger.send(first_bytes)
        assert stranger.is_ended(4), name
        refused = pair.sproxy.event("refused", count=number)
        assert refused["peer"].startswith(lab.wifi.address(2) + ":")
        if name in ("http", "tls", "ssh"):
            assert name.upper() in refused["why"]
    assert len(pair.sproxy.events("refused")) == len(STRANGERS)


def test_strangers_that_leave_at_once(pair, lab, bystander):
    """Goal: port scanners do no harm: connections closed or reset before or within the preamble."""
    bystander()
    for first_bytes in (b"", preamble()[:7], preamble(), preamble() + hello()[:50]):
        for _ in range(20):
            with lab.client.connect(SPROXY_PORT, lab.server_address) as stranger:
                stranger.sendall(first_bytes)
    until(lambda: pair.sproxy.open_fds() < 40, 20, "closed connections")


def test_unfinished_openings_are_dropped_after_5_s(pair, lab, bystander):
    """Goal: a caller that has not sent its preamble after 5 s is dropped, wherever it stopped. (Afterwards it may take
    longer, as a round trip may.)"""
    bystander()
    began_at = time.monotonic()
    unfinished = [LyingClient(lab, SPROXY_PORT) for _ in range(3)]
    for peer, first_bytes in zip(unfinished, (b"", preamble()[:5], preamble()[:15]), strict=True):
        peer.send(first_bytes)
    dripping = unfinished[1]
    for position in range(5, 9):  # a byte now and then buys no time
        dripping.send(preamble()[position:position + 1])
        pause(0.25)
    assert time.monotonic() - began_at < 4
    for peer in unfinished:
        peer.connection.settimeout(0.01)
        with pytest.raises(socket.timeout):
            peer.connection.recv(1)
    assert all(peer.is_ended() for peer in unfinished)
    assert 4.5 < time.monotonic() - began_at < 6.5 + SLOWNESS_S


def test_who_vanished_leaves_nothing_in_the_kernel(pair, lab):
    """Goal: when the address of a silent caller is gone, the kernel does not repeat sproxy's bytes for minutes."""
    pair.start_sproxy()
    lab.phone.give(4)
    with lab.client.inside():
        vanished = socket.create_connection((lab.server_address, SPROXY_PORT), 15, (lab.phone.address(4), 0))
    lab.phone.cut()
    pair.sproxy.event("refused")
    def left():
        return lab.server.run("ss", "-Htan", "state", "connected", f"sport = :{SPROXY_PORT}")
    assert "FIN-WAIT-1" in left()
    until(lambda: not left(), 20, "the system has given up")
    vanished.close()


def test_the_oldest_silent_opening_makes_room(pair, lab, bystander):
    """Goal: with --max-unfinished 3 the fourth silent caller replaces the oldest; those that speak, and sessions, do
    not count."""
    bystander("--max-unfinished", "3")
    speaking = LyingClient(lab, SPROXY_PORT)
    speaking.send(preamble())
    silent = [LyingClient(lab, SPROXY_PORT) for _ in range(5)]
    assert silent[0].is_ended() and silent[1].is_ended()
    speaking.send(hello())
    assert speaking.read_preamble() == VERSION
    assert all(is_there(peer) for peer in silent[3:]), "the one that speaks may not have been read when they came"


def is_there(peer):
    """Whether neither data nor an end has come."""
    peer.connection.settimeout(0.01)
    with pytest.raises(socket.timeout):
        peer.connection.recv(1)
    return True


def test_a_hundred_from_one_address_are_all_served(pair, lab, bystander):
    """Goal: clients of an office behind one address may call at the same moment, and none has to give way."""
    bystander()
    peers = [LyingClient(lab, SPROXY_PORT) for _ in range(100)]
    for peer in peers:
        peer.send(preamble())
    for peer in peers:
        peer.send(hello())
    assert len({peer.read_welcome().tag for peer in peers}) == 100


def test_a_session_comes_back_by_an_address_that_is_blocked(pair, lab):
    """Goal: garbage from one host behind an address must not keep out a session that moves there."""
    pair.echo()
    pair.start()
    going = Traffic([pair.app()])
    going.goes_on(more=1000)
    lab.phone.give(4)
    with lab.client.inside():
        for _ in range(60):
            with socket.create_connection((lab.server_address, SPROXY_PORT), 15, (lab.phone.address(4), 0)) as stranger:
                stranger.sendall(b"garbage that is no preamble")
                with contextlib.suppress(ConnectionResetError):
                    while stranger.recv(100):
                        pass
    assert pair.sproxy.event("source-blocked")["source"] == lab.phone.address(4)
    moved_at = time.monotonic()
    lab.client.ip(*lab.phone.routes(50))
    assert pair.cproxy.event("resumed")["local"].startswith(lab.phone.address(4) + ":")
    assert time.monotonic() - moved_at < 3 + SLOWNESS_S
    going.goes_on(more=1000)
    going.finish()


def test_a_first_dial_that_is_turned_away_is_tried_again(pair, lab):
    """Goal: if sproxy has too many callers at the moment, the application waits for the next try, and is not reset."""
    with lab.server.listen(SPROXY_PORT, "0.0.0.0") as listener:
        pair.start_cproxy()
        app = pair.app()
        app.sendall(b"hello")
        for answer in (b"", preamble() + frame(GOODBYE, seq=TOO_MANY, payload=b"full"), b""):
            busy = LyingServer(listener)
            busy.read_preamble()
            busy.send(answer)
            busy.connection.close()
        served = LyingServer(listener)
        served.welcome(tag=4711)
        assert served.tag == 0
        assert served.next_frame(DATA).payload == b"hello"
        served.connection.close()
        again = LyingServer(listener)
        assert again.read_preamble() == VERSION and again.tag == 4711, "it shows that it was here"


def test_who_is_never_let_in_hears_of_it(pair, lab):
    """Goal: if that lasts for --connect-timeout, the application is reset."""
    with lab.server.listen(SPROXY_PORT, "0.0.0.0") as listener:
        pair.start_cproxy("--connect-timeout", "1s")
        app = pair.app()
        closing = threading.Thread(target=close_all, args=(listener,))
        closing.start()
        assert ends_by_reset(app)
        pair.cproxy.process.terminate()
    closing.join()


def close_all(listener):
    with contextlib.suppress(OSError):
        while True:
            LyingServer(listener).connection.close()


def test_byte_by_byte_is_as_good_as_whole(pair, lab, bystander):
    """Goal: a session can be set up with one byte in each packet."""
    bystander()
    peer = LyingClient(lab, SPROXY_PORT)
    for byte in preamble() + hello() + frame(3, 0x08) + frame(OPEN, stream=1) + frame(6, 1, stream=1, payload=b"hello"):
        peer.send(bytes([byte]))
    peer.read_welcome()
    echoed = b""
    while len(echoed) < len(b"hello"):  # the echo may come in as many frames as the bytes went
        echoed += peer.next_frame(6).payload
    assert echoed == b"hello"


def test_version_mismatch_names_both_versions(pair, lab, bystander):
    """Goal: a peer with another protocol version is told so, and both logs name both versions."""
    bystander()
    peer = LyingClient(lab, SPROXY_PORT)
    peer.send(preamble(version=9))
    code, text, _ = peer.turned_away()
    assert code == VERSION_ERROR
    for told in (text, pair.sproxy.event("refused")["why"]):
        assert "version 9" in told
        assert "version 2" in told


@pytest.mark.parametrize(("answer", "words"), [
    (preamble(version=7), ["version 7", "version 2"]),
    (preamble() + frame(GOODBYE, seq=VERSION_ERROR, payload=b"peer speaks protocol version 1, this program version 8"),
     ["version 8", "version 1"]),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", ["HTTP"]),
    (b"SSH-2.0-OpenSSH_9.2\r\n", ["SSH"]),
    (b"220 mail ESMTP\r\n", ["it sent '220 mail ESMTP'"]),
    (b"\x15\x03\x01\x00\x02\x02\x46", ["TLS"]),
    (preamble() + frame(OPEN, stream=1), []),
    (preamble() + frame(99), []),
    (preamble(), ["before the welcome"]),
    (b"", ["without an answer: what listens there is not an sproxy"]),
], ids=["version", "their version", "http", "ssh", "smtp", "tls", "no welcome", "unknown frame", "cut short", "closed"])
def test_cproxy_says_what_answered(pair, lab, answer, words):
    """Goal: if something else than sproxy answers, or another version, cproxy logs what it is, and tries again
    later."""
    with lab.server.listen(SPROXY_PORT, "0.0.0.0") as listener:
        pair.start_cproxy()
        app = pair.app()
        app.sendall(b"hello")
        answering = LyingServer(listener)
        answering.read_preamble()
        answering.send(answer)
        answering.connection.close()
        told = until(lambda: [event for event in pair.cproxy.events() if event.name in ("dial-failed", "refused")], 10,
                     "reason")
        assert all(word in told[0]["why"] for word in words), told
        assert told[0]["why"].count("welcome") <= 1
        assert told[0].level in ("info", "warning", "error")
    pair.echo()
    pair.start_sproxy()
    if app_was_reset(app):
        app = pair.app()
        app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"


def app_was_reset(app):
    app.settimeout(1)
    try:
        app.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True
    finally:
        app.settimeout(15)
    return False


@pytest.mark.parametrize(("first_frame", "code"), [
    (frame(OPEN, stream=1), STATE_ERROR),
    (frame(1, payload=bytes(103)), FRAME_ERROR),
    (frame(1, length=0xFFFFFFFF), FRAME_ERROR),
    (frame(77), FRAME_ERROR),
    (hello(window=1000), LIMIT_ERROR),
    (hello(budget=1), LIMIT_ERROR),
    (hello(window=1 << 31), LIMIT_ERROR),
    (hello(epoch=0), STALE_EPOCH),
    (hello(session=b"never was", proof=bytes(32)), UNKNOWN_SESSION),
], ids=["open", "short hello", "endless hello", "unknown type", "small window", "small budget", "large window",
        "epoch 0", "unknown session"])
def test_wrong_first_frame(pair, lab, bystander, first_frame, code):
    """Goal: if the first frame after a good preamble is not a HELLO, it is refused, with the reason."""
    bystander()
    peer = LyingClient(lab, SPROXY_PORT)
    peer.send(preamble() + first_frame)
    got, text, _ = peer.turned_away()
    assert (got, bool(text)) == (code, True)
    assert pair.sproxy.event("refused")["why"]


def test_resume_needs_the_secret(pair, lab, bystander):
    """Goal: knowing a session's id is not enough: a wrong proof is refused and the true carrier is not
    touched. An old epoch is refused too and told the newest one; the true peer with a higher epoch is served.
    """
    bystander()
    true = LyingClient(lab, SPROXY_PORT)
    welcome = true.join()
    identity = {"session": welcome.session, "secret": welcome.secret}
    for what, code in (({"session": welcome.session, "epoch": 2, "proof": bytes(32)}, BAD_PROOF),
                       ({"session": welcome.session, "epoch": 2, "secret": bytes(32)}, BAD_PROOF),
                       ({"session": welcome.session, "epoch": 1, "secret": b"wrong"}, BAD_PROOF),
                       ({**identity, "epoch": 1}, STALE_EPOCH)):
        liar = LyingClient(lab, SPROXY_PORT)
        liar.send(preamble() + hello(**what))
        got, _, epoch = liar.turned_away()
        assert got == code
        assert epoch == (1 if code == STALE_EPOCH else 0)
    true.send(frame(OPEN, stream=1) + frame(6, stream=1, payload=b"still"))
    assert true.next_frame(6).payload == b"still"
    again = LyingClient(lab, SPROXY_PORT)
    assert again.join(epoch=2, **identity).session == welcome.session
    assert true.is_ended()


def test_endless_openings_take_no_memory(pair, lab, bystander):
    """Goal: hundreds of peers that announce the largest frames take no memory: lengths from the wire size no
    buffers."""
    bystander()
    before = pair.sproxy.anonymous_bytes()
    peers = [LyingClient(lab, SPROXY_PORT) for _ in range(120)]
    for peer in peers:
        peer.send(preamble() + hello()[:28] + bytes(70))
    assert pair.sproxy.anonymous_bytes() - before < 4 * MIB
