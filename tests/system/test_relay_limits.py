"""mproxy relay: how often each source may connect."""

from lab import until
from relays import ECHO_PORT, RELAY, SERVER, is_served, start_echo, udp_socket
from test_datagrams import asks
from traffic import ends_by_reset
from udp_lab import Echo, client_of

from mproxy.relay._proxy_header import make_header

ECHO = f"{SERVER}:{ECHO_PORT}"
FLOWS, BEYOND = 40, 10  # of a UDP rule


def test_connections_of_a_source(lab, relay):
    """Goal: so many are served, by all workers together, the next are reset, counted and logged once; others are not
    touched."""
    start_echo(lab.server)
    program = relay.start(f"7005 -> {ECHO} new-per-source=5/h", f"7006 -> {ECHO}", options=["--workers", "2"])
    assert [is_served(lab.client, 7005) for _ in range(8)] == [True] * 5 + [False] * 3
    assert is_served(lab.router, 7005, "127.0.0.1") and is_served(lab.client, 7006)
    first = program.event("source-limited")
    assert first["source"].startswith("10.1.0.") or first["source"].startswith("10.")
    assert int(first["refused"]) == 1 and len(program.events("source-limited")) <= 2
    counters = relay.status()["rules"][0]["counters"]
    assert (counters["total"], counters["refused"], counters["limited"]) == (6, 3, 3)
    relay.reload(f"7005 -> {ECHO} new-per-source=5/h new-burst=50")
    assert is_served(lab.client, 7005)


def test_the_source_that_a_header_names(lab, relay):
    """Goal: behind a balancer each of its clients has its own count."""
    start_echo(lab.server)
    relay.start(f"7005 -> {ECHO} accept-proxy new-per-source=1/h")
    for host, good in (("192.0.2.7", True), ("192.0.2.7", False), ("192.0.2.8", True)):
        with lab.client.connect(7005, RELAY) as connection:
            connection.sendall(make_header(2, ((host, 4000), ("192.0.2.1", 80))) + b"hello")
            if good:
                assert connection.recv(5) == b"hello"
            else:
                assert ends_by_reset(connection)
    counters = relay.status()["rules"][0]["counters"]
    assert (counters["refused"], counters["limited"]) == (1, 1)


def test_udp_flows_of_a_source(lab, relay):
    """Goal: so many flows begin, whatever the client's port; packets of existing ones go on."""
    relay.start(f"udp 7005 -> {SERVER}:8006 new-per-source=2/h")
    with udp_socket(lab.server, SERVER) as server:
        server.bind((SERVER, 8006))
        clients = [udp_socket(lab.client, RELAY) for _ in range(3)]
        for n, client in enumerate(clients):
            client.sendto(b"%d" % n, (RELAY, 7005))
        assert {server.recv(10) for _ in range(2)} == {b"0", b"1"}
        clients[0].sendto(b"again", (RELAY, 7005))
        assert server.recv(10) == b"again"
    counters = relay.status()["rules"][0]["counters"]
    assert (counters["sessions"], counters["limited"]) == (2, 1)


def test_udp_flows_of_a_rule(lab, relay, ends):
    """Goal: `max=` holds for all workers together, however unevenly the kernel spreads the clients over them: none has
    to go before that many are there, then one for each newcomer; also when the number changes."""
    ends.enter_context(Echo(lab.server, SERVER, 8006))
    rule = f"udp 7005 -> {SERVER}:8006 max={{}} per-source=1000"
    relay.start(rule.format(FLOWS), options=["--workers", "2"])

    def counters():
        return relay.status()["rules"][0]["counters"]

    clients = [ends.enter_context(client_of(lab.client, RELAY, 7005)) for _ in range(FLOWS + BEYOND)]
    for client in clients[:FLOWS]:
        asks(client, b"hello")
    assert (counters()["sessions"], counters()["evicted"]) == (FLOWS, 0)
    for client in clients[FLOWS:]:
        asks(client, b"hello")
    until(lambda: counters()["sessions"] == FLOWS, 30, "one goes for each newcomer")
    assert counters()["evicted"] >= BEYOND
    relay.reload(rule.format(10))
    until(lambda: counters()["sessions"] <= 10, 30, "those beyond the new number go")
    asks(clients[0], b"hello")
