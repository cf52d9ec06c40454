"""sproxy with several workers and `--udp`: packets of a session reach the worker that has it, whoever gets them."""

import os
import random
import signal
import socket

import pytest
from asking import facts
from builds import Build
from conversations import PATIENCE_S
from lab import until
from program import last_of_line
from proxies import CPROXY, CPROXY_PORT, SPROXY, SPROXY_PORT
from test_sproxy_workers import another, branches
from traffic import Traffic, read_exactly

from tests.sim.test_routing import crc32c

DATAGRAM = ["--carrier", "datagram"]
WORKERS = 3

# The kernel cannot choose: each packet comes to a worker that its addresses name, which hands it over.
NO_FILTER = """
import mproxy.io.shared_port
mproxy.io.shared_port.choose_by_byte = lambda *_: False
"""

# A cproxy of before: it knows nothing of a server's workers.
FORMER_CLIENT = """
from mproxy.programs.introduction import Introduction
Introduction.tag = property(lambda _: 0)
"""


@pytest.fixture
def crew(request, pair, lab):
    """An echo daemon, and sproxy with several workers, with and without what not every kernel can do."""
    pair.echo()
    build = Build(lab.server, SPROXY)
    has_filter = getattr(request, "param", "filter") == "filter"
    build.install("" if has_filter else NO_FILTER)
    pair.sproxy = lab.server.start(build.path, "--workers", WORKERS, "--udp", SPROXY_PORT, "127.0.0.1:7007")
    pair.started.append(pair.sproxy)
    pair.sproxy.event("listening")
    until(lambda: all(worker != keeper for keeper, worker in branches(pair.sproxy)), PATIENCE_S, "all workers run")
    assert len(pair.sproxy.events("no-packet-filter")) == (not has_filter)
    return pair.sproxy


BOTH_WAYS = pytest.mark.parametrize("crew", ["filter", "no filter"], indirect=True)


def several(pair, count):
    """So many cproxies, each of which has been echoed over UDP: [(program, application)]."""
    pair.start_cproxy(*DATAGRAM)
    programs = [pair.cproxy, *(another(pair, 3 + number, CPROXY_PORT + 1 + number, *DATAGRAM)
                               for number in range(count - 1))]
    found = []
    for number, program in enumerate(programs):
        app = pair.app(CPROXY_PORT + number)
        app.sendall(b"hello")
        assert read_exactly(app, 5) == b"hello"
        assert program.event("connected")["carrier"] == "datagram"
        found.append((program, app))
    return found


def worker_of(program, client, name="connected"):
    """In which worker the session of a cproxy is."""
    session = client.event("connected")["session"]
    return int([event for event in program.events(name) if event["session"] == session][-1]["worker"])


@BOTH_WAYS
def test_sessions_spread_and_roam(crew, pair, lab):
    """Goal: three cproxies get a worker each; through changes of address they lose nothing, and stay there."""
    clients = several(pair, WORKERS)
    assert {worker_of(crew, client) for client, _app in clients} == set(range(WORKERS))
    going = Traffic([app for _client, app in clients])
    going.goes_on()
    for change in range(3):
        gone, come = (lab.wifi, lab.phone) if change % 2 == 0 else (lab.phone, lab.wifi)
        come.give(20 + change, metric=10 + change)
        gone.pull()
        crew.event("moved", count=WORKERS * (change + 1))
        going.goes_on(more=1000)
    going.finish()
    assert not crew.events("lost") and not crew.events("refused")
    found = facts(lab.server, "sproxy")
    assert [session["carrier"]["kind"] for session in found["sessions"]] == ["datagram"] * WORKERS


def test_each_resume_reaches_its_worker(crew, pair, lab):
    """Goal: the network is away until every link is lost; by their tags all come back, to where they were."""
    clients = several(pair, WORKERS)
    going = Traffic([app for _client, app in clients])
    going.goes_on()
    lab.wifi.cut()
    crew.event("lost", count=WORKERS)
    lab.wifi.mend()
    crew.event("resumed", count=WORKERS)
    going.goes_on(more=1000)
    going.finish()
    for client, _app in clients:
        assert worker_of(crew, client, "resumed") == worker_of(crew, client)
        assert not client.events("dial-failed"), str(client)


def test_workers_die_under_load(crew, pair, lab):
    """Goal: their keys die with them; each session goes on in the next worker of its place, byte by byte."""
    clients = several(pair, WORKERS)
    going = Traffic([app for _client, app in clients])
    going.goes_on()
    before = branches(crew)
    for _keeper, worker in before:
        os.kill(worker, signal.SIGKILL)
    for keeper, worker in before:
        until(lambda keeper=keeper, worker=worker: last_of_line(keeper) not in (keeper, worker), PATIENCE_S,
              "there is another worker")
    crew.event("resumed", count=WORKERS)
    going.goes_on(more=1000)
    going.finish()
    assert not crew.events("ended") and facts(lab.server, "sproxy")["deaths"] == WORKERS


def test_a_client_of_before_comes_back(crew, pair, lab):
    """Goal: one that shows no tag is told to dial again, and then reaches its session; TCP is not needed."""
    build = Build(lab.client, CPROXY)
    build.install(FORMER_CLIENT)
    apps = []
    for number in range(WORKERS):
        place = lab.client.home / f"key-{number}"
        place.mkdir(mode=0o700)
        program = lab.client.start(build.path, *DATAGRAM, "--state-dir", place, CPROXY_PORT + number,
                                   lab.server_address, SPROXY_PORT)
        pair.started.append(program)
        program.event("listening")
        app = pair.app(CPROXY_PORT + number)
        app.sendall(b"hello")
        assert read_exactly(app, 5) == b"hello"
        apps.append(app)
    lab.wifi.cut()
    crew.event("lost", count=WORKERS)
    lab.wifi.mend()
    crew.event("resumed", count=WORKERS)
    for app in apps:
        app.sendall(b"again")
        assert read_exactly(app, 5) == b"again"
    assert not crew.events("ended")


def test_hostile_first_packets(crew, pair, lab, seed):
    """Goal: packets of all types, with any tag and any id, true and false checks, from many ports: no worker dies, who
    is there goes on, who comes is let in."""
    (client, app), *_more = several(pair, 2)
    chance = random.Random(seed)
    with lab.client.inside():
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
    syns = answered = 0
    for _ in range(4000):
        kind = chance.choice([1, 1, 2, 3, 3, 4, 5, 5, chance.randrange(256)])
        control = chance.choice([0, 18, 26, 48, 60, 1168, 65535])
        packet = bytearray(chance.randbytes(chance.choice([0, 1, 5, 28, 32, 60, 110, 1200, 1400])))
        packet[:4] = bytes([kind, chance.randrange(256)]) + control.to_bytes(2)
        if len(packet) > 50 and chance.random() < 0.7:
            packet[28:30] = bytes([1, 0x0D])
            packet[-4:] = crc32c(packet[:-4]).to_bytes(4)
        syns += kind == 1 and len(packet) >= 1200
        sock = chance.choice(sockets)
        sock.sendto(packet, (lab.server_address, SPROXY_PORT))
    for sock in sockets:
        sock.setblocking(False)
        while True:
            try:
                answered += sock.recv(2000)[0] == 2  # SYN_ACK
            except BlockingIOError:
                break
        sock.close()
    assert 0 < answered <= syns
    app.sendall(b"still here")
    assert read_exactly(app, 10) == b"still here"
    newcomer = another(pair, 5, CPROXY_PORT + 9, *DATAGRAM)
    app = pair.app(CPROXY_PORT + 9)
    app.sendall(b"new")
    assert read_exactly(app, 3) == b"new"
    assert newcomer.event("connected")["carrier"] == "datagram"
    assert facts(lab.server, "sproxy")["deaths"] == 0 and not client.events("lost")
