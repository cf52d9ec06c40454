"""Certificates between real proxies, over every carrier: who is let in, by whom hosts are vouched for, what ends a
session and what does not."""

import subprocess
import time

import pytest
from lab import pause
from proxies import CPROXY, CPROXY_PORT, SPROXY, SPROXY_PORT, state_dir
from traffic import read_exactly

from mproxy.policy.certificates import HOST, certificate_line
from mproxy.policy.keys import public_line
from tests import keys
from tests.issuing import Authority, always

CA = Authority()
CARRIERS = {"tls": ["--carrier", "tcp"], "datagram": ["--carrier", "datagram"], "command": ["--via"]}


def spki(number):
    return keys.context(number, True).spki


def write(host, name, text):
    """A file in the state directory of a host, which takes the place of what was there at once."""
    path = state_dir(host) / name
    new = path.with_name(f".{name}.new")
    new.write_text(text + "\n")
    new.chmod(0o600)
    new.rename(path)


def certify(pair, **changes):
    """Have cproxy show a certificate."""
    write(pair.lab.client, "client-key-cert.pub", certificate_line(CA.certify(spki(2), **always() | changes)))


def echoed(pair, words=b"hello"):
    app = pair.app()
    app.sendall(words)
    assert read_exactly(app, len(words)) == words
    return app


@pytest.fixture
def trusting(pair):
    """sproxy trusts a CA, and cproxy has its certificate; both are started by the test."""
    pair.echo()
    write(pair.lab.server, "authorized_keys", f'cert-authority,principals="ann" {public_line(CA.spki)}')
    certify(pair)
    return pair


def start_cproxy(pair, carrier, *options):
    if carrier != "command":
        return pair.start_cproxy(*CARRIERS[carrier], *options)
    command = " ".join(map(str, pair.lab.server.entering([SPROXY, "--attach"])))
    environment = pair.lab.server.environment()
    command = " ".join([f"{name}={environment[name]}" for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR")] + [command])
    pair.cproxy = pair.lab.client.start(CPROXY, *options, "--via", command, CPROXY_PORT, pair.lab.server_address,
                                        SPROXY_PORT)
    pair.started.append(pair.cproxy)
    pair.cproxy.event("listening")
    return pair.cproxy


@pytest.mark.parametrize("carrier", CARRIERS)
def test_both_sides_by_certificates_alone(trusting, carrier):
    """Goal: neither has seen the other's key, nor remembers it; the log names who has come, by whose word."""
    lab = trusting.lab
    host = CA.certify(spki(1), **always(role=HOST, principals=[lab.server_address]))
    write(lab.server, "host-key-cert.pub", certificate_line(host))
    write(lab.client, "known_hosts", f"@cert-authority {lab.server_address} {public_line(CA.spki)}")
    known = (state_dir(lab.client) / "known_hosts").read_text()
    trusting.start_sproxy("--udp")
    start_cproxy(trusting, carrier)
    echoed(trusting)
    assert trusting.sproxy.event("connected")["comment"].startswith("ann (serial 7, CA SHA256:")
    assert (state_dir(lab.client) / "known_hosts").read_text() == known


@pytest.mark.parametrize("carrier", ["tls", "datagram"])
@pytest.mark.parametrize(("changes", "why"), [
    ({"valid_before": 100}, "expired at 1970-01-01T00:01:40Z"), ({"principals": ["eve"]}, "eve, who may not connect"),
    ({"role": HOST}, None)])
def test_both_sides_say_why_not(trusting, carrier, changes, why):
    certify(trusting, **changes)
    trusting.start_sproxy("--udp")
    start_cproxy(trusting, carrier)
    assert trusting.app_is_reset()
    assert (why or "not in authorized_keys") in trusting.sproxy.event("refused")["why"]
    assert (why or "not in authorized_keys") in trusting.cproxy.event("dial-failed")["why"]
    if why is None:
        assert "is for a host, not for a client" in trusting.cproxy.event("certificate")["why"]


@pytest.mark.parametrize("carrier", ["tls", "datagram"])
def test_a_host_without_a_certificate_is_not_met_for_the_first_time(trusting, carrier):
    """Goal: where a CA vouches for hosts of that name, an unknown key is refused before ours is shown."""
    write(trusting.lab.client, "known_hosts", f"@cert-authority * {public_line(CA.spki)}")
    trusting.start_sproxy("--udp")
    start_cproxy(trusting, carrier)
    assert trusting.app_is_reset()
    assert "shows no certificate" in trusting.cproxy.event("dial-failed")["why"]


def test_a_session_outlives_its_certificate(trusting):
    """Goal: it expires, the network changes, and the session goes on; a new session is refused until the certificate is
    renewed, by writing the file."""
    end = int(time.time()) + 3
    certify(trusting, valid_before=end)
    trusting.start(cproxy=["--carrier", "tcp"])
    app = echoed(trusting)
    while time.time() < end:
        app.sendall(b"tick")
        assert read_exactly(app, 4) == b"tick"
        pause(0.05)
    trusting.lab.wifi.pull()
    trusting.lab.wifi.give(9)
    trusting.cproxy.event("resumed")
    app.sendall(b"on")
    assert read_exactly(app, 2) == b"on"
    trusting.cproxy.stop()
    trusting.start_cproxy("--carrier", "tcp")
    assert trusting.app_is_reset()
    assert "expired" in trusting.cproxy.event("dial-failed")["why"]
    certify(trusting)
    echoed(trusting)


@pytest.mark.parametrize("how", ["certificate", "CA's line"])
def test_what_is_taken_back_ends_the_session(trusting, how):
    write(trusting.lab.server, "revoked", "# nobody yet")
    trusting.start_sproxy("--revoked-keys", state_dir(trusting.lab.server) / "revoked")
    trusting.start_cproxy()
    echoed(trusting)
    if how == "certificate":
        write(trusting.lab.server, "revoked", "serial: 7")
    else:
        write(trusting.lab.server, "authorized_keys", public_line(spki(3)))
    trusting.sproxy.event("revoked-read" if how == "certificate" else "keys-read", count=2)
    trusting.sproxy.process.send_signal(1)
    why = trusting.sproxy.event("ended")["why"]
    assert ("the certificate is revoked: ann (serial 7" if how == "certificate" else "not in authorized_keys") in why
    assert trusting.app_is_reset()


def test_the_next_worker_knows_the_certificate(trusting):
    """Goal: the worker that takes over judges the session as the one before did."""
    trusting.start(sproxy=["--keeper"])
    app = echoed(trusting)
    worker = trusting.sproxy.worker_pid
    subprocess.run(["kill", "-9", str(worker)], check=True)
    trusting.sproxy.event("taken-over")
    app.sendall(b"still here")
    assert read_exactly(app, 10) == b"still here"
    assert trusting.sproxy.event("resumed") and not trusting.sproxy.events("ended")


def test_workers_hand_certificates_on(trusting):
    """Goal: whichever worker accepts them, all sessions begin."""
    trusting.start_sproxy("--workers", "2")
    for number in range(6):
        trusting.start_cproxy("--state-dir", state_dir(trusting.lab.client), port=CPROXY_PORT + 10 + number)
        app = trusting.app(CPROXY_PORT + 10 + number)
        app.sendall(b"hello")
        assert read_exactly(app, 5) == b"hello"
    assert len(trusting.sproxy.events("connected")) == 6 and not trusting.sproxy.events("refused")


def test_a_directory_of_keys(trusting):
    """Goal: a file in authorized_keys.d lets a key in; taken out it ends its session; what editors leave counts for
    nothing."""
    place = state_dir(trusting.lab.server) / "authorized_keys.d"
    place.mkdir()
    (state_dir(trusting.lab.server) / "authorized_keys").unlink()
    (place / "ann~").write_text(public_line(spki(2)))
    trusting.start()
    assert trusting.app_is_reset()
    (place / ".ann").write_text(public_line(spki(2), "laptop"))
    (place / ".ann").rename(place / "ann")
    trusting.sproxy.event("keys-read", count=2)
    echoed(trusting)
    assert trusting.sproxy.event("connected")["comment"] == "laptop"
    (place / "ann").unlink()
    trusting.sproxy.event("keys-read", count=3)
    trusting.sproxy.process.send_signal(1)
    assert "not in authorized_keys" in trusting.sproxy.event("ended")["why"]
