"""The engine of UDP rules: flows, addresses, limits, ends. The relay runs in a thread of the test."""

import contextlib
import gc
import ipaddress
import socket

import pytest
from lab import outage, until
from udp_lab import Echo, RelayThread, answers, client_of, flood, is_silent, open_descriptors, send_from, udp_socket

from mproxy.relay.rules import Rule, RuleOptions

REFUSED = 111  # ECONNREFUSED
LARGEST = 65507


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
def test_packets_of_every_length_pass_whole_both_ways(host, udp_relay, ends, address, server):
    echo = ends.enter_context(Echo(host, server))
    key, port = udp_relay.rule([(server, echo.port)], address)
    client = client_of(host, address, port)
    sent = 0
    for length in (1, 0, 100, 512, 1472, 1473, 9000, 65000, LARGEST - 1, LARGEST):
        data = bytes(n * 7 % 251 for n in range(length))
        assert answers(client, data) == data
        sent += length
    stats = udp_relay.reaches(key, packets_out=10)
    assert (stats["packets_in"], stats["bytes_in"], stats["bytes_out"]) == (10, sent, sent)
    assert (stats["sessions"], stats["total"], stats["errors"]) == (1, 1, 0)


def test_every_client_has_a_socket_of_its_own(host, udp_relay, echo):
    _key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(20)]
    for _ in range(3):
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            assert client.recv(100) == b"%d" % number
    assert len(echo.peers) == 20
    assert udp_relay.count() == 20


@pytest.mark.parametrize("listening", ["0.0.0.0", "::"])
def test_the_reply_comes_from_the_address_the_client_sent_to(host, udp_relay, echo, listening):
    """The clients' sockets are connected, so they would not accept a reply from another address."""
    addresses = ["127.0.0.1", "127.5.5.5", "127.200.0.1"]
    if listening == "::":
        host.ip("addr add fd00:77::1/64 dev lo nodad", "addr add fd00:77::2/64 dev lo nodad")
        until(lambda: "tentative" not in host.run("ip", "-6", "addr", "show", "dev", "lo"), 20, "addresses of our own")
        addresses += ["::1", "fd00:77::1", "fd00:77::2"]
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], listening)
    for address in addresses:
        client = client_of(host, address, port)
        assert answers(client, address.encode()) == address.encode()
    assert udp_relay.stats(key)["sessions"] == len(addresses)


def test_one_client_socket_to_two_addresses_is_two_flows(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], "0.0.0.0")
    client = udp_socket(host)
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.1"):
        client.sendto(b"hello", (address, port))
        assert client.recvfrom(100) == (b"hello", (address, port))
    assert udp_relay.stats(key)["sessions"] == 2


def test_the_reply_over_a_network_comes_from_the_address_the_client_sent_to(lab, ends):
    """The route to the client uses the router's wifi address; the client wrote to that of the core."""
    relay = RelayThread(lab.router)
    ends.callback(relay.close)
    for any_address, server, near, far in (
            ("0.0.0.0", lab.core.address(2), lab.wifi.address(1), lab.core.address(1)),
            ("::", lab.core.address6(2), lab.wifi.address6(1), lab.core.address6(1))):
        echo = ends.enter_context(Echo(lab.server, server))
        _key, port = relay.rule([(server, echo.port)], any_address)
        for address in (near, far):
            assert answers(client_of(lab.client, address, port), b"from " + address.encode()).endswith(address.encode())


def test_link_local_clients_are_answered(lab, ends):
    def link_local(host, device):
        text = host.run("ip", "-6", "-o", "addr", "show", "dev", device, "scope", "link")
        return text.split("inet6 ")[1].split("/")[0]
    relay = RelayThread(lab.router)
    ends.callback(relay.close)
    echo = ends.enter_context(Echo(lab.router))
    _key, port = relay.rule([("127.0.0.1", echo.port)], "::")
    client = udp_socket(lab.client, "::")
    with lab.client.inside():
        client.connect((link_local(lab.router, "wifi"), port, 0, socket.if_nametoindex("wifi")))
    assert answers(client, b"near") == b"near"


def test_a_refusal_ends_that_flow_alone(host, udp_relay, ends, echo):
    closed = udp_socket(host)
    dead = closed.getsockname()
    key, port = udp_relay.rule([("127.0.0.1", echo.port), dead])
    good = client_of(host, "127.0.0.1", port)
    assert answers(good, b"one") == b"one"
    closed.close()
    bad = client_of(host, "127.0.0.1", port)
    bad.send(b"nobody there")
    assert udp_relay.reaches(key, errors=1, sessions=1)["total"] == 2
    assert [event[0] for event in udp_relay.events] == ["on_target_down", "on_refused"]
    assert udp_relay.events[1][3] == REFUSED
    assert answers(good, b"two") == b"two"
    assert answers(bad, b"elsewhere now") == b"elsewhere now"


def test_refusals_do_not_fill_the_log(host, udp_relay):
    closed = udp_socket(host)
    key, port = udp_relay.rule([("127.0.0.1", closed.getsockname()[1])])
    closed.close()
    for number in range(1, 51):
        client_of(host, "127.0.0.1", port).send(b"nobody there")
        udp_relay.reaches(key, errors=number, sessions=0)
    assert 1 <= len(udp_relay.events) <= 10


def test_a_full_rule_ends_the_flow_that_was_silent_longest(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], max_connections=3)
    clients = [client_of(host, "127.0.0.1", port) for _ in range(4)]
    for client in clients[:3]:
        answers(client, b"here")
    peers = set(echo.peers)
    answers(clients[0], b"still here")
    answers(clients[3], b"new")
    assert udp_relay.stats(key)["evicted"] == 1
    assert udp_relay.stats(key)["sessions"] == 3
    assert answers(clients[0], b"kept") == answers(clients[2], b"kept") == b"kept"
    assert len(echo.peers) == 4
    assert answers(clients[1], b"again") == b"again"  # a new flow, so a new address at the server
    assert len(echo.peers - peers) == 2


def test_who_makes_room_may_be_refused_at_that_moment(host, udp_relay):
    """Goal: what a client sent before it lost its place is still sent, and it ends once, even if that is refused. The
    first batch, of 64 packets, leaves as a train that is refused; the next one is read in the same turn."""
    closed = udp_socket(host)
    key, port = udp_relay.rule([("127.0.0.1", closed.getsockname()[1])], max_connections=1)
    closed.close()
    first, second = (client_of(host, "127.0.0.1", port) for _ in range(2))

    def send_all():
        for _ in range(65):
            first.send(b"nobody there")
        second.send(b"nobody there")
    udp_relay.call(send_all)
    stats = udp_relay.reaches(key, sessions=0, evicted=1)
    assert stats["total"] == 2
    assert stats["errors"] == 1  # of the newcomer; who makes room has ended anyway


def test_the_table_is_bounded_over_all_rules(host, ends, echo):
    relay = RelayThread(host, max_flows=10)
    ends.callback(relay.close)
    ports = [relay.rule([("127.0.0.1", echo.port)])[1] for _ in range(3)]
    for _ in range(20):
        for port in ports:
            assert answers(client_of(host, "127.0.0.1", port), b"x") == b"x"
        assert relay.count() <= 10
    assert relay.count() == 10


def test_one_source_can_not_push_others_out(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], max_connections=100, per_source=5)
    others = [client_of(host, "127.0.0.1", port, f"127.0.0.{n}") for n in range(2, 12)]
    for client in others:
        answers(client, b"x")
    many = [client_of(host, "127.0.0.1", port, "127.0.0.99") for _ in range(50)]  # none gets the port of one before
    for client in many:
        answers(client, b"x")
    for client in others:
        assert answers(client, b"y") == b"y"
    stats = udp_relay.stats(key)
    assert (stats["total"], stats["sessions"], stats["evicted"]) == (60, 15, 45)


def test_a_flow_ends_when_it_is_idle_and_not_before(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], idle_timeout_us=1_000_000)
    client = client_of(host, "127.0.0.1", port)
    for _ in range(8):  # twice the timeout, in steps that a busy machine may double
        answers(client, b"x")
        outage(0.25)
    assert udp_relay.stats(key)["total"] == 1
    assert udp_relay.reaches(key, sessions=0)["expired"] == 1
    assert answers(client, b"again") == b"again"
    assert udp_relay.stats(key)["total"] == 2


def test_replies_alone_keep_a_flow(host, udp_relay, ends):
    server = udp_socket(host)
    key, port = udp_relay.rule([server.getsockname()], idle_timeout_us=1_000_000)
    client = client_of(host, "127.0.0.1", port)
    client.send(b"subscribe")
    _data, peer = server.recvfrom(100)
    for _ in range(8):
        server.sendto(b"news", peer)
        assert client.recv(100) == b"news"
        outage(0.25)
    assert udp_relay.stats(key)["total"] == udp_relay.stats(key)["sessions"] == 1
    udp_relay.reaches(key, sessions=0, expired=1)


def test_packets_of_the_client_alone_keep_a_flow(host, udp_relay):
    server = udp_socket(host)
    key, port = udp_relay.rule([server.getsockname()], idle_timeout_us=1_000_000)
    client = client_of(host, "127.0.0.1", port)
    peers = set()
    for _ in range(8):
        client.send(b"report")
        peers.add(server.recvfrom(100)[1])
        outage(0.25)
    assert len(peers) == 1
    udp_relay.reaches(key, sessions=0, expired=1)


def test_clients_that_are_not_allowed_get_nothing(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], allow=(ipaddress.ip_network("127.0.1.0/24"),),
                           deny=(ipaddress.ip_network("127.0.1.7/32"),))
    assert answers(client_of(host, "127.0.0.1", port, "127.0.1.1"), b"x") == b"x"
    for source in ("127.0.1.7", "127.0.2.1"):
        client = client_of(host, "127.0.0.1", port, source)
        client.send(b"x")
        assert is_silent(client)
    assert udp_relay.stats(key)["refused"] == 2
    assert udp_relay.count() == 1


@pytest.mark.parametrize("balance", ["roundrobin", "leastconn"])
def test_new_flows_are_spread_over_the_targets(host, udp_relay, ends, balance):
    echoes = [ends.enter_context(Echo(host, mark=mark)) for mark in (b"a", b"b", b"c")]
    _key, port = udp_relay.rule([("127.0.0.1", echo.port) for echo in echoes], balance=balance)
    clients = [client_of(host, "127.0.0.1", port) for _ in range(30)]
    marks = [answers(client, b"") for client in clients]
    assert {mark: marks.count(mark) for mark in (b"a", b"b", b"c")} == {b"a": 10, b"b": 10, b"c": 10}
    assert [answers(client, b"") for client in clients] == marks, "a flow stays with its target"


def test_new_flows_go_where_there_are_fewest(host, udp_relay, ends):
    echoes = [ends.enter_context(Echo(host, mark=mark)) for mark in (b"a", b"b")]
    targets = [("127.0.0.1", echo.port) for echo in echoes]
    key, port = udp_relay.rule(targets[:1], balance="leastconn")
    first = [answers(client_of(host, "127.0.0.1", port), b"") for _ in range(4)]
    udp_relay.aim(key, targets)
    second = [answers(client_of(host, "127.0.0.1", port), b"") for _ in range(4)]
    assert first + second == [b"a"] * 4 + [b"b"] * 4


def test_a_target_that_refuses_is_avoided(host, udp_relay, ends, echo):
    closed = udp_socket(host)
    dead = closed.getsockname()
    closed.close()
    key, port = udp_relay.rule([dead, ("127.0.0.1", echo.port)])
    client_of(host, "127.0.0.1", port).send(b"to the dead one")
    udp_relay.reaches(key, errors=1)
    for _ in range(10):
        assert answers(client_of(host, "127.0.0.1", port), b"x") == b"x"
    assert ("on_target_down", key, f"127.0.0.1:{dead[1]}", REFUSED) in udp_relay.events


def test_a_target_without_an_address_is_skipped(host, udp_relay, echo):
    key, port = udp_relay.rule([(None, 53), ("127.0.0.1", echo.port)])
    for _ in range(4):
        assert answers(client_of(host, "127.0.0.1", port), b"x") == b"x"
    udp_relay.aim(key, [(None, 53)])
    client_of(host, "127.0.0.1", port).send(b"x")
    udp_relay.reaches(key, refused=1)
    assert udp_relay.events == [("on_refused", key, "None:53", 0)]


def test_a_removed_rule_serves_its_flows_to_their_end(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], idle_timeout_us=1_000_000)
    known = client_of(host, "127.0.0.1", port)
    answers(known, b"x")
    udp_relay.call(udp_relay.relay.remove, key)
    assert answers(known, b"goes on") == b"goes on"
    stranger = client_of(host, "127.0.0.1", port)
    stranger.send(b"x")
    assert is_silent(stranger)
    until(lambda: udp_relay.count() == 0, 20, "the flow is over")
    assert_port_free(host, port)


def assert_port_free(host, port):
    def is_free():
        try:
            udp_socket(host, port=port).close()
        except OSError:
            return False
        return True
    until(is_free, 20, f"port {port} is free")


def test_a_rule_that_comes_back_takes_its_flows_over(host, udp_relay, echo):
    """Otherwise both sockets would get packets of the same clients, since the kernel spreads them by address."""
    key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(32)]
    for client in clients:
        answers(client, b"x")
    udp_relay.call(udp_relay.relay.remove, key)
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], port=port)
    assert udp_relay.stats(key)["sessions"] == 32
    for client in clients:
        assert answers(client, b"goes on") == b"goes on"
    assert udp_relay.stats(key)["total"] == 0
    assert len(echo.peers) == 32
    for _ in range(32):
        assert answers(client_of(host, "127.0.0.1", port), b"x") == b"x"


def test_options_change_for_new_flows_and_bounds_for_all(host, udp_relay, echo):
    key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(5)]
    for client in clients:
        answers(client, b"x")
    changed = Rule(1, "udp", "127.0.0.1", port, (), RuleOptions(max_connections=2, idle_timeout_us=500_000))
    udp_relay.call(udp_relay.relay.update, key, changed)
    assert udp_relay.stats(key)["sessions"] == 2
    udp_relay.reaches(key, sessions=0, evicted=3, expired=2)


def test_nothing_is_left_after_close(host, ends, echo):
    relay = RelayThread(host)
    gc.collect()  # what former tests left must not close its descriptors meanwhile
    before = open_descriptors()
    key, port = relay.rule([("127.0.0.1", echo.port)])
    clients = [client_of(host, "127.0.0.1", port) for _ in range(50)]
    for client in clients:
        answers(client, b"x")
        client.close()
    assert relay.stats(key)["sessions"] == 50
    assert open_descriptors() > before + 30  # threads of former tests may still be closing theirs
    relay.call(relay.relay.close)
    assert relay.count() == 0
    assert_port_free(host, port)
    assert open_descriptors() <= before
    relay.close()


def test_a_stranger_s_burst_does_not_stop_the_others(host, udp_relay, echo):
    """With 500 new clients at once in a table for 100, a known client that is active keeps its flow."""
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], max_connections=100, per_source=50)
    known = client_of(host, "127.0.0.1", port)
    burst = udp_socket(host, "0.0.0.0")
    for number in range(500):
        send_from(burst, f"127.9.{number % 250}.1", b"burst", ("127.0.0.1", port))
        if number % 20 == 0:
            assert answers(known, b"known") == b"known"
    assert udp_relay.stats(key)["sessions"] <= 100


def test_the_packets_of_a_stream_gather_and_stay_in_order(host, udp_relay, ends):
    """Nobody answers the flood. When it is over, the relay sleeps until the next packet again, and does not poll."""
    sink = ends.enter_context(udp_socket(host))
    key, port = udp_relay.rule([sink.getsockname()])
    numbers = []

    def gathers():
        for _ in range(100):
            data = sink.recv(200)
            assert data == data[:8] * 16
            numbers.append(int.from_bytes(data[:8], "big"))
        return udp_relay.gathering()
    with flood(host, port):
        until(gathers, 60, "the packets of a stream gather")
        for _ in range(20):
            gathers()
    assert numbers == sorted(set(numbers)), "no packet overtakes another, none comes twice"
    until(lambda: udp_relay.gathering() == 0, 20, "without a stream nothing gathers")
    assert udp_relay.stats(key)["sessions"] == 1
    sink.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while sink.recv(200):
            pass
    sink.settimeout(20)
    client_of(host, "127.0.0.1", port).send(b"alone")
    assert sink.recv(200) == b"alone"


def test_who_waits_for_answers_does_not_wait_for_others(host, udp_relay, echo):
    """However fast it is: one packet for each answer does not count as a stream."""
    _key, port = udp_relay.rule([("127.0.0.1", echo.port)])
    client = client_of(host, "127.0.0.1", port)
    for _ in range(40):
        for _ in range(50):
            answers(client, b"x" * 100)
        assert udp_relay.gathering() == 0


def test_a_rule_may_go_while_its_packets_gather(host, udp_relay, ends):
    sink = ends.enter_context(udp_socket(host))
    key, port = udp_relay.rule([sink.getsockname()])
    with flood(host, port):
        until(udp_relay.gathering, 60, "the packets of a stream gather")
        udp_relay.call(udp_relay.relay.remove, key)
        udp_relay.call(udp_relay.relay.close)
        assert udp_relay.gathering() == 0
    assert_port_free(host, port)
