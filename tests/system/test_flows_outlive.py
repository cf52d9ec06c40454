"""The relay's workers are killed, and UDP flows go on: servers see the same address and port of each client."""

import os
import random
import signal

import pytest
from lab import CRASH, outage, until
from relays import RELAY, SERVER
from test_datagrams import asks
from test_relay_outlives import start
from udp_lab import Echo, client_of

PORT, SERVER_PORT = 7005, 8005
RULE = f"udp {PORT} -> {SERVER}:{SERVER_PORT}"
CLIENTS = 20
DEATHS = 30


@pytest.fixture
def echo(lab, ends):
    """Of this server's address."""
    return ends.enter_context(Echo(lab.server, SERVER, SERVER_PORT))


@pytest.fixture
def clients(lab, ends):
    return [ends.enter_context(client_of(lab.client, RELAY, PORT)) for _ in range(CLIENTS)]


def all_ask(clients, word):
    for number, client in enumerate(clients):
        asks(client, b"%d %s" % (number, word))


def test_flows_keep_their_ports(relay, echo, clients, seed):
    """Goal: after each of many deaths, at random moments, each client is answered by the flow that it had."""
    chance = random.Random(f"{seed} flows")
    victims = start(relay, RULE, workers=2)
    all_ask(clients, b"begin")
    ports = set(echo.peers)
    assert len(ports) == CLIENTS
    for number in range(DEATHS):
        for client in chance.sample(clients, 5):
            client.send(b"on its way")
        outage(chance.random() * 0.02)
        victims.kill(*chance.choice([victims.pids, [chance.choice(victims.pids)]]))
        if number % 10 == 9:
            all_ask(clients, b"after death %d" % number)
    all_ask(clients, b"end")
    assert echo.peers == ports
    victims.verify()
    assert relay.status()["totals"]["udp"]["sessions"] == CLIENTS
    assert sum(int(event["flows"]) for event in victims.program.events("taken-over")) > CLIENTS


def test_every_kind_of_rule(lab, relay, ends):
    """Goal: on every address, with several addresses of a client's own, with PROXY headers, and with more targets than
    one; flows of IPv6."""
    echoes = [ends.enter_context(Echo(lab.server, SERVER, SERVER_PORT + number)) for number in range(3)]
    rules = [f"udp {PORT} -> {SERVER}:{SERVER_PORT}",
             f"udp {RELAY}:{PORT + 1} -> {SERVER}:{SERVER_PORT + 1} proxy=v2",
             f"udp [::]:{PORT + 2} -> {SERVER}:{SERVER_PORT}, {SERVER}:{SERVER_PORT + 2}"]
    victims = start(relay, *rules)
    clients = [client_of(lab.client, RELAY, PORT), client_of(lab.client, RELAY, PORT + 1),
               *(client_of(lab.client, "fd00:1::1", PORT + 2) for _ in range(4))]
    for client in clients:
        ends.enter_context(client)
    heard = [exchanged(client) for client in clients]
    ports = [set(echo.peers) for echo in echoes]
    assert sum(map(len, ports)) == len(clients) and all(ports)
    for _ in range(3):
        victims.kill(*victims.pids)
        assert [exchanged(client) for client in clients] == heard
    assert [echo.peers for echo in echoes] == ports


def exchanged(client):
    """What comes back for a word, sent again until something does."""
    answers = []

    def answered():
        client.settimeout(0.5)
        client.send(b"word")
        try:
            answers.append(client.recv(1000))
        except TimeoutError:
            return False
        return True
    until(answered, 20, "an answer")
    return answers[0]


def test_they_end_as_ever(relay, echo, clients):
    """Goal: idle flows end, and leave neither descriptors nor records behind."""
    victims = start(relay, f"{RULE} timeout=2s", f"udp {PORT + 1} -> {SERVER}:{SERVER_PORT}")
    all_ask(clients, b"begin")
    victims.kill(*victims.pids)
    all_ask(clients, b"again")
    assert len(echo.peers) == CLIENTS
    until(lambda: relay.status()["totals"]["udp"]["sessions"] == 0, 20, "idle flows end")
    victims.kill(*victims.pids)
    until(lambda: len(os.listdir(f"/proc/{victims.pids[0]}/fd")) < 20, 10, "descriptors are closed")
    assert not [event for event in victims.program.events("taken-over")[1:] if event.fields.get("flows")]


@pytest.mark.parametrize("number", [CRASH, signal.SIGABRT])
def test_a_crash(relay, echo, clients, number):
    victims = start(relay, RULE)
    all_ask(clients, b"begin")
    ports = set(echo.peers)
    victims.kill(*victims.pids, number=number)
    all_ask(clients, b"end")
    assert echo.peers == ports
