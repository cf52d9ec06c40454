"""mproxy relay: health checks of targets, and weights."""

import contextlib
import os
import signal
import socket
import threading

import pytest
from lab import until
from relays import ECHO_PORT, RELAY, SERVER, is_served, start_echo, udp_socket
from test_relay_status import SCHEMA

CHECK = "check=100ms check-fall=2 check-rise=2"
ECHO = f"{SERVER}:{ECHO_PORT}"


class Scripted:
    """A TCP server that answers every line with `answer`, then closes; None: it says nothing. It counts its callers."""

    def __init__(self, host, port, address="0.0.0.0"):
        self.host, self.port, self.address = host, port, address
        self.answer = b"WELL\r\n"
        self.came = []
        self.listener = None
        self.start()

    def start(self):
        self.listener = self.host.listen(self.port, self.address)
        threading.Thread(target=self._serve, args=(self.listener,), daemon=True).start()

    def _serve(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                line = connection.recv(100)
                self.came.append(line)
                if self.answer is not None:
                    connection.sendall(self.answer)
                else:
                    connection.recv(100)

    def stop(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def checked(relay, rule=0):
    return relay.status()["rules"][rule]["checked"]


def once_applied(program, relay, name, count=1):
    """The event `name` of the supervisor, once its workers go by it: they do what they are told in order."""
    line = program.event(name, count=count)
    relay.status()
    return line


def answer_of(lab, port=7005):
    """What one caller hears who says `hello`."""
    with lab.client.connect(port, RELAY) as connection:
        connection.sendall(b"hello\n")
        try:
            return connection.recv(100)
        except OSError:
            return b"reset"


def test_a_target_that_does_not_accept_gets_nothing_until_it_is_back(lab, relay):
    """Goal: it is left out before any caller meets it, status and log say so, and it is back after `rise` checks."""
    start_echo(lab.server)
    other = Scripted(lab.server, 8006)
    program = relay.start(f"7005 -> {ECHO}, {SERVER}:8006 {CHECK}", options=["--workers", "2"])
    until(lambda: relay.status()["checks"]["asked"] >= 2, 10, "both have been asked")
    assert checked(relay) == {ECHO: "up", f"{SERVER}:8006": "up"}
    other.stop()
    assert "its check fails: Connection refused" in once_applied(program, relay, "target-down")["why"]
    assert checked(relay)[f"{SERVER}:8006"] == "down"
    status = relay.status()
    assert status["rules"][0]["down"] == {f"{SERVER}:8006": "check: Connection refused"}
    SCHEMA.validate(status | {"socket": "where mproxy status found it"})
    assert "checks: 1 up, 1 down\n" in relay.command("status")[1]
    for _ in range(20):
        assert is_served(lab.client, 7005)
    assert relay.status()["totals"]["tcp"]["failed"] == 0
    assert not [line for line in program.events("target-down") if "worker" in line.fields]
    other.start()
    once_applied(program, relay, "target-up")
    until(lambda: b"WELL\r\n" in {answer_of(lab) for _ in range(4)}, 10, "it gets callers again")


def test_a_line_is_sent_and_an_answer_expected(lab, relay):
    """Goal: what accepts and answers wrongly, or not at all, counts as failing."""
    one, other = Scripted(lab.server, 8006), Scripted(lab.server, 8007)
    program = relay.start(f"7005 -> {SERVER}:8006, {SERVER}:8007 {CHECK} check-send=HOW\\r\\n check-expect=WELL")
    until(lambda: b"HOW\r\n" in one.came and b"HOW\r\n" in other.came, 10, "both are asked")
    one.answer = b"SICK\r\n"
    why = once_applied(program, relay, "target-down")["why"]
    assert "the answer ended after 6 bytes, without what is expected" in why
    assert {answer_of(lab) for _ in range(6)} == {b"WELL\r\n"}
    one.answer = b"I am WELL\r\n"
    once_applied(program, relay, "target-up")
    other.answer = None
    assert "no answer within" in once_applied(program, relay, "target-down", count=2)["why"]
    assert {answer_of(lab) for _ in range(6)} == {b"I am WELL\r\n"}


def test_when_all_fail_callers_are_tried_all_the_same(lab, relay):
    """Goal: a check that is wrong itself does not turn everybody away."""
    start_echo(lab.server)
    relay.start(f"7005 -> {ECHO} {CHECK} check-port=9", f"7006 -> {ECHO}, {SERVER}:8006 {CHECK} check-port=9")
    until(lambda: set(checked(relay, 1).values()) == {"down"}, 10, "both are down")
    assert is_served(lab.client, 7005) and is_served(lab.client, 7006)


def test_each_address_of_a_name_is_checked(lab, relay):
    """Goal: of a name with two addresses the one that answers gets everybody; a new worker knows it from the start."""
    lab.router.knows(**{"two.example": f"10.3.0.99 {SERVER}"})
    lab.server.ip("addr add 10.3.0.99/32 dev lo")
    server = Scripted(lab.server, 8006, SERVER)
    relay.start(f"7005 -> two.example:8006 {CHECK}")
    down = {"two.example:8006 at 10.3.0.99": "down", f"two.example:8006 at {SERVER}": "up"}
    until(lambda: checked(relay) == down, 10, "the dead address is known")
    os.kill(relay.workers()[0], signal.SIGKILL)
    until(lambda: relay.status()["workers"][0]["state"] == "running", 10, "there is another worker")
    for _ in range(6):
        assert answer_of(lab) == server.answer
    assert relay.status()["totals"]["tcp"]["failed"] == 0
    relay.reload(f"7005 -> two.example:8006 {CHECK} max=50")
    assert checked(relay) == down
    relay.reload("7005 -> two.example:8006")
    assert "checked" not in relay.status()["rules"][0]


class Answering:
    """A UDP server that answers everything with its port."""

    def __init__(self, host, port):
        self._port = port
        self._socket = udp_socket(host, SERVER)
        self._socket.bind((SERVER, port))
        self._socket.settimeout(0.05)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                _, address = self._socket.recvfrom(100)
                self._socket.sendto(b"%d" % self._port, address)
        self._socket.close()

    def stop(self):
        self._ending.set()
        self._thread.join(timeout=10)


@pytest.fixture
def answering(lab):
    servers = [Answering(lab.server, port) for port in (8006, 8007)]
    yield servers
    for server in servers:
        server.stop()


def test_udp_flows_leave_a_target_that_fails(lab, relay, answering):
    """Goal: flows that were answered go on with another target at their next packet, and come to no harm."""
    program = relay.start(f"udp 7005 -> {SERVER}:8006, {SERVER}:8007 {CHECK} check-send=\\x01 check-expect=800")
    until(lambda: relay.status()["checks"]["asked"] >= 2, 10, "both have been asked")
    clients = [udp_socket(lab.client, RELAY) for _ in range(4)]

    def asks(client):
        client.sendto(b"question", (RELAY, 7005))
        return client.recv(100)
    assert [asks(client) for client in clients].count(b"8006") == 2
    answering[0].stop()
    once_applied(program, relay, "target-down")
    for client in clients:
        assert asks(client) == b"8007"
    assert checked(relay) == {f"{SERVER}:8006": "down", f"{SERVER}:8007": "up"}


def test_weights(lab, relay):
    """Goal: callers go to the targets in the proportion of their weights; a reload changes it, to 0 too."""
    one, other = Scripted(lab.server, 8006), Scripted(lab.server, 8007)
    rule = f"7005 -> {SERVER}:8006, {SERVER}:8007"
    relay.start(f"{rule} weights=3,1")
    for _ in range(12):
        answer_of(lab)
    assert (len(one.came), len(other.came)) == (9, 3)
    relay.reload(f"{rule} weights=0,1")
    for _ in range(5):
        answer_of(lab)
    assert (len(one.came), len(other.came)) == (9, 8)
