"""The relay's workers are killed, and no connection notices: not a byte lost, repeated or reordered."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conversations import ENDINGS, PATIENCE_S, Meeting, MixedLoad, still_joined
from lab import CRASH, HERE, outage, until
from relays import RELAY, SERVER
from test_fault_points import Faults
from test_kept_programs import resident_bytes
from traffic import ends_by_reset, pattern, read_exactly, read_pattern

KEPT = (sys.executable, Path(__file__).with_name("kept_relay.py"))
PORT, DAEMON_PORT = 7005, 8005
RULE = f"{PORT} -> {SERVER}:{DAEMON_PORT}"
DEATHS = 300
STRIDE = 7
MOST_AGAIN = 60

pytestmark = pytest.mark.long


@pytest.fixture
def meeting(lab):
    with lab.server.listen(DAEMON_PORT, SERVER) as listener:
        yield Meeting(lambda: lab.client.connect(PORT, RELAY, timeout=PATIENCE_S), listener)


class Victims:
    """The workers of a relay."""

    def __init__(self, relay, program):
        self.relay, self.program = relay, program
        self.killed = 0

    @property
    def pids(self):
        found = {event["worker"]: int(event["pid"]) for event in self.program.events("worker-ready")}
        return [found[number] for number in sorted(found)]

    def kill(self, *pids, number=signal.SIGKILL):
        """End those workers, and wait until others have taken over."""
        done = len(self.program.events("worker-ready"))
        for pid in pids:
            os.kill(pid, number)
        self.killed += len(pids)
        self.program.event("worker-ready", count=done + len(pids))

    def verify(self):
        assert not self.lost()
        assert not self.program.events("worker-failed") and not self.program.events("connections-given-up")

    def lost(self):
        return [event for event in self.program.events("taken-over") if "lost" in event.fields]


def start(relay, *rules, workers=1, options=(), **more):
    return Victims(relay, relay.start(
        *rules or [RULE], options=["--workers", str(workers), "--log-level", "debug", *options], prefix=KEPT, **more))


def test_who_dies_while_the_relay_stops_has_a_successor(relay, meeting):
    """Goal: connections have their --drain-timeout with that one, too; whatever the dead one had heard."""
    victims = start(relay)
    app, daemon = meeting.joined()
    [worker] = victims.pids
    os.kill(worker, signal.SIGSTOP)
    victims.program.process.send_signal(signal.SIGTERM)
    victims.program.event("stopping")
    victims.kill(worker)
    assert still_joined(app, daemon)
    victims.kill(*victims.pids[-1:])
    assert still_joined(app, daemon)
    app.close()
    assert read_exactly(daemon, 0) == b"" and daemon.recv(1) == b""
    daemon.close()
    assert victims.program.wait() == 0
    victims.verify()


def test_who_dies_before_it_reopens_the_log(relay, meeting, tmp_path):
    """Goal: the next one writes to the new file."""
    log = tmp_path / "relay.log"
    program = relay.start(RULE, options=["--workers", "1", "--log-file", log], ready=False)
    until(lambda: log.exists() and " ready " in log.read_text(), PATIENCE_S, "it is ready")
    app, daemon = meeting.joined()
    [keeper] = children_of(program.process.pid)
    [worker] = children_of(keeper)
    os.kill(worker, signal.SIGSTOP)
    log.rename(f"{log}.1")
    program.process.send_signal(signal.SIGHUP)
    until(log.exists, PATIENCE_S, "there is a new file")
    os.kill(worker, signal.SIGKILL)
    assert still_joined(app, daemon)
    until(lambda: " taken-over " in log.read_text(), PATIENCE_S, "the next worker writes to it")


def test_who_is_killed_where_memory_is_short(relay, meeting):
    """Goal: the worker, not the keeper, with which all its connections end."""
    victims = start(relay)
    app, daemon = meeting.joined()
    for _ in range(3):
        [keeper] = children_of(victims.program.process.pid)
        until(lambda keeper=keeper: resident_bytes(keeper) < resident_bytes(children_of(keeper)[0]), PATIENCE_S,
              "the keeper is the smaller one")
        victims.kill(victims.pids[-1])
    assert still_joined(app, daemon)


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_without_a_keeper(relay, meeting):
    """Goal: each worker is one process, whose connections end with it; the next one serves as well."""
    victims = start(relay, workers=2, options=["--no-keeper"])
    program = victims.program.process.pid
    children = Path(f"/proc/{program}/task/{program}/children")
    for _ in range(2):
        app, daemon = meeting.joined()
        victims.kill(*victims.pids)
        assert ends_by_reset(app) and ends_by_reset(daemon)
        assert {int(word) for word in children.read_text().split()} == set(victims.pids)
    assert still_joined(*meeting.joined())
    assert not victims.program.events("taken-over")


def test_no_byte_is_lost(lab, relay, meeting, seed):
    """Goal: workers are killed at random moments, one or all at once, under bulk, ping-pong, half-closes, resets and
    new connections: all that clients and servers write arrives once, each end and each reset behind it; no descriptor
    and no memory is left behind."""
    chance = random.Random(f"{seed} deaths")
    victims = start(relay, workers=2)
    load = MixedLoad(meeting, seed)
    while victims.killed < DEATHS:
        outage(chance.random() * 0.2 * chance.choice([0.1, 1]))
        victims.kill(*chance.choice([victims.pids, [chance.choice(victims.pids)]]))
    load.stop()
    for sock in load.chat.one, load.chat.other:
        sock.close()
    victims.verify()
    status = relay.status()
    assert sum(worker["deaths"] for worker in status["workers"]) == victims.killed
    until(lambda: relay.status()["totals"]["tcp"]["connections"] == 0, 10, "all have ended")
    until(lambda: max(len(os.listdir(f"/proc/{pid}/fd")) for pid in victims.pids) < 20, 10, "descriptors are closed")


@pytest.mark.parametrize("number", [CRASH, signal.SIGABRT, signal.SIGKILL])
def test_any_death(lab, relay, meeting, number):
    victims = start(relay)
    app, daemon = meeting.joined()
    victims.kill(*victims.pids, number=number)
    assert still_joined(app, daemon)
    victims.verify()
    for sock in app, daemon:
        sock.close()


def test_what_a_slow_reader_has_not_taken(lab, relay, meeting):
    """Goal: bytes that wait in a ring, and bytes that wait in a pipe, arrive after several deaths."""
    victims = start(relay)
    app, daemon = meeting.joined()
    sent = 0
    app.settimeout(1)
    with contextlib.suppress(TimeoutError):
        while True:
            sent += app.send(pattern(sent, 1 << 16))
    for _ in range(3):
        victims.kill(*victims.pids)
    read_pattern(daemon, sent)
    app.close()
    assert daemon.recv(1) == b""
    daemon.close()
    victims.verify()


def test_ends_while_there_is_no_worker(lab, relay, meeting):
    """Goal: an end, a reset and a new connection that come while there is no worker are seen by the next one."""
    victims = start(relay)
    [(ending, ended), (resetting, is_reset), (writing, written)] = [meeting.joined() for _ in range(3)]
    [pid] = victims.pids
    os.kill(pid, signal.SIGSTOP)
    ending.sendall(b"last words")
    ending.shutdown(socket.SHUT_WR)
    resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    resetting.close()
    writing.sendall(b"meanwhile")
    victims.kill(pid)
    assert read_exactly(ended, 10) == b"last words" and ended.recv(1) == b""
    ended.sendall(b"heard")
    ended.close()
    assert read_exactly(ending, 5) == b"heard" and ending.recv(1) == b""
    assert ends_by_reset(is_reset)
    assert read_exactly(written, 9) == b"meanwhile"
    victims.verify()


# ---- poison

@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "poison.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, HERE / "poison.c", "-ldl"], check=True)
    return {"LD_PRELOAD": str(path)}


@pytest.mark.parametrize("dose", [b"this kills", bytes(4241)], ids=["in what is read", "in what is taken over"])
def test_who_kills_workers_is_ended_alone(lab, relay, meeting, poison, dose):
    """Goal: a connection in whose turn two workers have crashed is reset, and no other one."""
    victims = start(relay, env=poison)
    one, other = meeting.joined()
    ill, its_server = meeting.joined()
    ill.sendall(dose)
    read_exactly(its_server, len(dose))
    if victims.program.events("worker-died"):
        ill.sendall(dose)  # again
    else:
        victims.kill(*victims.pids)
    victims.program.event("connection-condemned", within=20)
    assert ends_by_reset(ill) and ends_by_reset(its_server)
    assert still_joined(one, other)
    assert is_served_by(meeting)
    [event] = victims.lost()
    assert event["lost"] == "1"


def is_served_by(meeting):
    """Whether a new client is served."""
    app, daemon = meeting.joined()
    with app, daemon:
        return still_joined(app, daemon)


def test_workers_that_die_again_and_again(lab, relay, meeting):
    """Goal: at the tenth death in a row the connections are given up, it is said, and others are served."""
    program = relay.start(RULE, options=["--log-level", "debug"])
    app, _daemon = meeting.joined()
    for deaths in range(1, 11):
        os.kill(int(program.event("worker-ready", count=deaths)["pid"]), signal.SIGKILL)
    program.event("connections-given-up", within=30)
    assert ends_by_reset(app)
    program.event("worker-ready", count=11, within=30)
    assert is_served_by(meeting)


# ---- behind every call

@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "fault_points.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, HERE / "fault_points.c", "-ldl"], check=True)
    return path


@pytest.mark.parametrize("options", ["", "proxy=v2", "accept-proxy allow=10.1.0.0/16 proxy=v1"])
def test_every_point(lab, relay, library, request, seed, options):
    """Goal: conversations of every kind are byte-exact both ways, whatever call the worker died behind, PROXY headers
    included; every second time the next one dies, too, while it takes over or soon after."""
    every = request.config.option.every_point
    chance = random.Random(f"{seed} {options}")
    faults = Faults(lab.directory / "faults")
    environment = {"LD_PRELOAD": str(library), "MPROXY_FAULTS": str(lab.directory / "faults"), "MPROXY_FAULTS_OF": "2"}
    with lab.server.listen(DAEMON_PORT, SERVER) as listener:
        meeting = Headed(lab, listener, options)
        victims = start(relay, f"{RULE} {options}", env=environment)
        point, deaths = 1 if every else chance.randint(1, STRIDE), 1
        while deaths:
            faults.arm(point, chance.choice([0, chance.randint(1, MOST_AGAIN)]))
            conversations = [meeting.converse(f"{seed} {point} {ending}", ending) for ending in ENDINGS]
            for conversation in conversations:
                conversation.join()
            deaths = faults.deaths
            point += 1 if every else STRIDE
        assert point > 40, "there are more calls than that"
        assert not victims.lost()


class Headed(Meeting):
    """A meeting whose clients begin with a PROXY header, and whose servers get one, if the rule says so."""

    def __init__(self, lab, listener, options):
        self.options = options
        super().__init__(lambda: self.client(lab), listener)

    def client(self, lab):
        sock = lab.client.connect(PORT, RELAY, timeout=PATIENCE_S)
        if "accept-proxy" in self.options:
            sock.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n")
        return sock

    def accept(self, greeting):
        if "proxy=" not in self.options:
            return super().accept(greeting)
        while True:
            server, _ = self.daemon.accept()
            server.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                if server.recv(1, socket.MSG_PEEK):
                    self.check(server)
                    assert read_exactly(server, len(greeting)) == greeting
                    return server
            server.close()

    def check(self, server):
        """The header is there once, and names the client."""
        if "proxy=v2" in self.options:
            assert read_exactly(server, 28)[:12] == b"\r\n\r\n\0\r\nQUIT\n"
        else:
            wanted = b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 2000\r\n"
            assert read_exactly(server, len(wanted)) == wanted
