"""mproxy doctor: everything that can be wrong with a path is set up here, and must be found and named."""

import re
import signal
import socket
import ssl
import sys
import threading
import time

import pytest
from doctoring import Doctor
from lab import SLOWNESS_S, outage, pause
from proxies import DAEMON_PORT, SPROXY_PORT, state_dir
from relays import MPROXY
from traffic import Traffic, read_exactly
from udp_lab import Echo

from mproxy.handshake import encode_preamble
from mproxy.policy.keys import find_spki, fingerprint, public_line
from tests import keys

# ICMP that would tell of a narrow path is filtered.
NO_ICMP = """table inet t { chain o { type filter hook output priority 0;
icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }"""

# A network that wants a login first: the router answers in place of everybody.
PORTAL = """table ip t { chain p { type nat hook prerouting priority -100;
iifname "wifi" tcp dport 6200 redirect to :8080; }; }"""


@pytest.fixture
def doctor(lab):
    return Doctor(lab)


@pytest.fixture
def serve(lab, ends):
    """Listens on the server, or on another host, and hands each connection to a function, in threads."""
    def start(speak, host=None, port=SPROXY_PORT, address="0.0.0.0"):
        listener = (host or lab.server).listen(port, address)
        listener.settimeout(None)
        ends.callback(listener.close)

        def answer(connection):
            with connection:
                try:
                    connection.settimeout(20)
                    speak(connection)
                except OSError:
                    pass

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()
        threading.Thread(target=accept, daemon=True).start()
        ends.callback(listener.shutdown, socket.SHUT_RDWR)
    return start


def spki(number):
    return find_spki(keys.pem(number), "test")


def knows(lab, number):
    """The client remembers that key of the server."""
    (state_dir(lab.client) / "known_hosts").write_text(
        f"{lab.server_address}:{SPROXY_PORT} {public_line(spki(number))}\n")


def test_healthy(pair, lab, doctor):
    pair.start_sproxy()
    knows(lab, 1)
    verdict = doctor(status=0)
    assert {finding["verdict"] for finding in verdict.facts["findings"]} == {"ok"}
    assert verdict.of("route")["source"] == lab.wifi.address(2) and verdict.of("route")["device"] == "wifi"
    assert 0 < verdict.of("connect")["took_s"] < 5
    assert verdict.of("answer")["cipher"].startswith("TLS_") or "AES" in verdict.of("answer")["cipher"]
    assert verdict.of("trust")["offered"] == fingerprint(spki(1))
    assert verdict.of("key")["key"] == fingerprint(spki(2))
    assert 0 < verdict.of("path")["round_trip_s"] < SLOWNESS_S and verdict.of("path")["lost"] == 0
    assert verdict.of("size")["mtu"] == 1500
    udp = verdict.of("udp")
    assert (udp["verdict"], udp["passes"], udp["answers"]) == ("ok", True, True)
    assert "sessions go over it" in udp["text"]
    assert verdict.facts["advice"] == []
    assert not pair.sproxy.events("connected")  # it began no session


def test_in_words(pair, lab):
    pair.start_sproxy()
    program = lab.client.start(MPROXY, "doctor", f"{lab.server_address}:{SPROXY_PORT}")
    assert program.wait() == 0, str(program)
    lines = program.out.text.splitlines()
    assert re.match(r"ok +name +10\.3\.0\.2 is an address", lines[0])
    assert f"A session with {lab.server_address}:{SPROXY_PORT} is possible from here." in lines
    assert max(map(len, lines)) < 250


def test_a_first_contact_is_no_fault_and_nothing_is_remembered(pair, lab, doctor):
    pair.start_sproxy()
    trust = doctor(status=0).of("trust")
    assert trust["verdict"] == "note" and fingerprint(spki(1)) in trust["text"]
    assert not (state_dir(lab.client) / "known_hosts").exists()
    (state_dir(lab.client) / "client-key.pem").unlink()
    assert "no key here yet" in doctor(status=0).of("key")["text"]
    assert not (state_dir(lab.client) / "client-key.pem").exists()


def test_no_name(doctor):
    verdict = doctor(host="nowhere.example")
    assert "nowhere.example" in verdict.of("name")["text"] and verdict.checks == {"name"}


def test_every_address_of_a_name(pair, lab, doctor):
    """Goal: an address that leads nowhere is named, and does not hide one that works."""
    pair.start_sproxy()
    lab.client.knows(server=f"{lab.core.address(99)} {lab.server_address}")
    verdict = doctor(host="server", status=0, patience="5s")
    assert verdict.of("name")["addresses"] == [lab.core.address(99), lab.server_address]
    dead, alive = verdict.all("connect")
    assert (dead["verdict"], alive["verdict"]) == ("warning", "ok")
    assert verdict.of("answer")["verdict"] == "ok"


def test_no_route(lab, doctor):
    lab.wifi.pull()
    verdict = doctor()
    assert "no route" in verdict.of("route")["text"] and "ip route" in verdict.of("route")["advice"]
    assert verdict.checks == {"name", "route"}


def test_refused(doctor):
    verdict = doctor()
    assert "refused" in verdict.of("connect")["text"] and "start sproxy" in verdict.of("connect")["advice"]
    assert "over TCP" not in verdict.of("udp")["text"], "nothing goes there"


def test_silent(pair, lab, doctor):
    """Goal: it says that packets vanish."""
    pair.start_sproxy()
    lab.wifi.cut()
    began = time.monotonic()
    verdict = doctor()
    assert time.monotonic() - began < 6 + SLOWNESS_S
    assert "packets vanish" in verdict.of("connect")["text"] and "firewall" in verdict.of("connect")["advice"]
    assert verdict.of("udp")["passes"] is None


def test_a_firewall_that_says_so(pair, lab, doctor):
    pair.start_sproxy()
    lab.router.run("nft", "-f", "-", input=(
        "table inet t { chain c { type filter hook forward priority 0; reject with icmpx admin-prohibited; }; }"))
    verdict = doctor()
    assert "firewall on the path" in verdict.of("connect")["advice"]
    assert verdict.of("udp")["passes"] is False


def test_nothing_listens_on_udp(pair, doctor):
    pair.start_sproxy("--no-udp")
    udp = doctor(status=0).of("udp")
    assert (udp["verdict"], udp["passes"], udp["answers"]) == ("note", True, False) and "--no-udp" in udp["text"]
    assert "sessions go over TCP" in udp["text"]


def test_udp_vanishes(pair, lab, doctor):
    """Goal: that is a warning, and says what to let through."""
    pair.start_sproxy()
    lab.router.ip(f"rule add pref 50 ipproto udp dport {SPROXY_PORT} blackhole")
    udp = doctor(status=0).of("udp")
    assert (udp["verdict"], udp["passes"], udp["answers"]) == ("warning", None, False)
    assert f"UDP to port {SPROXY_PORT}" in udp["advice"]


def test_only_udp_gets_through(pair, lab, doctor):
    """Goal: a session is possible, and whose key is known is asked there; cproxy has one indeed."""
    pair.echo()
    pair.start_sproxy()
    knows(lab, 1)
    lab.router.ip(f"rule add pref 50 ipproto tcp dport {SPROXY_PORT} blackhole")
    verdict = doctor(status=0)
    assert (verdict.of("connect")["verdict"], verdict.of("udp")["verdict"]) == ("warning", "ok")
    assert verdict.of("trust")["offered"] == fingerprint(spki(1)) and verdict.of("key")["verdict"] == "ok"
    pair.start_cproxy()
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    (state_dir(lab.server) / "authorized_keys").write_text(f"{public_line(spki(3))}\n")
    pair.sproxy.signal(signal.SIGHUP)
    pair.sproxy.event("reloaded")
    assert "mproxy authorize" in doctor().of("key")["advice"]


@pytest.mark.parametrize("who", ["echo", "another sproxy"])
def test_another_program_on_udp(pair, lab, ends, doctor, who):
    """Goal: what answers over UDP is told from the sproxy that answers over TCP."""
    pair.start_sproxy("--no-udp" if who != "another sproxy" else "--udp")
    knows(lab, 1)
    if who == "echo":
        ends.enter_context(Echo(lab.server, port=SPROXY_PORT, address=lab.server_address))
    else:
        other = lab.server.home / "other"
        other.mkdir(mode=0o700)
        (other / "host-key.pem").touch(mode=0o600)
        (other / "host-key.pem").write_bytes(keys.pem(3))
        pair.start_sproxy("--state-dir", other, port=SPROXY_PORT + 1)
        lab.server.run("nft", "-f", "-", input=(
            "table ip t { chain c { type nat hook prerouting priority -100;"
            f" udp dport {SPROXY_PORT} redirect to :{SPROXY_PORT + 1}; }}; }}"))
    verdict = doctor(status=0)
    udp = verdict.of("udp")
    assert (udp["verdict"], udp["passes"], udp["answers"]) == ("warning", True, False)
    assert ("a different server" if who == "another sproxy" else "something other") in udp["text"]
    assert verdict.of("trust")["offered"] == fingerprint(spki(1)) and verdict.of("trust")["verdict"] == "ok"


def test_a_program_that_hangs(pair, doctor):
    """Goal: it says that the host accepts connections, but nobody answers."""
    pair.start_sproxy()
    pair.sproxy.signal(signal.SIGSTOP)
    verdict = doctor(patience="500ms")
    pair.sproxy.signal(signal.SIGCONT)
    assert "silence" in verdict.of("answer")["text"] and "hangs" in verdict.of("answer")["advice"]


def test_ssh_on_the_port(serve, doctor):
    def ssh(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.9 Debian-1\r\n")
        connection.recv(1000)
    serve(ssh)
    answer = doctor().of("answer")
    assert "an SSH server" in answer["text"] and "OpenSSH_9.9" in answer["text"] and "port" in answer["advice"]


def test_a_captive_portal(pair, lab, serve, doctor):
    """Goal: a router that answers in the server's place and wants a login is found, though it waits for a request."""
    def portal(connection):
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(1000) or b"\r\n\r\n"
        if request.startswith(b"GET "):
            connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n")
    pair.start_sproxy()
    serve(portal, lab.router, 8080)
    lab.router.run("nft", "-f", "-", input=PORTAL)
    answer = doctor().of("answer")
    assert "captive portal" in answer["text"] and "http://login.example/" in answer["text"]
    assert "browser" in answer["advice"]


def test_a_web_server_that_answers_at_once(serve, doctor):
    serve(lambda connection: (connection.recv(1000), connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")))
    assert "a web server" in doctor().of("answer")["text"]


def test_a_tls_portal(serve, tmp_path, doctor):
    chain = tmp_path / "chain.pem"
    chain.write_bytes(keys.pem(3))
    rules = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    rules.load_cert_chain(chain)

    def portal(connection):
        with rules.wrap_socket(connection, server_side=True) as tls:
            tls.recv(1000)
    serve(portal)
    assert "a TLS server" in doctor().of("answer")["text"]


def test_another_release(serve, doctor):
    serve(lambda connection: (connection.sendall(encode_preamble(version=99)), connection.recv(1000)))
    answer = doctor().of("answer")
    assert "version 99" in answer["text"] and "same release" in answer["advice"]


def test_encryption_on_one_side(pair, doctor):
    pair.start_sproxy("--plaintext")
    answer = doctor().of("answer")
    assert "encrypt" in answer["text"] and "--plaintext" in answer["advice"]
    assert doctor("--plaintext", status=0).of("answer")["cipher"] is None


def test_something_else(serve, doctor):
    serve(lambda connection: connection.sendall(b"\xff\xfd\x18\xff\xfd\x20"))
    assert "ff fd 18 ff" in doctor().of("answer")["text"]


def test_the_host_has_another_key(pair, lab, doctor):
    pair.start_sproxy()
    knows(lab, 3)
    trust = doctor().of("trust")
    assert "has changed" in trust["text"] and fingerprint(spki(1)) in trust["text"]
    assert "keygen --host" in trust["advice"]
    wanted = doctor("--host-fingerprint", fingerprint(spki(1)), status=0).of("trust")
    assert "--host-fingerprint" in wanted["text"]
    trust = doctor("--host-fingerprint", fingerprint(spki(3))).of("trust")
    assert trust["verdict"] == "fault" and "known_hosts" not in trust["advice"]
    for word in ("intercepting", "keygen --host", f"--host-fingerprint {fingerprint(spki(1))}"):
        assert word in trust["advice"]


def test_our_key_is_refused(pair, lab, doctor):
    (state_dir(lab.server) / "authorized_keys").write_text(f"{public_line(spki(3))}\n")
    pair.start_sproxy()
    key = doctor().of("key")
    assert "does not let our key in" in key["text"] and fingerprint(spki(2)) in key["text"]
    assert "mproxy authorize" in key["advice"]
    (state_dir(lab.client) / "client-key.pem").unlink()
    assert "no key here yet" in doctor().of("key")["text"]


def test_our_key_is_for_another_address(pair, lab, doctor):
    (state_dir(lab.server) / "authorized_keys").write_text(f'from="192.0.2.0/24" {public_line(spki(2))}\n')
    pair.start_sproxy()
    assert "from=" in doctor().of("key")["advice"]


def test_full_packets_vanish(pair, lab, doctor):
    """Goal: a black hole for full-size packets is a warning with the size that passes; a session is possible."""
    pair.start_sproxy()
    lab.router.run("nft", "-f", "-", input=NO_ICMP)
    for host in (lab.client, lab.server):
        host.run("sysctl", "-qw", "net.ipv4.tcp_mtu_probing=0")
    lab.router.ip("link set core mtu 1200")
    size = doctor(status=0).of("size")
    assert (size["verdict"], size["segment_bytes"]) == ("warning", 1000)
    assert "MTU of wifi" in size["advice"]


def test_a_narrow_path_that_says_so_is_none(pair, lab, doctor):
    pair.start_sproxy()
    lab.router.ip("link set core mtu 1300")
    size = doctor(status=0).of("size")
    assert (size["verdict"], size["mtu"]) == ("ok", 1300)


def test_a_session_too(pair, lab, serve, doctor):
    """Goal: --session shows what the daemon says, and leaves nothing behind."""
    serve(lambda connection: (connection.sendall(b"220 mail.example ESMTP\r\n"), connection.recv(10)), port=DAEMON_PORT)
    pair.start_sproxy()
    verdict = doctor("--session", status=0, patience="10s")
    assert "220 mail.example ESMTP" in verdict.of("daemon")["text"]
    assert "began" in verdict.of("session")["text"]
    assert pair.sproxy.event("ended")


def test_a_session_whose_daemon_is_down(pair, doctor):
    pair.start_sproxy()
    daemon = doctor("--session", status=0, patience="10s").of("daemon")
    assert daemon["verdict"] == "warning" and "refused" in daemon["text"]


# A minute of the test's time is nobody's gain.
SOON = """import sys
from mproxy.programs import trial
trial.LONG_S = 6
from mproxy.programs.doctor import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
@pytest.mark.parametrize("cuts", [False, True], ids=["stays", "cut"])
def test_long(pair, lab, ends, doctor, cuts):
    """Goal: it tells an idle session that keeps its connection from one that loses it."""
    pair.echo()
    pair.start_sproxy()
    if cuts:
        def cut():
            pair.sproxy.event("connected")
            outage(1)  # cproxy is to hear of it
            lab.wifi.cut()
            outage(5)
            lab.wifi.mend()
        cutting = threading.Thread(target=cut)
        ends.callback(cutting.join)
        cutting.start()
    idle = doctor("--long", status=0, patience="10s", command=(sys.executable, "-c", SOON)).of("idle")
    assert idle["verdict"] == ("warning" if cuts else "ok")
    assert (idle["lost"] > 0) is cuts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_takes_its_session_with_it(pair, lab, number):
    """Goal: interrupting --long leaves nothing behind: the session ends at once, at both ends."""
    pair.echo()
    pair.start_sproxy()
    program = lab.client.start(MPROXY, "doctor", "--long", lab.server_address, SPROXY_PORT)
    pair.sproxy.event("connected")
    pause(0.5)  # it may be busy with anything by now
    program.signal(number)
    assert program.wait() == 128 + number
    pair.sproxy.event("ended")


def test_sessions_that_there_are_do_not_notice(pair, lab, doctor):
    """Goal: also those of an sproxy --single, which replaces its session; and the running cproxy is named."""
    pair.echo()
    pair.start(sproxy=["--single"], cproxy=["--name", "laptop"])
    traffic = Traffic([pair.app() for _ in range(3)])
    traffic.goes_on()
    assert "laptop" in doctor(status=0).of("here")["text"]
    traffic.goes_on(more=50_000)
    traffic.finish()
    assert len(pair.cproxy.events("connected")) == 1 and not pair.cproxy.events("lost")


def test_usage(lab):
    for words in ([], ["server"], ["server", "port"], ["server", "6200", "x"], ["--long", "ser ver", "6200"],
                  ["--connect-timeout", "0", "server", "6200"], ["--key", "/nowhere", "server", "6200"]):
        program = lab.client.start(MPROXY, "doctor", *words)
        assert program.wait() == 2, str(program)
        assert len(program.log.text.strip().splitlines()) == 1 and program.out.text == "", str(program)
