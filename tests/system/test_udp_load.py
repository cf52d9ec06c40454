"""The UDP engine with trains, small paths, shortages and crowds; every packet is counted and every byte compared."""

import errno
import gc
import os
import random
import resource
import sys
import threading
import time

import pytest
from lab import KEPT_BYTES, until
from relays import RELAY, SERVER
from trains import REFUSALS, Refusal
from udp_lab import RelayThread, answers, client_of, open_descriptors, send_from, send_train, udp_socket

WINDOW = 32  # packets on the way: no queue of the test is ever full


def numbered(number, length):
    """A packet with its number, filled up with bytes that depend on it."""
    return (b"%08d" % number + bytes((number + n) % 256 for n in range(max(0, length - 8))))[:max(8, length)]


class Collector:
    """Receives packets in a thread, in order."""

    def __init__(self, sock):
        self.packets = []
        self._sock = sock
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            while True:
                self.packets.append(self._sock.recv(70_000))
        except OSError:
            pass

    def wait(self, count):
        until(lambda: len(self.packets) >= count, 20, f"{count} packets, have {len(self.packets)}")


@pytest.mark.parametrize("upwards", [True, False], ids=["to the target", "to the client"])
def test_trains_and_single_packets_of_mixed_sizes_arrive_whole_and_in_order(host, udp_relay, seed, upwards):
    """Sent with GSO, received in any way: the same packets arrive, none joined, cut or duplicated."""
    server = udp_socket(host)
    key, port = udp_relay.rule([server.getsockname()])
    client = client_of(host, "127.0.0.1", port)
    client.send(b"open")
    _data, peer = server.recvfrom(100)
    server.connect(peer)
    sender, receiver = (client, server) if upwards else (server, client)
    got = Collector(receiver)
    chance = random.Random(seed)
    sent = []
    while len(sent) < 4000:
        segment = chance.choice([8, 50, 400, 1400, 1400, 1400, 9000])
        count = chance.randint(1, min(60, 60_000 // segment))
        packets = [numbered(len(sent) + n, segment) for n in range(count)]
        if chance.random() < 0.5:
            packets[-1] = packets[-1][:chance.randint(1, segment)]
        if chance.random() < 0.7 and count > 1:
            send_train(sender, b"".join(packets), segment)
        else:
            for packet in packets:
                sender.send(packet)
        if chance.random() < 0.1:
            packets.append(b"")
            sender.send(b"")
        sent += packets
        got.wait(len(sent) - WINDOW)
    got.wait(len(sent))
    assert got.packets == sent
    stats = udp_relay.stats(key)
    name = "in" if upwards else "out"
    assert stats[f"packets_{name}"] == len(sent) + upwards
    assert stats[f"bytes_{name}"] == sum(map(len, sent)) + 4 * upwards
    assert stats["errors"] == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("upwards", [True, False], ids=["to the target", "to the client"])
def test_a_path_too_small_for_the_train_gets_its_packets_one_by_one(lab, ends, version, upwards):
    """Packets of 1,400 bytes over a link with an MTU of 1,300: trains cannot be cut for that, but fragments can."""
    relay = RelayThread(lab.router)
    ends.callback(relay.close)
    small = lab.core if upwards else lab.wifi
    lab.router.ip(f"link set {small.name} mtu 1300")
    small.end.ip(f"link set {small.name} mtu 1300")
    address = lab.core.address(2) if version == 4 else lab.core.address6(2)
    listening = lab.wifi.address(1) if version == 4 else lab.wifi.address6(1)
    server = udp_socket(lab.server, address)
    key, port = relay.rule([(address, server.getsockname()[1])], "0.0.0.0" if version == 4 else "::")
    client = client_of(lab.client, listening, port)
    client.send(b"open")
    server.connect(server.recvfrom(100)[1][:2])
    sender, receiver = (client, server) if upwards else (server, client)
    got = Collector(receiver)
    sent = []
    for size in (1400, 1400, 1000, 1400):
        packets = [numbered(len(sent) + n, size) for n in range(10)]
        send_train(sender, b"".join(packets), size)
        sent += packets
        got.wait(len(sent))
    assert got.packets == sent
    assert relay.stats(key)["errors"] == 0


@pytest.mark.parametrize("error", REFUSALS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("upwards", [True, False], ids=["to the target", "to the client"])
def test_a_system_that_refuses_trains_gets_their_packets_one_by_one(lab, relay, tmp_path, error, upwards):
    """Every packet arrives, in order, whichever error the system gives, and no flow keeps trying."""
    refusal = Refusal(tmp_path, error)
    server = udp_socket(lab.server, SERVER)
    relay.start(f"udp 7000 -> {SERVER}:{server.getsockname()[1]}", env=refusal.environment)
    client = client_of(lab.client, RELAY, 7000)
    client.send(b"open")
    server.connect(server.recvfrom(100)[1][:2])
    sender, receiver = (client, server) if upwards else (server, client)
    got = Collector(receiver)
    sent = []
    for _ in range(10):
        packets = [numbered(len(sent) + n, 1400) for n in range(20)]
        packets[-1] = packets[-1][:700]
        send_train(sender, b"".join(packets), 1400)
        sent += packets
        got.wait(len(sent))
    assert got.packets == sent
    assert relay.status()["rules"][0]["counters"]["errors"] == 0
    assert 0 < refusal.refused < 10


def test_a_packet_too_long_for_the_target_costs_only_itself(host, udp_relay, echo):
    """IPv6 carries 20 bytes more than IPv4 can."""
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], "::1")
    client = client_of(host, "::1", port)
    answers(client, b"x")
    client.send(bytes(65527))
    udp_relay.reaches(key, errors=1)
    assert answers(client, b"y") == b"y"
    assert udp_relay.stats(key)["total"] == 1


def test_without_descriptors_the_oldest_flow_makes_room(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()  # sockets of earlier tests would be closed meanwhile
    free = [os.dup(0) for _ in range(25)]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    try:
        for client in clients:
            assert answers(client, b"x") == b"x"
        stats = udp_relay.stats(key)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert stats["total"] == 60
    assert 20 <= stats["sessions"] <= 25
    assert stats["evicted"] == 60 - stats["sessions"]
    assert stats["refused"] == 0
    assert answers(clients[-1], b"y") == b"y"
    assert udp_relay.stats(key)["total"] == 60


def test_a_thousand_clients_at_once(host, udp_relay, echo):
    """Each has its own socket; all send before anybody reads, ten times."""
    key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(1000)]
    for turn in range(10):
        for first in range(0, 1000, 100):  # a server in Python has a small queue
            some = clients[first:first + 100]
            for number, client in enumerate(some, first):
                client.send(b"%d %d" % (turn, number))
            for number, client in enumerate(some, first):
                assert client.recv(100) == b"%d %d" % (turn, number)
    stats = udp_relay.stats(key)
    assert (stats["sessions"], stats["packets_in"], stats["packets_out"]) == (1000, 10_000, 10_000)
    assert len(echo.peers) == 1000


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@pytest.mark.long
def test_a_hundred_thousand_flows_leave_nothing_behind(host, udp_relay):
    """So many client addresses, each with an answer, pass through a table of 2,000; then there is silence."""
    server = Reflector(host)
    key, port = udp_relay.rule([server.sock.getsockname()], max_connections=2000, idle_timeout_us=2_000_000)
    client = udp_socket(host, "0.0.0.0")
    run_clients(client, port, 0, 5_000)  # memory that the process keeps for itself is had by now
    udp_relay.reaches(key, sessions=0)
    gc.collect()
    descriptors, memory = open_descriptors(), resident_bytes()
    begun_at = time.monotonic()
    run_clients(client, port, 5_000, 105_000)
    print(f"100,000 flows in {time.monotonic() - begun_at:.1f} s")
    stats = udp_relay.reaches(key, sessions=0)
    assert stats["total"] == 105_000
    assert stats["evicted"] + stats["expired"] == 105_000
    assert stats["packets_out"] == 105_000
    gc.collect()
    assert open_descriptors() <= descriptors  # threads of former tests may still be closing theirs
    assert resident_bytes() - memory < (2 << 20) + KEPT_BYTES
    server.close()


class Reflector:
    """An echo that stores nothing, since the addresses of 100,000 flows would take memory, too."""

    def __init__(self, host):
        self.sock = udp_socket(host, timeout=0.1)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopping:
            try:
                self.sock.sendto(*self.sock.recvfrom(100))
            except TimeoutError:
                continue

    def close(self):
        self._stopping = True
        self._thread.join()
        self.sock.close()


def run_clients(sock, port, first, last):
    """The clients `first` to `last`, each with its own address, send a packet and get it back."""
    receiver = ("127.0.0.1", port)
    for start in range(first, last, WINDOW):
        numbers = range(start, min(start + WINDOW, last))
        for number in numbers:
            send_from(sock, f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}",
                      b"%d" % number, receiver)
        assert {int(sock.recv(100)) for _ in numbers} == set(numbers)


def test_python_does_not_run_for_packets(host, udp_relay, echo):
    """A thread that profiles itself counts no calls of Python functions for 2,000 packets in each direction."""
    key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(100)]
    calls = []

    def profile(frame, event, argument):
        if event == "call":
            calls.append(frame.f_code.co_name)
    udp_relay.call(sys.setprofile, profile)
    for _ in range(20):
        for client in clients:
            assert answers(client, b"x") == b"x"
    counted = list(calls)
    udp_relay.call(sys.setprofile, None)
    assert udp_relay.stats(key)["packets_out"] == 2000
    assert len(counted) < 20, counted[:50]


def test_two_sockets_of_one_port_keep_every_client(host, ends, echo):
    """With SO_REUSEPORT, as two workers use it, each client stays with the worker that it met first."""
    workers = [RelayThread(host) for _ in range(2)]
    for worker in workers:
        ends.callback(worker.close)
    _key, port = workers[0].rule([("127.0.0.1", echo.port)])
    workers[1].rule([("127.0.0.1", echo.port)], port=port)
    clients = [client_of(host, "127.0.0.1", port) for _ in range(64)]
    for _ in range(5):
        for client in clients:
            assert answers(client, b"x") == b"x"
    counts = [worker.stats(1)["sessions"] for worker in workers]
    assert sum(counts) == 64 and min(counts) > 0
    assert len(echo.peers) == 64
