"""`mproxy impair` as a process: packets of real sockets, many clients, statistics."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from lab import until
from program import Program

from mproxy.programs.impair_profiles import PROFILES

UDP_SEGMENT = 103  # linux/udp.h
MPROXY = [sys.executable, "-m", "mproxy.programs.main"]


@pytest.fixture
def server():
    """A UDP socket to which the clients write through the program."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        bound.settimeout(10)
        yield bound


@pytest.fixture
def impair(server):
    """Starts the program with options; gives (program, its port)."""
    started = []

    def start(*options):
        program = Program([*MPROXY, "impair", "--json", *options, "0", "127.0.0.1", str(server.getsockname()[1])])
        started.append(program)
        return program, int(program.event("listening")["port"])
    yield start
    for program in started:
        assert "Traceback" not in program.log.text
        program.close()


def client_of(port, host="127.0.0.1"):
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((host, port))
    client.settimeout(10)
    return client


def statistics(program):
    assert program.stop() == 0
    return json.loads(program.out.text.splitlines()[-1])


@pytest.mark.parametrize("length", [0, 1, 1400, 9000, 65507])
def test_packets_of_every_size_there_and_back(server, impair, length):
    program, port = impair("--mtu", "0")
    with client_of(port) as client:
        client.send(bytes(length))
        data, address = server.recvfrom(65536)
        assert len(data) == length
        server.sendto(b"answer" + data[:60000], address)
        assert client.recv(65536) == b"answer" + data[:60000]
    counts = statistics(program)
    assert counts["to_server"]["delivered"] == counts["to_client"]["delivered"] == 1
    assert counts["unsent"] == 0


def test_packets_larger_than_those_of_ethernet_vanish_unless_asked_otherwise(server, impair):
    """Trains that the loopback carries in one piece are cut into packets again."""
    program, port = impair()
    with client_of(port) as client:
        for length in (1473, 1472, 9000):
            client.send(bytes(length))
        assert len(server.recv(65536)) == 1472
        client.sendmsg([bytes(1000 * 40)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", 1000))])
        assert [len(server.recv(65536)) for _ in range(40)] == [1000] * 40
    told = program.event("too-large")
    assert told.level == "info" and "--mtu 0" in told["why"]
    counts = statistics(program)["to_server"]
    assert (counts["too_large"], counts["delivered"]) == (2, 41)


def test_clients_are_told_apart_and_answers_come_from_where_they_wrote_to(server, impair):
    _program, port = impair()
    clients = [client_of(port, host) for host in ["127.0.0.1", "127.0.0.2", "::1"] * 20]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
        data, address = server.recvfrom(100)
        server.sendto(b"to " + data, address)
    for number, client in enumerate(clients):
        assert client.recv(100) == b"to %d" % number
        client.close()


def test_the_oldest_client_makes_room(server, impair):
    program, port = impair("--clients", "2")
    for number in range(5):
        with client_of(port) as client:
            client.send(b"%d" % number)
            assert server.recv(100) == b"%d" % number
    assert statistics(program)["clients"] == 5


def test_the_same_seed_loses_the_same_packets(server, impair):
    came = []
    for _run in range(2):
        program, port = impair("--seed", "5", "--loss", "50/0", "--delay", "1ms")
        with client_of(port) as client:
            for number in range(200):
                client.send(b"%d" % number)
            client.send(b"end")
            client.send(b"end")
            lost = json.loads(program_report(program))["to_server"]["lost"]
            came.append([server.recv(100) for _ in range(202 - lost)])
    assert came[0] == came[1]
    assert 70 < len(came[0]) < 130


def program_report(program):
    """What SIGUSR1 prints, when everything has gone through."""
    def ask():
        before = program.out.text.count("\n")
        program.signal(signal.SIGUSR1)
        assert program.out.wait(lambda: program.out.text.count("\n") > before, 10)
        return program.out.text.splitlines()[-1]
    return until(lambda: (line := ask()).count('"packets": 202') and line, 10, "every packet went in")


def test_nobody_listens_at_the_server_yet(server, impair):
    """ICMP answers do not stop it."""
    _program, port = impair()
    where = server.getsockname()
    server.close()
    with client_of(port) as client, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
        for _ in range(10):
            client.send(b"anybody?")
        late.bind(where)
        late.settimeout(0.2)
        for _attempt in range(50):
            client.send(b"hello")
            try:
                assert late.recv(100) in (b"hello", b"anybody?")
                return
            except TimeoutError:
                continue
    raise AssertionError("nothing came through after the server was there")


def impair_set(*words):
    return subprocess.run([*MPROXY, "impair", "set", *words], capture_output=True, text=True, check=False, timeout=30)


def test_it_is_changed_while_it_runs(server, impair, tmp_path, monkeypatch):
    """Named each time: others may run on this host, which root sees."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    name = f"here-{os.getpid()}"
    nobody = impair_set("--loss", "1", name)
    assert nobody.returncode == 1 and nobody.stderr.startswith("mproxy impair set: no 'mproxy impair' ")
    program, port = impair("--name", name, "--delay", "1ms")
    with client_of(port) as client:
        client.send(b"before")
        assert server.recv(100) == b"before"
        assert impair_set("--loss", "100/0", name).stdout == "--loss 100/0 --delay 1ms\n"
        assert program.event("changed")["network"] == "--loss 100/0 --delay 1ms"
        client.send(b"lost")
        assert impair_set(name, "--loss", "0").stdout == "--delay 1ms\n"
        client.send(b"after")
        assert server.recv(100) == b"after"
    assert impair_set(str(program.pid)).stdout == "--delay 1ms\n"
    assert sorted(impair_set("--profile", "dsl", name).stdout.split()) == sorted(PROFILES["dsl"].split())
    wrong = impair_set("--loss", "200", name)
    assert wrong.returncode == 2 and "not a percentage" in wrong.stderr
    status = subprocess.run([*MPROXY, "status"], capture_output=True, text=True, check=False, timeout=30)
    assert "impair" not in status.stdout + status.stderr
    assert statistics(program)["to_server"]["lost"] == 1


def test_packets_come_from_another_port_and_answers_to_it_arrive(server, impair, tmp_path, monkeypatch):
    """As behind a NAT that forgot: what goes to the port before does not."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    name = f"nat-{os.getpid()}"
    program, port = impair("--name", name)
    with client_of(port) as client:
        client.send(b"one")
        first = server.recvfrom(100)[1]
        assert impair_set("--rebind", "now", name).returncode == 0
        client.send(b"two")
        second = server.recvfrom(100)[1]
        assert first != second
        server.sendto(b"to nobody", first)
        server.sendto(b"to the client", second)
        assert client.recv(100) == b"to the client"
        assert impair_set("--rebind", "100ms", name).stdout == "--rebind 100ms\n"
        ports = {second}

        def seen():
            client.send(b"again")
            ports.add(server.recvfrom(100)[1])
            return len(ports) > 3
        until(seen, 10, "its port changes by itself")
    assert statistics(program)["rebound"] > 3


def test_an_outage_lets_nothing_through(server, impair):
    program, port = impair("--outage", "600ms/300ms")
    server.settimeout(0.05)
    came, last = [], time.monotonic() + 3
    with client_of(port) as client:
        while time.monotonic() < last:
            client.send(b"tick")
            try:
                server.recv(100)
                came.append(time.monotonic())
            except TimeoutError:
                pass
    gaps = [later - sooner for sooner, later in pairwise(came) if later - sooner > 0.2]
    assert 3 <= len(gaps) <= 6 and all(gap < 0.6 for gap in gaps), gaps
    assert statistics(program)["to_server"]["lost_in_outages"] > 3


def test_wrong_command_line():
    program = Program([*MPROXY, "impair", "--loss", "200", "1", "h", "2"])
    assert program.wait() == 2
    assert "not a percentage" in program.log.text
    program.close()
