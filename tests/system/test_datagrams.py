"""cproxy --udp: datagrams through the session, over every carrier, whatever happens to path and programs."""

import contextlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lab import until
from mortal import kill_worker
from proxies import CPROXY, DAEMON_PORT, SPROXY_PORT
from relays import MPROXY
from test_datagram_carriers import roam
from test_forwards import authorize, echoed
from traffic import Traffic
from udp_lab import Echo, answers, client_of, flood, udp_socket

ROOT = Path(__file__).resolve().parents[2]
UDP_PORT, DNS_PORT = 5353, 5300
TCP, UDP = ["--carrier", "tcp"], ["--carrier", "datagram"]
CARRIERS = pytest.mark.parametrize("carrier", [TCP, UDP], ids=["tcp", "datagram"])
LARGEST = 65507


def forward(pair, target, *options, port=UDP_PORT):
    """A cproxy that takes datagrams for `target`, and no connections."""
    pair.cproxy = pair.lab.client.start(CPROXY, *pair.options, "--udp", f"{port}:{target}", *options,
                                        pair.lab.server_address, SPROXY_PORT)
    pair.started.append(pair.cproxy)
    pair.cproxy.event("listening", 2)
    return pair.cproxy


def start(pair, lab, ends, carrier=TCP, sproxy=(), cproxy=()):
    """An echo beside sproxy, reached through both; returns a client's socket."""
    echo = ends.enter_context(Echo(lab.server, "127.0.0.1"))
    pair.start_sproxy("--allow", f"127.0.0.1:{echo.port}", *sproxy)
    forward(pair, f"127.0.0.1:{echo.port}", *carrier, *cproxy)
    pair.echo_server = echo
    return client_of(lab.client, "127.0.0.1", UDP_PORT)


def asks(client, data, patience=20):
    """Sends it again until it comes back, as applications over UDP do; how often that took."""
    client.settimeout(0.5)
    until_when = time.monotonic() + patience
    for count in range(1, 1000):
        client.send(data)
        with contextlib.suppress(TimeoutError, ConnectionRefusedError):
            while client.recv(70_000) != data:
                pass
            return count
        assert time.monotonic() < until_when, "no answer"
    return None


@CARRIERS
def test_every_size_there_and_back(pair, lab, ends, carrier):
    client = start(pair, lab, ends, carrier)
    asks(client, b"begin")
    for length in (0, 1, 512, 1200, 1420, 1472, 4096, 4097, 9000, LARGEST):
        data = random.Random(length).randbytes(length)
        assert answers(client, data) == data, length


@CARRIERS
def test_the_first_datagram_makes_the_session_and_arrives(pair, lab, ends, carrier):
    client = start(pair, lab, ends, carrier)
    assert not pair.sproxy.events("connected")
    assert answers(client, b"first") == b"first"


def test_many_clients_on_one_port(pair, lab, ends):
    first = start(pair, lab, ends)
    asks(first, b"begin")
    clients = [client_of(lab.client, "127.0.0.1", UDP_PORT) for _ in range(50)]
    clients += [client_of(lab.client, "::1", UDP_PORT)]
    for _ in range(3):
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            assert client.recv(100) == b"%d" % number
    assert len(pair.echo_server.peers) == len(clients) + 1
    status = lab.client.run(MPROXY, "status")
    assert f"{len(clients) + 1} flows of datagrams" in status and "127.0.0.1:" in status


def test_answers_come_from_the_target_alone(pair, lab, ends):
    client = start(pair, lab, ends)
    asks(client, b"hello")
    [flow] = pair.echo_server.peers
    stranger = udp_socket(lab.server)
    stranger.sendto(b"from a stranger", flow)
    assert answers(client, b"again") == b"again"


# ---- real programs

DNS_NAMES = {"one.test": "192.0.2.1", "two.test": "192.0.2.2"}


@CARRIERS
def test_dns(pair, lab, carrier):
    """A real name server, and a real client of it."""
    names = [f"--address=/{name}/{address}" for name, address in DNS_NAMES.items()]
    lab.server.start("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                     "--bind-interfaces", "--listen-address=127.0.0.1", "--user=root", "--group=",
                     f"--port={DNS_PORT}", "--pid-file=", *names)
    pair.start_sproxy("--allow", f"localhost:{DNS_PORT}")
    forward(pair, f"localhost:{DNS_PORT}", *carrier)
    for name, address in DNS_NAMES.items():
        found = lab.client.run("dig", "+short", "+tries=10", "+time=1", "-p", str(UDP_PORT), "@127.0.0.1", name)
        assert found.split() == [address]


class Tunnel:
    """Both ends of something like WireGuard: 1,420 bytes at a steady pace both ways, each with a number."""

    def __init__(self, client, server):
        self.client, self.server = client, server
        self.got = {"client": set(), "server": set()}
        self.peer = None
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=run) for run in (self.take_server, self.take_client, self.send)]
        self.sent = 0
        for thread in self.threads:
            thread.start()

    def send(self):
        while not self.ending.wait(0.002):
            data = self.sent.to_bytes(4, "big") * 355
            self.client.send(data)
            if self.peer is not None:
                self.server.sendto(data, self.peer)
            self.sent += 1

    def take(self, sock, name):
        sock.settimeout(0.2)
        while not self.ending.is_set():
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                data, peer = sock.recvfrom(70_000)
                assert data == data[:4] * 355
                if name == "server":
                    self.peer = peer
                self.got[name].add(int.from_bytes(data[:4], "big"))

    def take_server(self):
        self.take(self.server, "server")

    def take_client(self):
        self.take(self.client, "client")

    def goes_on(self):
        """New datagrams pass both ways."""
        numbers = {name: len(got) for name, got in self.got.items()}
        until(lambda: all(len(got) > numbers[name] + 50 for name, got in self.got.items()), 20, "datagrams pass")

    def stop(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def tunnel(pair, lab, request, ends):
    carrier = request.param
    server = udp_socket(lab.server)
    port = server.getsockname()[1]
    pair.start_sproxy("--allow", f"127.0.0.1:{port}", "--keeper")
    forward(pair, f"127.0.0.1:{port}", "--keeper", *carrier)
    both = Tunnel(client_of(lab.client, "127.0.0.1", UDP_PORT), server)
    ends.callback(both.stop)
    both.goes_on()
    return both


TUNNELS = pytest.mark.parametrize("tunnel", [TCP, UDP], ids=["tcp", "datagram"], indirect=True)


@TUNNELS
def test_a_tunnel_through_a_change_of_address(pair, lab, tunnel):
    roam(pair, lab.phone, lab.wifi, 20)
    tunnel.goes_on()
    assert not pair.sproxy.events("ended")


@TUNNELS
def test_a_tunnel_through_deaths_and_upgrades(pair, tunnel):
    for program in (pair.sproxy, pair.cproxy):
        kill_worker(program)
        tunnel.goes_on()
    for program in (pair.sproxy, pair.cproxy):
        program.process.send_signal(signal.SIGUSR2)
        program.event("upgraded")
        tunnel.goes_on()
    kill_worker(pair.sproxy, pair.cproxy)
    tunnel.goes_on()
    assert not pair.sproxy.events("ended")


@CARRIERS
def test_beside_bulk_over_tcp(pair, lab, ends, carrier):
    """Connections with much to carry both ways, and more datagrams than find room: neither comes to a stop."""
    echo = ends.enter_context(Echo(lab.server, "127.0.0.1"))
    pair.echo()
    pair.start_sproxy("--allow", f"127.0.0.1:{echo.port}")
    pair.start_cproxy("--udp", f"{UDP_PORT}:127.0.0.1:{echo.port}", *carrier)
    client = client_of(lab.client, "127.0.0.1", UDP_PORT)
    bulk = Traffic([pair.app() for _ in range(3)], in_flight=1 << 20)
    with flood(lab.client, UDP_PORT):
        for _ in range(3):
            bulk.goes_on(more=4 << 20, within=60)
            asks(client, b"beside bulk")
    bulk.finish(within=60)


# ---- who may

def test_only_what_is_allowed(pair, lab):
    pair.start_sproxy("--allow", "127.0.0.1:53")
    forward(pair, "127.0.0.1:54")
    client = client_of(lab.client, "127.0.0.1", UDP_PORT)
    client.send(b"hello")
    refused = pair.cproxy.event("datagrams-refused")
    assert (refused["target"], refused["why"]) == ("127.0.0.1:54", "target is not allowed")
    assert pair.sproxy.event("datagrams-refused")["target"] == "127.0.0.1:54"


def test_what_a_key_may(pair, lab, ends):
    echo = ends.enter_context(Echo(lab.server, "127.0.0.1"))
    authorize(lab, f'target="127.0.0.1:{echo.port}",max-flows=3 ')
    pair.start_sproxy("--allow", "*:*", "--allow", "127.0.0.1:*")
    pair.cproxy = lab.client.start(CPROXY, "--udp", f"{UDP_PORT}:127.0.0.1:{echo.port}", "--udp",
                                   f"{UDP_PORT + 1}:127.0.0.1:1", lab.server_address, SPROXY_PORT)
    pair.started.append(pair.cproxy)
    pair.cproxy.event("listening", 4)
    for _ in range(10):
        asks(client_of(lab.client, "127.0.0.1", UDP_PORT), b"x")
    assert pair.cproxy.event("datagrams-refused")["target"] == "127.0.0.1:1"
    assert "3 flows of datagrams" in lab.server.run(MPROXY, "status")
    client = client_of(lab.client, "127.0.0.1", UDP_PORT)
    asks(client, b"still")
    authorize(lab, 'target="127.0.0.1:1" ')
    pair.cproxy.event("datagrams-refused", 2)
    until(lambda: "0 flows" in lab.server.run(MPROXY, "status"), 10, "flows of a right that was taken away end")


def test_flows_of_a_key_count_over_workers(pair, lab, ends):
    echo = ends.enter_context(Echo(lab.server, "127.0.0.1"))
    authorize(lab, "max-flows=3 ")
    pair.start_sproxy("--workers", "3", "--allow", f"127.0.0.1:{echo.port}")
    places = range(UDP_PORT, UDP_PORT + 3)
    for port in places:
        forward(pair, f"127.0.0.1:{echo.port}", port=port)
        asks(client_of(lab.client, "127.0.0.1", port), b"first")
    for port in places:
        for _ in range(5):
            asks(client_of(lab.client, "127.0.0.1", port), b"next")
    flows = [int(count) for count in re.findall(r"(\d+) flows? of datagrams", lab.server.run(MPROXY, "status"))]
    assert len(flows) == len(places) and sum(flows) == 3


def test_idle_flows_end(pair, lab, ends):
    client = start(pair, lab, ends, sproxy=["--udp-idle", "1s"], cproxy=["--udp-idle", "1s"])
    asks(client, b"x")
    assert "1 flow of" in lab.client.run(MPROXY, "status")
    for host in (lab.client, lab.server):
        until(lambda host=host: "0 flows of" in host.run(MPROXY, "status"), 10, "the flow ends")
    assert answers(client, b"again") == b"again"


def test_a_flood_of_new_clients_is_bounded(pair, lab, ends):
    """Each from another port: 1,024 flows are the most at either end, and who comes then is served."""
    first = start(pair, lab, ends)
    asks(first, b"x")
    for _ in range(3):
        crowd = [client_of(lab.client, "127.0.0.1", UDP_PORT) for _ in range(700)]
        for each in crowd:
            each.send(b"crowd")
        for each in crowd:
            each.close()
    asks(first, b"still")
    for host in (lab.client, lab.server):
        found = re.search(r"(\d+) flows of datagrams", host.run(MPROXY, "status"))
        assert found and int(found[1]) <= 1024


OLD_SPROXY = """
import sys
from mproxy._wire import WelcomeFeature
from mproxy.programs.admission import Admission
from mproxy.programs.sproxy import main
begin = Admission.__init__
def begin_without(self, *arguments, **named):
    begin(self, *arguments, **named)
    self.features &= ~WelcomeFeature.DATAGRAMS
Admission.__init__ = begin_without
sys.exit(main(sys.argv[1:]))
"""


def test_an_sproxy_that_knows_no_datagrams(pair, lab):
    """cproxy says so, and connections go on."""
    pair.echo()
    pair.sproxy = lab.server.start(sys.executable, "-c", OLD_SPROXY, "--no-keeper", SPROXY_PORT,
                                   f"127.0.0.1:{DAEMON_PORT}", env={"PYTHONPATH": str(ROOT)})
    pair.sproxy.event("listening")
    pair.start_cproxy("--udp", f"{UDP_PORT}:127.0.0.1:53")
    client = client_of(lab.client, "127.0.0.1", UDP_PORT)
    client.send(b"hello")
    assert "too old" in pair.cproxy.event("datagrams-refused")["why"]
    client.send(b"hello")
    assert echoed(pair.app())


def test_bad_words(lab):
    for words, said in ((["--udp", "53"], "not [ADDRESS:]PORT:HOST:PORT"),
                        (["--udp", "53:/run/x"], "not [ADDRESS:]PORT:HOST:PORT"),
                        (["--udp", "53:host:99999"], "99999"),
                        (["--stdio", "--udp", "53:host:53"], "--stdio and --udp"),
                        (["--plain", "--udp", "53:host:53"], "--plain and --udp")):
        done = subprocess.run([CPROXY, *words, "server", "6200"], text=True, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
