"""sproxy's worker dies, and no connection with it: whatever was under way, for every client, again and again."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from asking import facts
from conversations import PATIENCE_S, Meeting, MixedLoad, still_joined
from lab import CRASH, HERE, outage, until
from mortal import Reaper, arena_bytes, damage, descriptors, keeper_bytes, kill_worker
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY_PORT, state_dir
from traffic import ends_by_reset, read_exactly, read_to_end, reset

from mproxy.policy.keys import public_line
from tests import keys
from tests.root import real_root

KEPT = (sys.executable, Path(__file__).with_name("kept_proxy.py"))
DEATHS = 60
OTHER_PORT = 5201
CHUNK = 1 << 24
PROGRAM_RECORDS = 33 * CHUNK  # after the head and the table of sessions, which has 32 chunks
SESSION_RECORDS = CHUNK


@pytest.fixture
def meeting(pair, lab):
    """Both proxies, sproxy with a keeper, and where applications meet their daemons."""
    with lab.server.listen(DAEMON_PORT) as listener:
        pair.start_sproxy("--keeper", prefix=KEPT)
        pair.start_cproxy("--log-level", "debug")  # else it says `resumed` so many times a minute
        yield Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)


def another(pair, port=OTHER_PORT, number=3):
    """Another cproxy on the client's host, with a key of its own."""
    place = pair.lab.client.home / f"key-{port}"
    place.mkdir(mode=0o700)
    file = place / "client-key.pem"
    file.touch(mode=0o600)
    file.write_bytes(keys.pem(number))
    program = pair.lab.client.start(CPROXY, *pair.options, "--state-dir", place, port, pair.lab.server_address,
                                    SPROXY_PORT)
    pair.started.append(program)
    program.event("listening")
    return program


def spki(number):
    return keys.context(number, True).spki


def authorize(lab, *numbers):
    """Have an authorized_keys with those keys and no other, complete from its first moment."""
    file = state_dir(lab.server) / "authorized_keys"
    fresh = file.with_name("fresh")
    fresh.touch(mode=0o600)
    fresh.write_text("".join(f"{public_line(spki(number))}\n" for number in numbers))
    fresh.rename(file)


def kill_and_resume(pair, clients=None):
    """Kill sproxy's worker, and wait until its clients are back."""
    clients = clients or [pair.cproxy]
    before = [len(client.events("resumed")) for client in clients]
    kill_worker(pair.sproxy)
    for client, count in zip(clients, before, strict=True):
        client.event("resumed", count + 1)


def test_no_byte_is_lost_in_many_deaths(pair, meeting, seed):
    """Goal: bulk both ways, ping-pong, opens, ends in both orders and resets, while the worker is killed, so also
    during handshakes and resumes: every byte arrives once, no daemon's connection ends, and nothing is left over.
    """
    load = MixedLoad(meeting, seed)
    kill_and_resume(pair)
    Reaper([pair.sproxy], DEATHS, random.Random(f"{seed} deaths")).join()
    load.stop()
    assert load.turns
    assert not [event for event in pair.sproxy.events("taken-over") if "lost" in event.fields]
    assert not pair.sproxy.events("session-damaged")
    assert facts(pair.lab.server, "sproxy")["deaths"] == DEATHS + 1
    assert not pair.cproxy.events("ended"), "one session, from the beginning"


def test_deaths_leave_nothing(pair, meeting, seed):
    """Goal: descriptors and pages are those that the sessions need, however many workers have died."""
    app, daemon = meeting.joined()
    kill_and_resume(pair)
    fds, chance = len(descriptors(pair.sproxy)), random.Random(seed)
    pages, kept = arena_bytes(pair.sproxy), keeper_bytes(pair.sproxy)
    for _ in range(4):
        reaper = Reaper([pair.sproxy], 3, chance, 0.1)
        while reaper.is_alive():
            conversations = [meeting.converse(f"{seed} {chance.random()}") for _ in range(3)]
            for conversation in conversations:
                conversation.join()
        reaper.join()
    assert still_joined(app, daemon)
    kill_and_resume(pair)
    assert still_joined(app, daemon)
    until(lambda: len(descriptors(pair.sproxy)) == fds, 10, "as many descriptors as before")
    until(lambda: arena_bytes(pair.sproxy) <= pages + (256 << 10), 30, "as much memory as before")
    assert keeper_bytes(pair.sproxy) <= kept + (1 << 20), "and the keeper as much"


@pytest.mark.parametrize("number", [CRASH, signal.SIGABRT, signal.SIGSTOP])
def test_other_deaths(pair, meeting, number):
    """Goal: a crash is a death as kill -9 is; so is the end of a worker that hung. SIGTERM is still the end."""
    app, daemon = meeting.joined()
    os.kill(pair.sproxy.worker_pid, number)
    if number == signal.SIGSTOP:
        kill_worker(pair.sproxy)
    pair.cproxy.event("resumed")
    assert still_joined(app, daemon)
    assert pair.sproxy.stop() == 0


def test_deaths_while_the_client_is_away(pair, meeting, lab):
    """Goal: what daemons write, end and reset meanwhile arrives, though the worker that saw it is dead by then."""
    (app, daemon), (ended_app, ended_daemon), (reset_app, reset_daemon) = (meeting.joined() for _ in range(3))
    lab.wifi.cut()
    pair.sproxy.event("lost")
    daemon.sendall(b"words" * 1000)
    ended_daemon.sendall(b"last words")
    ended_daemon.shutdown(socket.SHUT_WR)
    kill_worker(pair.sproxy)
    reset(reset_daemon)
    kill_worker(pair.sproxy)
    lab.wifi.mend()
    assert read_exactly(app, 5000) == b"words" * 1000
    assert read_to_end(ended_app) == b"last words"
    assert ends_by_reset(reset_app)
    ended_app.sendall(b"its own")
    assert read_exactly(ended_daemon, 7) == b"its own"
    assert still_joined(app, daemon)
    assert len(pair.sproxy.events("lost")) == 1, "the later workers knew that it was away"


def test_deaths_while_sessions_begin(pair, meeting, lab, seed):
    """Goal: whatever a death has broken off, from the first packet to the first stream, the application is served."""
    chance = random.Random(seed)
    for number in range(6):
        client = another(pair, OTHER_PORT + number)
        app = lab.client.connect(OTHER_PORT + number, timeout=PATIENCE_S)
        app.sendall(b"?")
        outage(chance.random() * 0.03)
        kill_worker(pair.sproxy)
        daemon = meeting.accept(b"?")
        daemon.settimeout(PATIENCE_S)
        assert still_joined(app, daemon)
        assert client.event("connected")


def test_a_daemon_is_dialled_again(pair, meeting, lab):
    """Goal: a daemon that had not answered when the worker died is connected by the next one, whether it is the default
    one or was asked for."""
    table = "table inet t { chain c { type filter hook input priority 0; tcp dport { 7007, 7008 } drop; }; }"
    pair.sproxy.stop()
    pair.start_sproxy("--keeper", "--allow", "127.0.0.1:7008", prefix=KEPT)
    pair.lab.client.start(CPROXY, *pair.options, "--target", "127.0.0.1:7008", OTHER_PORT, lab.server_address,
                          SPROXY_PORT).event("listening")
    with lab.server.listen(7008) as listener:
        named = Meeting(lambda: lab.client.connect(OTHER_PORT, timeout=PATIENCE_S), listener)
        others = [meeting.joined(), named.joined()]
        lab.server.run("nft", "-f", "-", input=table)
        apps = [meeting.connect(), named.connect()]
        for app in apps:
            app.sendall(b"!")
        until(lambda: len(streams_of_sproxy(lab)) == 4, 10, "both streams are known to sproxy")
        kill_worker(pair.sproxy)
        lab.server.run("nft", "delete", "table", "inet", "t")
        for app, place in zip(apps, (meeting, named), strict=True):
            daemon = place.accept(b"!")
            daemon.settimeout(PATIENCE_S)
            assert still_joined(app, daemon)
        assert all(still_joined(*other) for other in others)


def streams_of_sproxy(lab):
    sessions = facts(lab.server, "sproxy", "--streams")["sessions"]
    return [stream for session in sessions for stream in session["stream_list"]]


# ---- several clients, and whose they are


@pytest.fixture
def two(pair, meeting, lab):
    """Two clients with keys of their own, which sproxy knows, and a joined application of each."""
    authorize(lab, 2, 3)
    other = another(pair)
    own = meeting.joined()
    others = meeting.joined(lambda: lab.client.connect(OTHER_PORT, timeout=PATIENCE_S))
    return other, own, others


def test_status_after_a_death(pair, two, lab):
    """Goal: the same sessions, as old as they are, with what they have carried, and one outage more."""
    other, own, others = two
    assert still_joined(*own) and still_joined(*others)
    before = facts(lab.server, "sproxy")
    outage(1)
    kill_and_resume(pair, [pair.cproxy, other])
    after = facts(lab.server, "sproxy")
    assert after["pid"] == before["pid"] and after["uptime_s"] > before["uptime_s"]
    assert after["deaths"] == 1
    for old, new in zip(before["sessions"], after["sessions"], strict=True):
        assert new["age_s"] >= old["age_s"] + 1
        for name in ("session", "peer", "key", "streams", "streams_ever", "sent_bytes", "received_bytes"):
            assert name == "peer" or new[name] == old[name], name
        assert new["outages"]["count"] == old["outages"]["count"] + 1
        assert [each["why"] for each in new["outages"]["recent"][1:]] == (
            [each["why"] for each in old["outages"]["recent"]]), "those before are still listed"
        assert new["state"] == "connected"
    assert still_joined(*own) and still_joined(*others)


def test_a_key_that_was_taken_away_between_deaths(pair, two, lab):
    """Goal: what a key may do is looked up by each worker: its session ends, and the log says why; others go on."""
    other, own, others = two
    kill_and_resume(pair, [pair.cproxy, other])
    os.kill(pair.sproxy.worker_pid, signal.SIGSTOP)
    authorize(lab, 2)
    kill_worker(pair.sproxy)
    assert "not in authorized_keys" in pair.sproxy.event("ended")["why"]
    assert ends_by_reset(others[0])
    assert still_joined(*own)


def test_places_after_a_death(pair, meeting, lab):
    """Goal: what a key has is counted again, its streams and its sessions."""
    authorize(lab, 2)
    file = state_dir(lab.server) / "authorized_keys"
    file.write_text(f"max-sessions=1,max-streams=2 {file.read_text()}")
    joined = [meeting.joined()]
    kill_and_resume(pair)
    joined.append(meeting.joined())
    assert ends_by_reset(meeting.connect()), "a third stream"
    second = lab.client.start(CPROXY, *pair.options, OTHER_PORT, lab.server_address, SPROXY_PORT)
    second.event("listening")
    with lab.client.connect(OTHER_PORT):
        assert "max-sessions=" in pair.sproxy.event("refused")["why"]
    assert all(still_joined(*each) for each in joined)


@pytest.mark.skipif(not real_root(), reason="only root may write into another process's memory")
@pytest.mark.parametrize("place", ["program", "session"])
def test_a_damaged_record_costs_its_session_alone(pair, two, place):
    """Goal: what cannot be right is not used: that session ends, and its applications are reset; others go on."""
    _other, own, others = two
    if place == "program":
        damage(pair.sproxy, PROGRAM_RECORDS + 10, bytes(4) + b"\xff" * 8)    # the first half of the first record,
        damage(pair.sproxy, PROGRAM_RECORDS + 2050, bytes(4) + b"\xff" * 8)  # and its second
    else:
        damage(pair.sproxy, SESSION_RECORDS + 48, b"\xff" * 64)
    kill_worker(pair.sproxy)
    assert pair.sproxy.event("session-damaged")["sessions"] == "1"
    assert ends_by_reset(own[0]), "its record is the first"
    assert still_joined(*others)


@pytest.fixture
def poisonous(pair, lab, tmp_path):
    """Both proxies, of which sproxy can be poisoned, and where applications meet their daemons; two joined pairs, of
    clients of their own."""
    library = tmp_path / "poison.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "poison.c", "-ldl"], check=True)
    with lab.server.listen(DAEMON_PORT) as listener:
        pair.start_sproxy("--keeper", prefix=KEPT, env={"LD_PRELOAD": str(library)})
        pair.start_cproxy()
        place = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)
        another(pair)
        yield place, place.joined(), place.joined(lambda: lab.client.connect(OTHER_PORT, timeout=PATIENCE_S))


def test_a_session_that_crashes_workers_is_ended_alone(pair, poisonous):
    """Goal: after the second crash in its turn, and not after the first; other sessions go on."""
    place, (app, daemon), neighbours = poisonous
    daemon.sendall(b"this kills")
    assert read_exactly(app, 10) == b"this kills", "once"
    assert still_joined(app, daemon) and still_joined(*neighbours)
    daemon.sendall(b"this kills")
    assert ends_by_reset(app)
    assert "died in its turn" in pair.sproxy.event("ended")["why"]
    assert still_joined(*neighbours)
    assert still_joined(*place.joined()), "its cproxy begins another one"
    assert {event["why"] for event in pair.sproxy.events("worker-died")} == {"SIGABRT"}


def test_a_session_that_cannot_be_taken_over_is_ended_alone(pair, poisonous):
    """Goal: it crashes two workers that look at it, and the third does not look."""
    place, (app, daemon), neighbours = poisonous
    daemon.sendall(bytes(4242))
    assert read_exactly(app, 4242) == bytes(4242)
    kill_worker(pair.sproxy)
    assert ends_by_reset(app)
    assert "died in its turn" in pair.sproxy.event("ended")["why"]
    with pytest.raises(ConnectionResetError):
        daemon.recv(1)
    assert still_joined(*neighbours)
    assert still_joined(*place.joined()), "its cproxy begins another one"
    kill_worker(pair.sproxy)
    assert still_joined(*neighbours)
    assert [event["why"] for event in pair.sproxy.events("worker-died")] == ["SIGKILL", "SIGABRT", "SIGABRT", "SIGKILL"]
