"""cproxy --udp under programs that live on datagrams: QUIC by aioquic, and WireGuard."""

import sys
from pathlib import Path

from lab import until
from long_cable import need_tun
from mortal import kill_worker
from proxies import CPROXY, SPROXY_PORT
from test_datagram_carriers import roam
from test_datagrams import CARRIERS, UDP_PORT
from traffic import Traffic

from benchmarks.harness.quic_bulk import make_certificate

QUIC_TALK = Path(__file__).with_name("quic_talk.py")
QUIC_PORT, GUARD_PORT, INSIDE_PORT = 4433, 51820, 7777


def forward(pair, port, carrier):
    """Both proxies, with a keeper each, and a port for datagrams to one of sproxy's host."""
    pair.start_sproxy("--allow", f"127.0.0.1:{port}", "--keeper")
    pair.cproxy = pair.lab.client.start(CPROXY, "--keeper", *carrier, "--udp", f"{UDP_PORT}:127.0.0.1:{port}",
                                        pair.lab.server_address, SPROXY_PORT)
    pair.started.append(pair.cproxy)
    pair.cproxy.event("listening", 2)


def live_through(pair, goes_on):
    """The address changes, and all workers die, under something that then `goes_on`; the session is the same."""
    goes_on()
    roam(pair, pair.lab.phone, pair.lab.wifi, 20)
    goes_on()
    kill_worker(pair.sproxy, pair.cproxy)
    goes_on()
    assert not pair.sproxy.events("ended")


@CARRIERS
def test_quic(pair, lab, tmp_path, carrier):
    """One connection of QUIC, many packets in flight, nothing of it changed."""
    certificate = tmp_path / "certificate.pem"
    make_certificate(certificate)
    server = lab.server.start(sys.executable, QUIC_TALK, "serve", str(QUIC_PORT), certificate)
    server.expect("^ready$")
    forward(pair, QUIC_PORT, carrier)
    client = lab.client.start(sys.executable, QUIC_TALK, "talk", str(UDP_PORT), certificate)

    def goes_on():
        done = len(client.out.lines)
        until(lambda: len(client.out.lines) > done + 5 or not client.running, 60, "blocks come back")
        assert client.running, client
    live_through(pair, goes_on)
    assert server.out.text.count("stream") == 1, "another connection"


class Guard:
    """One end of a tunnel of WireGuard in `host`, by wireguard-go, as not every kernel knows it; its address is
    10.77.0.NUMBER."""

    def __init__(self, host, number):
        self.host, self.number, self.device = host, number, f"wg{number}"
        host.run("mount", "-t", "tmpfs", "tmpfs", "/run")  # where they meet `wg`: of this host alone
        self.program = host.start("wireguard-go", "-f", self.device)
        until(lambda: self.device in host.run("wg", "show", "interfaces", check=False), 30, "a device of WireGuard")
        self.secret = host.home / "wireguard"
        self.secret.write_text(host.run("wg", "genkey"))
        self.key = host.run("wg", "pubkey", input=self.secret.read_text()).strip()

    def join(self, other, port=0, endpoint=()):
        """Up, with the other end as the only peer; `port`: of its own, 0: any."""
        self.host.run("wg", "set", self.device, "listen-port", port, "private-key", self.secret, "peer", other.key,
                      "allowed-ips", f"10.77.0.{other.number}/32", *endpoint)
        self.host.ip(f"addr add 10.77.0.{self.number}/24 dev {self.device}", f"link set {self.device} mtu 1420 up")


@CARRIERS
def test_wireguard(pair, lab, carrier):
    """A tunnel of WireGuard at its usual size, and TCP inside of it: full segments both ways, exact."""
    need_tun()
    server, client = Guard(lab.server, 1), Guard(lab.client, 2)
    server.join(client, GUARD_PORT)
    forward(pair, GUARD_PORT, carrier)
    client.join(server, endpoint=("endpoint", f"127.0.0.1:{UDP_PORT}"))
    pair.peer("echo", INSIDE_PORT, "all")
    inside = Traffic([lab.client.connect(INSIDE_PORT, "10.77.0.1", timeout=60)])
    live_through(pair, lambda: inside.goes_on(more=500_000, within=60))
    inside.finish(within=60)
