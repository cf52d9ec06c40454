"""Who may send to whom: keys of `mproxy keygen`, hosts with several addresses, peers that only occupy a place."""

import os
import socket
import subprocess
import threading
import time

import pytest
from lab import until
from program import Program
from test_transfer import MANY, MPROXY, MPROXY_ROOT, Transfer, content

from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.policy.certificates import HOST, certificate_line
from mproxy.policy.keys import parse_spki, public_line
from mproxy.programs import recv
from mproxy.programs.recv_options import parse_recv
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import DatagramConfig
from mproxy.transport.keying import Suite
from tests.issuing import Authority, always


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


class Keys:
    """Keys of a receiver and two senders, made by the real program."""

    def __init__(self, transfer):
        self._transfer = transfer
        self.known_hosts = transfer.directory / "known_hosts"
        self.authorized_keys = transfer.directory / "authorized_keys"
        self.lines = {name: self._make(name) for name in ("host", "client", "stranger")}
        self.authorized_keys.write_text(self.lines["client"])

    def _make(self, name):
        program = self._transfer.start("keygen", "-f", self.path(name), "--comment", name)
        assert program.wait(30) == 0
        self.fingerprint = {**getattr(self, "fingerprint", {}), name: program.log.text.split(", ")[1].strip()}
        return program.out.text

    def path(self, name):
        return self._transfer.directory / f"{name}.pem"

    def recv(self, *options, key="host", **more):
        return self._transfer.recv("--key", self.path(key), "--authorized-keys", self.authorized_keys, *options, **more)

    def send(self, port, *options, key="client", name="f"):
        path = self._transfer.file(name, content(4, 300_000))
        return self._transfer.send(port, "--key", self.path(key), "--known-hosts", self.known_hosts, *options, path)


@pytest.fixture
def keys(transfer, monkeypatch):
    # Directories above the home directory need not be ours; in a user namespace those of the system are nobody's.
    monkeypatch.setenv("HOME", str(transfer.directory))
    return Keys(transfer)


def test_the_first_contact_is_remembered_and_another_key_refused(transfer, keys):
    receiver, port = keys.recv("--force")
    sender = keys.send(port)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == content(4, 300_000)
    assert sender.event("host-remembered")["fingerprint"] == keys.fingerprint["host"]
    remembered = keys.known_hosts.read_text()
    assert remembered.split()[:3] == [f"127.0.0.1:{port}", *keys.lines["host"].split()[:2]]

    receiver, _ = keys.recv("--force", port=port)
    sender = keys.send(port)
    assert sender.wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert "host-remembered" not in sender.log.text

    receiver, _ = keys.recv(port=port, key="stranger")
    sender = keys.send(port)
    assert sender.wait(MANY) == 7
    assert "has changed" in sender.log.text
    assert keys.known_hosts.read_text() == remembered
    assert str(keys.known_hosts) not in receiver.log.text  # it is not told why


def test_only_authorised_keys_send(transfer, keys):
    receiver, port = keys.recv()
    sender = keys.send(port, key="stranger")
    assert sender.wait(MANY) == 7
    ours = keys.fingerprint["stranger"]
    assert f"the keys do not agree: the receiver does not accept our key {ours}" in sender.log.text
    until(lambda: "not in authorized_keys" in receiver.log.text, 30, "the receiver says whom it refused")
    assert os.listdir(transfer.target) == []
    keys.authorized_keys.write_text(keys.lines["client"] + 'from="192.0.2.0/24" ' + keys.lines["stranger"])
    assert keys.send(port, key="stranger").wait(MANY) == 7
    keys.authorized_keys.write_text('target="127.0.0.1:23" ' + keys.lines["stranger"])
    assert keys.send(port, key="stranger").wait(MANY) == 7
    assert os.listdir(transfer.target) == []
    keys.authorized_keys.write_text(keys.lines["stranger"])
    assert keys.send(port, key="stranger").wait(MANY) == 0
    assert receiver.wait(MANY) == 0


def test_peers_by_fingerprint(transfer, keys):
    receiver, port = keys.recv("--peer", keys.fingerprint["stranger"])
    assert keys.send(port, "--peer", keys.fingerprint["client"], key="stranger").wait(MANY) == 7
    assert keys.send(port, "--peer", keys.fingerprint["host"], key="client").wait(MANY) == 7
    assert keys.send(port, "--peer", keys.fingerprint["host"], key="stranger").wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert not keys.known_hosts.exists()


def certified(keys, ca, name, **facts):
    """Have a CA's certificate lie beside a key; returns its file."""
    path = keys.path(name).with_name(f"{name}-cert.pub")
    spki = parse_spki(keys.lines[name].split()[1])
    path.write_text(certificate_line(ca.certify(spki, **always(**facts))) + "\n")
    return path


def test_both_sides_by_certificates_alone(transfer, keys):
    """Goal: no key is in a list, and none is remembered: a CA vouches for both. Other principals, another CA's
    certificate, one that is revoked, and a host's that is for another name, let nobody in."""
    ca = Authority()
    keys.authorized_keys.write_text(f'cert-authority,principals="ann" {public_line(ca.spki)}\n')
    keys.known_hosts.write_text(f"@cert-authority 127.0.0.1 {public_line(ca.spki)}\n")
    known = keys.known_hosts.read_text()
    revoked = transfer.directory / "revoked"
    revoked.write_text("serial: 13\n")
    certified(keys, ca, "host", role=HOST, principals=["127.0.0.1"])
    receiver, port = keys.recv("--revoked-keys", revoked)
    for issuer, facts, why in ((ca, {"principals": ["eve"]}, "may not connect"),
                               (Authority(5), {}, "not in authorized_keys"), (ca, {"serial": 13}, "is revoked")):
        certified(keys, issuer, "client", **facts)
        assert keys.send(port).wait(MANY) == 7
        until(lambda why=why: why in receiver.log.text, 30, "the receiver says why")
    certified(keys, ca, "client")
    certified(keys, ca, "host", role=HOST, principals=["elsewhere.example"])
    sender = keys.send(port)
    assert sender.wait(MANY) == 7
    assert "for elsewhere.example, not for 127.0.0.1" in sender.log.text
    assert os.listdir(transfer.target) == []
    certified(keys, ca, "host", role=HOST, principals=["127.0.0.1"])
    sender = keys.send(port)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == content(4, 300_000)
    assert keys.known_hosts.read_text() == known and "host-remembered" not in sender.log.text


def test_certificates_that_cannot_be_used(transfer, keys):
    """Goal: one that was named must be there and fit, which is said in one line; a secret has none."""
    other = certified(keys, Authority(), "stranger")
    secret = transfer.file("secret", os.urandom(32))
    secret.chmod(0o600)
    for options, why in ((("--key", keys.path("client"), "--certificate", "/nowhere"), "No such file or directory"),
                         (("--key", keys.path("client"), "--certificate", other), "is for another key"),
                         (("--key", secret, "--certificate", other), "works with keys from 'mproxy keygen' only")):
        program = transfer.start("send", *options, transfer.file("f", b""), "127.0.0.1", "9")
        assert program.wait(30) == 2
        assert "--certificate" in program.log.text and why in program.log.text
        assert len(program.log.text.splitlines()) == 1


def test_the_usual_places(transfer, keys):
    """--own-key, known_hosts and authorized_keys in the state directory."""
    state = transfer.directory / "state" / "mproxy"
    state.mkdir(parents=True, mode=0o700)
    environment = {**os.environ, "XDG_STATE_HOME": str(state.parent), "HOME": str(transfer.directory)}
    environment.pop("STATE_DIRECTORY", None)

    def start(*words):
        program = Program([*MPROXY, *map(str, words)], env=environment)
        transfer.programs.append(program)
        return program

    sender = start("send", "--own-key", transfer.file("f", b"data"), "127.0.0.1", "9")
    assert sender.wait(30) == 2
    assert "client-key.pem; create it with 'mproxy keygen'" in sender.log.text
    for option in ([], ["--host"]):
        assert start("keygen", *option).wait(30) == 0
    receiver = start("recv", "--own-key", "0")
    assert receiver.wait(30) == 2
    assert f"into {state}/authorized_keys" in receiver.log.text
    line = start("keygen")
    line.wait(30)
    (state / "authorized_keys").write_text(line.out.text)
    receiver = start("recv", "--own-key", "--once", "0", "-o", f"{transfer.target}/")
    port = receiver.event("listening", within=30)["port"]
    assert start("send", "--own-key", transfer.source / "f", "127.0.0.1", port).wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "f").read_bytes() == b"data"
    assert (state / "known_hosts").read_text().startswith(f"127.0.0.1:{port} ")


def test_a_key_that_others_may_read_is_not_used(transfer, keys):
    os.chmod(keys.path("client"), 0o644)
    sender = keys.send(9)
    assert sender.wait(30) == 2
    assert "mode 0600" in sender.log.text


def test_every_address_of_a_name_is_tried(transfer):
    """Two addresses do not answer: the third is tried after half a second, not after all tries at the first."""
    data = content(8, 1_000_000)
    path = transfer.file("f", data)
    receiver, port = transfer.recv("--bind", "127.0.0.3")
    script = transfer.directory / "names.py"
    script.write_text("""
import socket, sys
import mproxy.programs.transfer as transfer
names = [(socket.AF_INET, (f"127.0.0.{number}", 0)) for number in (1, 2, 3, 4)]
transfer.look_up_host = lambda host: (names, None)
from mproxy.programs.send import main
sys.exit(main(sys.argv[1:]))
""")
    deaf = []
    for number in (1, 2, 4):
        deaf.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        deaf[-1].bind((f"127.0.0.{number}", port))
    began = time.monotonic()
    sender = Program([*MPROXY[:1], str(script), str(path), "three.example", str(port)],
                     env={**os.environ, "PYTHONPATH": str(MPROXY_ROOT)})
    transfer.programs.append(sender)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    assert time.monotonic() - began < 20
    assert (transfer.target / "f").read_bytes() == data
    for sock in deaf:
        sock.close()


def test_nobody_at_any_address(transfer):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        sender = transfer.start("send", "--json", "--retries", "2", transfer.file("f", b"x"), "localhost",
                                silent.getsockname()[1])
        assert sender.wait(MANY) == 6
    assert "does not answer" in sender.log.text
    assert '"status": 6' in sender.out.text


class Mute:
    """Dials, and lets the engine answer, but sends nothing itself."""

    def __init__(self):
        self.established = self.ended = None

    def on_established(self, _link):
        self.established = True

    def on_read_ended(self, _link):
        """Nothing to say."""

    def on_sent(self, _link):
        """Nothing to say."""

    def on_ended(self, _link, code, reason, local):
        self.ended = (code, reason, local)


def test_who_announces_nothing_keeps_no_place(transfer):
    receiver, port = transfer.recv("--senders", "1", once=False)
    loop, mute = Loop(), Mute()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        endpoint = DatagramEndpoint(loop, sock.fileno(), DatagramConfig())
    endpoint.connect(Target("there", [(socket.AF_INET, ("127.0.0.1", port))]), mute)

    def look():
        if mute.ended:
            loop.stop()
        else:
            loop.call_later(50_000, look)

    loop.call_later(50_000, look)
    loop.call_later(MANY * 1_000_000, loop.stop)
    loop.run()
    endpoint.close()
    assert mute.established
    assert mute.ended is not None
    assert "no file announced" in mute.ended[1]
    assert transfer.send(port, transfer.file("f", b"data")).wait(MANY) == 0
    assert "no file announced" in receiver.log.text


def test_who_sends_nothing_makes_room_for_others(transfer):
    """A sender that announces something and then stalls keeps its place until another one needs it."""
    receiver, port = transfer.recv("--senders", "1", once=False)
    stalled = transfer.send(port, "-", stdin=subprocess.PIPE)
    receiver.event("sender", within=MANY)
    assert transfer.send(port, transfer.file("f", b"data")).wait(MANY) == 0
    assert stalled.wait(MANY) == 6
    assert "too slow, while others are waiting for its place" in stalled.log.text
    assert (transfer.target / "f").read_bytes() == b"data"


class Slow:
    """A FileReceiver as Recv sees it."""

    def __init__(self):
        self.progress = self.messages = 0
        self.waits_for_us = False
        self.ended = None

    def give_up(self, code, reason):
        self.ended = (code, reason)


def test_who_gets_on_keeps_its_place(monkeypatch):
    program = recv.Recv(parse_recv(["--open", "7000"]), None, Loop())
    names = ("stalled", "slow", "small files", "our disk is busy")
    receivers = {name: Slow() for name in names}
    monkeypatch.setattr(program, "_receivers", dict.fromkeys(receivers.values(), ("127.0.0.1", 1)))
    for second in range(0, 60, 5):
        monkeypatch.setattr(recv.time, "monotonic", lambda second=second: 1000.0 + second)
        receivers["slow"].progress += 6000
        receivers["small files"].messages += 50
        receivers["our disk is busy"].waits_for_us = True
        program.on_full()
    assert [name for name in names if receivers[name].ended] == ["stalled"]


def test_the_latest_of_several_that_send_the_same_goes_on(monkeypatch):
    """Each finds the others in its way, and they must not all end each other."""
    program = recv.Recv(parse_recv(["--open", "7000"]), None, Loop())
    receivers = [Slow() for _ in range(3)]
    for receiver in receivers:
        receiver.is_receiving = lambda _file, receiver=receiver: receiver.ended is None
    monkeypatch.setattr(program, "_receivers", dict.fromkeys(receivers, ("127.0.0.1", 1)))
    for looks in (1, 2):
        for receiver in (receivers[1], receivers[2], receivers[1], receivers[0]):
            program.on_busy(receiver, None, looks, lambda: None)
    assert [receiver.ended is None for receiver in receivers] == [False, False, True]


class Stranger:
    """Dials, begins a handshake that needs a key to finish, and waits; when it is over another one follows."""

    def __init__(self, crowd):
        self._crowd = crowd

    def on_handshake(self, link, data):
        if not data:
            link.send_handshake(bytes([Suite.XX_AESGCM]) + os.urandom(32))

    def on_established(self, _link):
        raise AssertionError("it has no key")

    def on_sent(self, _link):
        """Nothing to say."""

    def on_ended(self, _link, _code, _reason, _local):
        self._crowd.dial()


class Crowd:
    """An endless supply of strangers, in a thread: `count` at once, and `fresh` new ones every 50 ms."""

    def __init__(self, port, address, count, fresh):
        self.loop, self._target, self._fresh = Loop(), Target("there", [(socket.AF_INET, ("127.0.0.1", port))]), fresh
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))
            sock.setblocking(False)
            self.endpoint = DatagramEndpoint(self.loop, sock.fileno(), DatagramConfig(sealed=True, idle_us=20_000_000))
        self.dialled = 0
        for _ in range(count):
            self.dial()
        self.loop.call_later(50_000, self._more)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def dial(self):
        self.dialled += 1
        self.endpoint.connect(self._target, Stranger(self))

    def _more(self):
        for _ in range(self._fresh):
            self.dial()
        self.loop.call_later(50_000, self._more)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(MANY)
        self.endpoint.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9"], ids=["same address", "another"])
def test_strangers_do_not_keep_those_with_keys_from_their_places(transfer, keys, address):
    receiver, port = keys.recv("--senders", "2", once=False)
    crowd = Crowd(port, address, 100, 10)
    try:
        until(lambda: crowd.dialled > 150, MANY, "the crowd is there")
        sender = keys.send(port, "--timeout", "20s")
        assert sender.wait(MANY) == 0, str(sender)
    finally:
        crowd.close()
    assert (transfer.target / "f").read_bytes() == content(4, 300_000)
    assert len(receiver.events("sender")) == 1, "strangers are no senders"
    assert len(receiver.events()) < 100, "nor do they fill the log"
