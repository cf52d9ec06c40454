"""Encrypted carriers: what an eavesdropper sees, and attackers in the middle, who are refused while the session goes
on."""

import contextlib
import os
import re
import signal
import socket
import time

import pytest
from capture import Capture, is_to
from lab import SLOWNESS_S, outage, until
from middle import Member, Middle
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, OVER_TCP, SPROXY, SPROXY_PORT, keep_key, state_dir
from traffic import Traffic, ends_by_reset, read_exactly
from wire_peer import BAD_PROOF, DATA, KEY_REFUSED, OPEN, STALE_EPOCH, frame

from mproxy.ground.errors import PeerError
from mproxy.policy.keys import fingerprint, public_line
from tests import keys

MIDDLE_PORT = 6300
NEEDLE = b"nobody on the path may read this line"


@pytest.fixture
def middle(pair, lab):
    """cproxy reaches sproxy through a Middle; started with `middle.start()`."""
    relay = Middle(lab.router, lab.wifi.address(1), MIDDLE_PORT)
    relay.target = lambda: lab.router.connect(SPROXY_PORT, lab.server_address)

    def start(*options):
        pair.echo()
        pair.start_sproxy()
        pair.start_cproxy(*options, server=lab.wifi.address(1), server_port=MIDDLE_PORT)
        going = Traffic([pair.app()])
        going.goes_on(more=1000)
        return going
    relay.start = start
    yield relay
    relay.close()


def spki(number):
    return keys.context(number, True).spki


# ---- what the cable shows

@pytest.mark.parametrize("carrier_options", [OVER_TCP, [], ["--plaintext"]], ids=["tls", "udp", "plaintext"])
def test_the_cable_shows_nothing(pair, lab, carrier_options):
    """Goal: the cable shows no byte of an application, no session id and no daemon's name, neither on the first carrier
    nor after a resume. (Without TLS the same capture finds all of these, so the test works.)"""
    capture = Capture(lab.router, "wifi")
    pair.echo()
    target = f"127.0.0.1:{DAEMON_PORT}"
    pair.start_sproxy("--allow", target, daemon="127.0.0.1:9")
    pair.start_cproxy("--target", target)
    app = pair.app()
    app.sendall(NEEDLE)
    assert read_exactly(app, len(NEEDLE)) == NEEDLE
    lab.wifi.pull()
    lab.wifi.give(9)
    pair.comes_from(lab.wifi.address(9))
    app.sendall(NEEDLE)
    assert read_exactly(app, len(NEEDLE)) == NEEDLE
    session = bytes.fromhex(pair.cproxy.event("connected")["session"])
    seen = capture.end()
    if pair.uses_udp:
        assert any(is_to(packet, socket.IPPROTO_UDP, SPROXY_PORT) for packet in capture.packets)
    else:
        assert b"\xabmpx" in seen, "the capture has no carrier"
    for secret in (NEEDLE, session, target.encode()):
        assert (secret in seen) == (carrier_options == ["--plaintext"]), secret


# ---- first contact

def test_first_contact_needs_no_configuration(pair, lab):
    """Goal: without keys, both sides make one at the first start and keep it, and cproxy remembers sproxy's."""
    for host in (lab.server, lab.client):
        for file in state_dir(host).glob("*.pem"):
            file.unlink()
    pair.echo()
    pair.start()
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    offered = pair.sproxy.event("host-key")
    assert offered["new"] == "true"
    assert pair.cproxy.event("host-remembered")["fingerprint"] == offered["fingerprint"]
    assert "no authorized_keys: ANYONE" in pair.sproxy.event("open-door")["why"]
    assert pair.sproxy.event("open-door")["close"] == f"touch {state_dir(lab.server) / 'authorized_keys'}"
    for host, name in ((lab.server, "host-key.pem"), (lab.client, "client-key.pem"), (lab.client, "known_hosts")):
        assert (state_dir(host) / name).stat().st_mode & 0o777 == 0o600
        assert state_dir(host).stat().st_mode & 0o777 == 0o700
    pair.sproxy.stop()
    pair.cproxy.stop()
    pair.start()
    assert read_back(pair, b"again") == b"again"
    assert pair.sproxy.event("host-key")["new"] == "false"
    assert not pair.cproxy.events("host-remembered") and not pair.cproxy.events("client-key")


def read_back(pair, words):
    """What the echo daemon answers to `words`."""
    app = pair.app()
    app.sendall(words)
    return read_exactly(app, len(words))


def test_pinned_fingerprint(pair, lab):
    """Goal: --host-fingerprint accepts the right key and no other."""
    pair.echo()
    pair.start(cproxy=["--host-fingerprint", fingerprint(spki(1))])
    assert read_back(pair, b"pinned") == b"pinned"
    pair.cproxy.stop()
    pair.start_cproxy("--host-fingerprint", fingerprint(spki(3)))
    assert pair.app_is_reset()
    assert fingerprint(spki(1)) in pair.cproxy.event("dial-failed")["why"]


# ---- one encrypts, the other does not

@pytest.mark.parametrize("plain", ["sproxy", "cproxy"])
def test_encrypted_and_plaintext_tell_each_other(pair, plain):
    """Goal: both sides log one clear line at once, and the application is reset; nobody has to wait."""
    pair.start(**{plain: ["--plaintext"]})
    assert pair.app_is_reset()
    for program, event in ((pair.cproxy, "dial-failed"), (pair.sproxy, "refused")):
        assert "use --plaintext on both sides or on neither" in program.event(event)["why"]


# ---- in between

def test_another_key_in_the_middle(pair, lab, middle):
    """Goal: if somebody else with another key answers at sproxy's address during a session, cproxy names both keys and
    sends nothing; when the true sproxy is back, the session goes on, without a byte lost."""
    going = middle.start()
    impostor = lab.server.start(
        SPROXY, "--state-dir", impostor_state(lab), 6666, f"127.0.0.1:{DAEMON_PORT}")
    impostor.event("listening")
    true = middle.target
    middle.target = lambda: lab.router.connect(6666, lab.server_address)
    middle.cut()
    why = pair.cproxy.event("dial-failed")["why"]
    assert fingerprint(spki(1)) in why and fingerprint(spki(3)) in why
    middle.target = true
    pair.cproxy.event("resumed")
    going.goes_on(more=1000)
    going.finish()
    assert not impostor.events("connected")
    assert str(spki(2)) not in impostor.log.text


def impostor_state(lab):
    """A state directory with the impostor's key."""
    directory = lab.server.home / "impostor"
    directory.mkdir(mode=0o700)
    file = directory / "host-key.pem"
    file.touch(mode=0o600)
    file.write_bytes(keys.pem(3))
    return directory


def test_changed_key_at_first_contact_after_a_restart(pair, lab):
    """Goal: a restarted cproxy that knows another key refuses, with both fingerprints and the line to remove."""
    pair.echo()
    pair.start()
    read_back(pair, b"first")
    pair.cproxy.stop()
    pair.sproxy.stop()
    keep_key(lab.server, "host-key.pem", 3)
    pair.start()
    assert pair.app_is_reset()
    why = pair.cproxy.event("dial-failed")["why"]
    assert fingerprint(spki(1)) in why and fingerprint(spki(3)) in why and "known_hosts:1" in why


@pytest.mark.parametrize("lie", ["flag taken away", "flag added", "version", "answer in the clear"])
def test_downgrade(pair, lab, middle, lie):
    """Goal: an attacker who changes the preamble ends only that attempt: nothing is ever sent in plaintext, and the
    session goes on without the attacker."""
    going = middle.start()

    def tamper(data, upward):
        if not data.startswith(b"\xabmpx"):
            return data
        if upward and lie == "flag taken away":
            return data[:5] + b"\0" + data[6:]
        if not upward and lie == "flag added":
            return data[:5] + b"\xff" + data[6:]
        if lie == "version":
            return data[:4] + b"\1" + data[5:]
        if not upward and lie == "answer in the clear":
            return data[:5] + b"\0" + data[6:16] + frame(9, seq=8, payload=b"no such session")
        return data
    middle.tamper = tamper
    middle.cut()
    pair.cproxy.event("lost")
    pair.cproxy.event("dial-failed")  # bits without a meaning are bound by the proof, too
    hello = frame(1, length=144, payload=b"")
    assert not any(hello[:12] in record for record in middle.upward), "HELLO in the clear"
    middle.tamper = lambda data, upward: data
    middle.cut()
    pair.cproxy.event("resumed")
    going.goes_on(more=1000)
    going.finish()
    assert not pair.cproxy.events("ended")


def test_a_changed_byte_costs_the_carrier_alone(pair, middle):
    """Goal: bytes changed on the way reach no application; the carrier is dropped, and the session goes on."""
    going = middle.start()
    spoiled = []

    def tamper(data, upward):
        if len(spoiled) < 2 and len(data) > 500:
            spoiled.append(upward)
            return data[:200] + bytes([data[200] ^ 1]) + data[201:]
        return data
    middle.tamper = tamper
    pair.cproxy.event("resumed")
    going.goes_on(more=100_000)
    going.finish()
    assert spoiled


def test_a_replayed_handshake(pair, lab, middle):
    """Goal: replaying every byte that cproxy ever sent achieves nothing, and the current carrier is not affected."""
    going = middle.start()
    middle.cut()
    pair.cproxy.event("resumed")
    going.goes_on(more=1000)
    for number, record in enumerate([bytes(record) for record in middle.upward], 1):
        thief = lab.router.connect(SPROXY_PORT, lab.server_address)
        thief.sendall(record[:20_000])
        with contextlib.suppress(ConnectionResetError):
            while thief.recv(1 << 16):
                pass
        assert "TLS" in pair.sproxy.event("refused", count=number)["why"]
    going.goes_on(more=1000)
    assert len(pair.sproxy.events("resumed")) == 1
    going.finish()


# ---- stolen things

def test_stolen_id_key_or_secret(pair, lab):
    """Goal: the session's id and secret without the key, the id and key without the secret, or an old epoch are refused
    before the current carrier is touched. Only a client with all of them resumes."""
    pair.echo()
    pair.start_sproxy()

    def member(number, **what):
        return Member(lab.client.connect(SPROXY_PORT, lab.server_address), number, **what)
    true = member(1)
    welcome = true.join()
    true.send(frame(OPEN, stream=1) + frame(DATA, stream=1, payload=b"mine"))
    true.wait_for(b"mine")
    session = {"session_id": welcome.session_id, "secret": welcome.secret}
    for thief, code in ((member(3, **session), BAD_PROOF),
                        (member(1, session_id=welcome.session_id, secret=b"guess" * 6), BAD_PROOF),
                        (member(1, session_id=welcome.session_id, secret=bytes(32)), BAD_PROOF),
                        (member(1, epoch=1, **session), STALE_EPOCH)):
        with pytest.raises(PeerError) as caught:
            thief.join()
        assert caught.value.code == code
    true.send(frame(DATA, stream=1, seq=4, ack=4, payload=b"still"))
    true.wait_for(b"still")
    assert not pair.sproxy.events("lost") and not pair.sproxy.events("resumed")
    member(1, **session).join()
    assert ends(true.connection)


def ends(connection):
    """Reads to the end of a connection."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
    return True


# ---- rights

def authorize(lab, *numbers, options=""):
    """Write sproxy's authorized_keys."""
    file = state_dir(lab.server) / "authorized_keys"
    file.touch(mode=0o600)
    file.write_text("".join(options + public_line(spki(number)) + "\n" for number in numbers))


def other_cproxy(lab, number):
    """A second cproxy on the client, with another key."""
    directory = lab.client.home / f"other-{number}"
    directory.mkdir(mode=0o700)
    (directory / "client-key.pem").touch(mode=0o600)
    (directory / "client-key.pem").write_bytes(keys.pem(number))
    program = lab.client.start(
        CPROXY, "--state-dir", directory, CPROXY_PORT + 1, lab.server_address, SPROXY_PORT)
    program.event("listening")
    return program


def two_keys_served(pair, lab):
    """An application of cproxy's own, key 2, and the traffic of another cproxy with key 3."""
    pair.echo()
    pair.start()
    other_cproxy(lab, 3)
    going = Traffic([pair.app(CPROXY_PORT + 1)])
    going.goes_on(more=1000)
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    return app, going


def test_key_removed_while_connected(pair, lab):
    """Goal: a removed key loses its carrier and its daemon connections and gets no new session; another key's session
    is not affected."""
    authorize(lab, 2, 3)
    app, going = two_keys_served(pair, lab)
    assert pair.sproxy.event("keys-read")["keys"] == "2"
    pair.sproxy.event("connected", count=2)
    assert fingerprint(spki(2)) in [event["key"] for event in pair.sproxy.events("connected")]
    authorize(lab, 3)
    assert ends_by_reset(app)
    assert fingerprint(spki(2)) in pair.sproxy.event("ended")["why"]
    assert "key-refused" in pair.cproxy.event("ended")["why"]
    assert pair.app_is_reset()
    assert "authorized_keys" in pair.cproxy.event("dial-failed")["why"]
    going.goes_on(more=1000)
    going.finish()
    authorize(lab, 2, 3)
    until(lambda: served(pair), 10, "the key counts again")


def test_an_editor_and_a_deployment_end_nothing(pair, lab):
    """Goal: if authorized_keys is empty, missing or writable by others for a second, sessions go on. If it was replaced
    by rename, or SIGHUP was sent, it counts at once, sooner than a file that somebody may still be writing."""
    authorize(lab, 2)
    pair.echo()
    pair.start()
    going = Traffic([pair.app()])
    going.goes_on(more=1000)
    file = state_dir(lab.server) / "authorized_keys"
    for trouble in (lambda: os.truncate(file, 0), file.unlink, lambda: file.chmod(0o666)):
        trouble()
        keys_are(pair, 0)
        outage(1)
        authorize(lab, 2)
        file.chmod(0o600)
        keys_are(pair, 1)
        going.goes_on(more=1000)
    assert not pair.sproxy.events("ended")
    began_at = time.monotonic()
    (file.parent / "new").touch(mode=0o600)
    (file.parent / "new").write_text(public_line(spki(3)) + "\n")
    (file.parent / "new").rename(file)
    assert "not in authorized_keys" in pair.sproxy.event("ended")["why"]
    assert time.monotonic() - began_at < 2.5 + SLOWNESS_S
    until(lambda: going.failures, 10, "the application was told")


def test_hangup_takes_authorized_keys_as_it_is(pair, lab):
    """Goal: SIGHUP says that the file is finished, so it counts without waiting."""
    pair.echo()
    authorize(lab, 2)
    pair.start()
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    authorize(lab)
    began_at = time.monotonic()
    pair.sproxy.signal(signal.SIGHUP)
    pair.sproxy.event("ended")
    assert time.monotonic() - began_at < 2 + SLOWNESS_S
    assert pair.sproxy.event("reloaded")["keys"] == "0"


def keys_are(pair, number):
    """Waits until sproxy has read a list of so many keys."""
    until(lambda: pair.sproxy.events("keys-read")[-1]["keys"] == str(number), 10, f"{number} keys read")


def test_authorized_keys_made_after_the_start(pair, lab):
    """Goal: the first authorized_keys takes effect while sproxy runs: keys that are not in it lose their sessions at
    once and get no others, those in it go on. Removing the file does not open access again."""
    app, going = two_keys_served(pair, lab)
    authorize(lab, 3)
    assert ends_by_reset(app)
    assert pair.sproxy.event("keys-read")["keys"] == "1"
    assert pair.app_is_reset()
    going.goes_on(more=1000)
    (state_dir(lab.server) / "authorized_keys").unlink()
    assert "nobody may connect" in pair.sproxy.event("authorized-keys")["why"]
    until(lambda: going.failures, 10, "nobody has a session any more")
    assert pair.app_is_reset()


def test_an_address_that_is_not_listed_cannot_resume(pair, lab):
    """Goal: from= is checked again at every resume: the session goes on from listed addresses only, and also when the
    client comes back to one, since it only roamed."""
    authorize(lab, 2, options=f'from="{lab.wifi.address(2)},{lab.wifi.address(3)}" ')
    pair.echo()
    pair.start(cproxy=OVER_TCP)
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    lab.wifi.pull()
    lab.wifi.give(3)
    pair.cproxy.event("resumed")
    app.sendall(b"again")
    assert read_exactly(app, 5) == b"again"
    lab.wifi.pull()
    lab.wifi.give(9)
    assert "address" in pair.sproxy.event("refused")["why"]
    pair.cproxy.event("lost")
    assert len(pair.sproxy.events("resumed")) == 1
    lab.wifi.pull()
    lab.wifi.give(3)
    app.sendall(b"still")
    assert read_exactly(app, 5) == b"still"


def test_key_removed_while_there_is_no_carrier(pair, lab):
    """Goal: the session of a removed key cannot be resumed; its applications are reset."""
    authorize(lab, 2)
    pair.echo()
    pair.start(cproxy=["--heartbeat", "100ms"], sproxy=["--heartbeat", "100ms"])
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    lab.wifi.cut()
    pair.sproxy.event("lost")
    authorize(lab)
    pair.sproxy.event("ended")
    lab.wifi.mend()
    assert ends_by_reset(app)
    assert not pair.sproxy.events("resumed")


def test_expiry_ends_a_session(pair, lab):
    """Goal: a key that expires loses its session at that moment, not at its next connection."""
    authorize(lab, 2, options=f'expiry="{in_utc(10)}" ')
    pair.echo()
    pair.start()
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    assert ends_by_reset(app)
    assert "expiry" in pair.sproxy.event("ended")["why"]


def in_utc(seconds):
    """The time in so many seconds, as authorized_keys has it."""
    from datetime import UTC, datetime, timedelta
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y%m%d%H%M%SZ")


def test_what_a_key_may_do(pair, lab):
    """Goal: from=, target= and max-streams= of a line apply to every connection, and only to that key."""
    pair.echo()
    authorize(lab, 2, options='from="10.1.0.0/16",max-streams=1,target="127.0.0.1:9" ')
    pair.start(sproxy=["--allow", "127.0.0.1:9"])
    assert pair.app_is_reset()
    assert re.search("target is not allowed", pair.sproxy.event("refused")["why"])
    authorize(lab, 2, options='from="10.1.0.0/16",max-streams=1 ')
    until(lambda: served(pair), 10, "the daemon is allowed again")
    first = until(lambda: kept(pair), 10, "the last stream is forgotten")
    assert pair.app_is_reset()
    authorize(lab, 2, options='from="10.9.0.0/16" ')
    assert ends_by_reset(first)
    assert "this address" in pair.sproxy.event("ended")["why"]


def served(pair):
    """Whether an application gets an answer."""
    try:
        return read_back(pair, b"?") == b"?"
    except (OSError, AssertionError):
        return False


def kept(pair):
    """An application that got an answer, and stays."""
    try:
        app = pair.app()
        app.sendall(b"one")
        return app if read_exactly(app, 3) == b"one" else None
    except (OSError, AssertionError):
        return None


def test_link_local_daemons_are_refused_unless_named(pair, lab):
    """Goal: names with a link-local or metadata address are refused; the address itself works where it is allowed."""
    lab.server.ip("addr add 169.254.169.254/32 dev lo")
    lab.server.knows(metadata="169.254.169.254")
    listener = lab.server.listen(8080, "169.254.169.254")
    pair.start_sproxy("--allow", "metadata:8080", "--allow", "169.254.169.254:8080")
    pair.start_cproxy("--target", "metadata:8080")
    assert pair.app_is_reset()
    assert "link-local" in pair.sproxy.event("daemon-unreachable")["why"]
    pair.cproxy.stop()
    pair.start_cproxy("--target", "169.254.169.254:8080")
    app = pair.app()
    app.sendall(b"x")
    assert read_exactly(listener.accept()[0], 1) == b"x"


def test_refused_key_is_told_by_its_code(pair, lab):
    """Goal: a client whose key is not authorised is told so over TLS, before its HELLO is considered."""
    authorize(lab, 2)
    pair.start_sproxy()
    with pytest.raises(PeerError) as caught:
        Member(lab.client.connect(SPROXY_PORT, lab.server_address), 3).join()
    assert caught.value.code == KEY_REFUSED
