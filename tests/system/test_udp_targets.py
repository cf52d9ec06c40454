"""The UDP relay and its targets: which addresses answer, which port belongs to which flow, and which flow has to go."""

import contextlib
import random

import pytest
from lab import pause, until
from relays import ECHO_PORT, RELAY, SERVER, echoes, start_echo
from udp_lab import Echo, RelayThread, answers, client_of, is_silent, udp_socket


def free_port(host):
    with udp_socket(host, "0.0.0.0") as sock:
        return sock.getsockname()[1]


@pytest.fixture
def two(host, udp_relay, ends):
    """A rule for a name with 127.0.0.2 and 127.0.0.3, where nobody listens yet: (key, listening port, port)."""
    port = free_port(host)
    key, listening = udp_relay.rule([])
    udp_relay.aim_name(key, port, "127.0.0.2", "127.0.0.3")
    return key, listening, port


def asks_until_answered(client, most=50, pause=0.25):
    """The answer that a client gets when it repeats its question, and how often it had to ask."""
    client.settimeout(pause)
    for asked in range(1, most + 1):
        with contextlib.suppress(TimeoutError, ConnectionError):
            return answers(client, b"?"), asked
    return None, most


# ---- health

def test_both_addresses_of_a_name_serve(host, two, ends):
    _key, listening, port = two
    for number in (2, 3):
        ends.enter_context(Echo(host, f"127.0.0.{number}", port, mark=b"%d" % number))
    marks = [answers(client_of(host, "127.0.0.1", listening), b"") for _ in range(10)]
    assert sorted(marks) == [b"2"] * 5 + [b"3"] * 5


def test_a_client_that_asks_again_reaches_the_next_address(host, two, ends):
    """Goal: a single client finds the address that answers, whichever of the two is silent."""
    _key, listening, port = two
    silent = ends.enter_context(udp_socket(host, "127.0.0.2", port))
    ends.enter_context(Echo(host, "127.0.0.3", port, mark=b"3"))
    for _ in range(2):
        reply, asked = asks_until_answered(client_of(host, "127.0.0.1", listening))
        assert reply == b"3?" and asked < 15
    assert silent.recv(10) == b"?"


def test_a_silent_address_leaves_the_rotation_and_is_tried_again(host, udp_relay, two, ends):
    _key, listening, port = two
    silent = ends.enter_context(udp_socket(host, "127.0.0.2", port))
    ends.enter_context(Echo(host, "127.0.0.3", port, mark=b"3"))

    def is_answered():
        client = client_of(host, "127.0.0.1", listening)
        client.send(b"?")
        return not is_silent(client, 0.2)
    lost = [is_answered() for _ in range(60)].count(False)
    assert lost <= 6, "each new client has one packet, and none is told that it was lost"
    silent.close()
    ends.enter_context(Echo(host, "127.0.0.2", port, mark=b"2"))

    def is_back():
        return answers(client_of(host, "127.0.0.1", listening), b"") == b"2"
    until(is_back, 20, "the address is used again")
    assert udp_relay.named("on_target_down") == udp_relay.named("on_target_up")


def test_a_one_way_stream_stays_with_its_address(host, udp_relay, two, ends):
    """Goal: if no address ever answers, so that nothing is known of them, the packets of a stream stay together."""
    key, listening, port = two
    sinks = [ends.enter_context(udp_socket(host, f"127.0.0.{number}", port)) for number in (2, 3)]
    client = client_of(host, "127.0.0.1", listening)
    for number in range(200):
        client.send(b"%d" % number)
        pause(0.005 if number > 20 else 0)
    udp_relay.reaches(key, packets_in=200)
    counts = []
    for sink in sinks:
        sink.settimeout(0.1)
        count = 0
        with contextlib.suppress(TimeoutError):
            while sink.recv(10):
                count += 1
        counts.append(count)
    assert sorted(counts) == [0, 200]
    assert udp_relay.events == []


def test_a_refusal_sends_others_to_the_next_address(host, udp_relay, two, ends):
    """Goal: if the first address has a host but no server, each flow gets an ICMP error until that is known."""
    _key, listening, port = two
    ends.enter_context(Echo(host, "127.0.0.3", port, mark=b"3"))
    replies = [asks_until_answered(client_of(host, "127.0.0.1", listening)) for _ in range(20)]
    assert all(reply == b"3?" for reply, _ in replies)
    assert sum(asked > 1 for _, asked in replies) <= 2
    assert udp_relay.named("on_target_down") == [f"name:{port} at 127.0.0.2"]


def test_an_address_of_a_family_that_is_not_here_is_passed_over(host, udp_relay, ends):
    """Goal: the client notices nothing."""
    port = free_port(host)
    ends.enter_context(Echo(host, "127.0.0.3", port, mark=b"3"))
    key, listening = udp_relay.rule([])
    udp_relay.aim_name(key, port, "fe80::2", "127.0.0.3")  # without a scope: no way leads there
    for _ in range(10):
        assert answers(client_of(host, "127.0.0.1", listening), b"?") == b"3?"
    assert udp_relay.stats(key)["errors"] == 0
    assert {event[0] for event in udp_relay.events} == {"on_target_down"}


def test_a_flow_follows_the_name(host, udp_relay, two, ends):
    """Goal: if a name loses an address, its flows move with the next packet, though it still answers; others stay."""
    key, listening, port = two
    for number in (2, 3, 4):
        ends.enter_context(Echo(host, f"127.0.0.{number}", port, mark=b"%d" % number))
    clients = [client_of(host, "127.0.0.1", listening) for _ in range(2)]
    assert [answers(client, b"") for client in clients] == [b"2", b"3"]
    udp_relay.aim_name(key, port, "127.0.0.3", "127.0.0.4")
    seen = [answers(client, b"") for client in clients for _ in range(2)]
    assert seen[2:] == [b"3", b"3"]
    assert seen[0] == seen[1] and seen[0] in (b"3", b"4")
    udp_relay.aim_name(key, port, "127.0.0.4")
    assert [answers(client, b"") for client in clients] == [b"4", b"4"]
    assert udp_relay.stats(key)["total"] == 2


def test_a_rule_that_comes_back_with_another_target_takes_its_flows_there(host, udp_relay, ends):
    one, other = (ends.enter_context(Echo(host, mark=mark)) for mark in (b"1", b"2"))
    key, port = udp_relay.rule([("127.0.0.1", one.port)])
    client = client_of(host, "127.0.0.1", port)
    assert answers(client, b"") == b"1"
    udp_relay.call(udp_relay.relay.remove, key)
    assert answers(client, b"") == b"1", "a rule that went serves its flows to their end"
    udp_relay.rule([("127.0.0.1", other.port)], port=port)
    assert answers(client, b"") == b"2"


# ---- ports

def late_echo(host, ends):
    """A server's port, a function that lists the questions it got, and one that lets it answer them all."""
    server = ends.enter_context(udp_socket(host, timeout=0.02))
    asked = []

    def listen():
        with contextlib.suppress(TimeoutError):
            while True:
                asked.append(server.recvfrom(100))
        return asked

    def answer():
        while asked:
            server.sendto(*asked.pop(0))
    return server.getsockname()[1], listen, answer


@pytest.fixture
def few_ports(lab):
    """A network with only 16 ports for flows."""
    with lab.client.inside():
        path = "/proc/sys/net/ipv4/ip_local_port_range"
        with open(path) as file:
            before = file.read()
        with open(path, "w") as file:
            file.write("40000 40015")
    yield lab.client
    with lab.client.inside(), open(path, "w") as file:
        file.write(before)


def test_a_late_answer_reaches_nobody_else(few_ports, ends):
    """Goal: this holds even if flows end before they are answered, and ports are so few that each is needed again at
    once."""
    host = few_ports
    relay = RelayThread(host)
    ends.callback(relay.close)
    server, listen, answer = late_echo(host, ends)
    key, port = relay.rule([("127.0.0.1", server)], idle_timeout_us=50_000)
    first = [client_of(host, "127.0.0.1", port, f"127.0.1.{number}", 30000) for number in range(1, 9)]
    for number, client in enumerate(first):
        client.send(b"first %d" % number)
    until(lambda: len(listen()) == 8, 5, "everybody has asked")
    relay.reaches(key, sessions=0)
    second = [client_of(host, "127.0.0.1", port, f"127.0.2.{number}", 30000) for number in range(1, 9)]
    for number, client in enumerate(second):
        client.send(b"second %d" % number)
    until(lambda: relay.stats(key)["total"] + relay.stats(key)["refused"] == 16, 5, "the others have")
    answer()
    for number, client in enumerate(second):
        client.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            assert client.recv(100) == b"second %d" % number


def test_an_answered_flow_s_port_is_soon_free(few_ports, ends):
    """Goal: answered queries free their ports, so that few ports are enough."""
    host = few_ports
    relay = RelayThread(host)
    ends.callback(relay.close)
    echo = ends.enter_context(Echo(host))
    _key, port = relay.rule([("127.0.0.1", echo.port)])
    replies = [asks_until_answered(client_of(host, "127.0.0.1", port)) for _ in range(60)]
    assert all(reply == b"?" for reply, _ in replies)


def test_without_a_rested_port_who_was_answered_makes_room(few_ports, ends):
    """Goal: many clients with one query each, in quick succession: none is refused for lack of ports."""
    host = few_ports
    relay = RelayThread(host)
    ends.callback(relay.close)
    echo = ends.enter_context(Echo(host))
    key, port = relay.rule([("127.0.0.1", echo.port)])
    for number in range(1, 61):
        client = client_of(host, "127.0.0.1", port, f"127.0.1.{number}", 30000)
        assert answers(client, b"%d" % number) == b"%d" % number
    assert relay.stats(key)["refused"] == 0


# ---- who makes room

def test_single_queries_do_not_move_conversations(host, udp_relay, echo):
    """Goal: 20 flows keep their ports while 2,000 other clients come and go."""
    key, port = udp_relay.rule([("127.0.0.1", echo.port)], max_connections=100, per_source=0)
    clients = [client_of(host, "127.0.0.1", port) for _ in range(20)]
    for client in clients:
        answers(client, b"x")
    for client in clients[:10]:  # the others had one exchange only
        answers(client, b"y")
    peers = set(echo.peers)
    for _ in range(2000):
        with client_of(host, "127.0.0.1", port) as passer_by:
            answers(passer_by, b"?")
    assert udp_relay.stats(key)["evicted"] >= 1900
    echo.peers.clear()
    for client in clients:
        assert answers(client, b"z") == b"z"
    assert echo.peers == peers


def test_who_waits_for_an_answer_stays(host, udp_relay, ends):
    """Goal: the answers of a slow server arrive, though the table was full meanwhile."""
    server, listen, answer = late_echo(host, ends)
    key, port = udp_relay.rule([("127.0.0.1", server)], max_connections=100, per_source=0)
    waiting = [client_of(host, "127.0.0.1", port) for _ in range(20)]
    for number, client in enumerate(waiting):
        client.send(b"%d" % number)
    until(lambda: len(listen()) == 20, 5, "all have asked")
    slow = list(listen())
    listen().clear()
    for _ in range(300):
        with client_of(host, "127.0.0.1", port) as passer_by:
            passer_by.send(b"quick")
            until(listen, 5, "who passes by has asked")
            answer()
            assert passer_by.recv(100) == b"quick"
    assert udp_relay.stats(key)["evicted"] >= 200
    listen()[:] = slow
    answer()
    for number, client in enumerate(waiting):
        assert client.recv(100) == b"%d" % number


def test_random_flows_leave_nothing_behind(host, udp_relay, two, ends, seed):
    """Goal: after moves, evictions, refusals and lost addresses in any order, all counts are right in the end."""
    key, listening, port = two
    chance = random.Random(seed)
    ends.enter_context(Echo(host, "127.0.0.3", port))
    clients = [client_of(host, "127.0.0.1", listening) for _ in range(60)]
    for _ in range(600):
        action = chance.random()
        if action < 0.02:
            addresses = chance.sample(["127.0.0.2", "127.0.0.3", "127.0.0.4"], chance.randrange(1, 4))
            udp_relay.aim_name(key, port, *addresses)
        with contextlib.suppress(ConnectionError):
            chance.choice(clients).send(b"x")
    udp_relay.aim_name(key, port, "127.0.0.3")
    for client in clients:
        client.settimeout(0.05)
        until(lambda client=client: last_reply(client) == b"last", 5, "an answer to this very question")
    assert udp_relay.stats(key)["sessions"] == 60


def last_reply(client):
    """Asks, and returns the last of the replies."""
    reply = None
    with contextlib.suppress(TimeoutError, ConnectionError):
        client.send(b"last")
        while reply != b"last":
            reply = client.recv(100)
    return reply


# ---- descriptors

def test_tcp_connections_leave_descriptors_to_udp_flows(lab, relay, ends):
    """Goal: with the largest possible number of connections, UDP clients are served, both new and old ones."""
    start_echo(lab.server)
    rule = f"7005 -> {SERVER}:{ECHO_PORT}"
    ends.enter_context(Echo(lab.server, SERVER, ECHO_PORT))
    program = relay.start(rule, f"udp {rule}", prefix=["prlimit", "--nofile=200"])
    connections = []
    while not program.events("accept-paused"):
        connections.append(ends.enter_context(lab.client.connect(7005, RELAY)))
        pause(0.01)
        assert len(connections) < 300
    clients = [client_of(lab.client, RELAY, 7005) for _ in range(15)]
    for _ in range(2):
        assert [answers(client, b"x") for client in clients] == [b"x"] * 15
    for _ in range(50):
        with client_of(lab.client, RELAY, 7005) as client:
            assert answers(client, b"y") == b"y"
    assert echoes(connections[0])
