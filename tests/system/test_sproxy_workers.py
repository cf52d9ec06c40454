"""sproxy with several workers: each session is in one of them, wherever its carriers arrive; to users it is one."""

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from asking import ask, facts
from conversations import PATIENCE_S, Meeting, MixedLoad
from lab import outage, until
from middle import Member
from program import last_of_line, of_process
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from test_places import STREAM_LIMIT, authorize, member, open_streams, turned_away
from traffic import Flow, read_to_end
from wire_peer import (
    DATA,
    GOODBYE,
    OPEN,
    REPLACED,
    RESET,
    SHUTDOWN,
    TOO_MANY,
    LyingClient,
    end_mark,
    frame,
    hello,
    preamble,
)

from mproxy.ground.errors import PeerError
from tests import keys

OTHER_PORT = 5301
DEATHS = 16


def branches(program):
    """(keeper, worker) of each worker, by its number: they are started in that order."""
    keepers = [int(pid) for pid in of_process(program.pid, f"task/{program.pid}/children").split()]
    return [(keeper, last_of_line(keeper)) for keeper in sorted(keepers)]


def start(pair, *options, workers=2):
    pair.start_sproxy("--workers", workers, *options)
    if workers > 1:
        until(lambda: all(worker != keeper for keeper, worker in branches(pair.sproxy)), PATIENCE_S, "all workers run")
    return pair.sproxy


def where(program, session_id):
    """In which worker a session is, as the log says."""
    found = [event for event in program.events("connected") if event["session"] == session_id[:4].hex()]
    return int(found[-1]["worker"])


def echoed(client, stream, text, seq=0, opens=True):
    """Have a plain client's stream echoed."""
    if opens:
        client.send(frame(OPEN, stream=stream))
    client.send(frame(DATA, stream=stream, seq=seq, payload=text))
    got = client.next_frame(DATA)
    return (got.stream, got.payload) == (stream, text)


def another(pair, number, port, *options):
    """Another cproxy on the client's host, with a key of its own."""
    place = pair.lab.client.home / f"key-{port}"
    place.mkdir(mode=0o700)
    file = place / "client-key.pem"
    file.touch(mode=0o600)
    file.write_bytes(keys.pem(number))
    program = pair.lab.client.start(CPROXY, *options, "--state-dir", place, port, pair.lab.server_address, SPROXY_PORT)
    pair.started.append(program)
    program.event("listening")
    return program


def test_new_sessions_spread_evenly_and_status_shows_one_program(pair, lab):
    pair.echo()
    program = start(pair, workers=3)
    clients = [member(lab, 2) for _ in range(6)]
    for client in clients:
        open_streams(client, 1)
        client.wait_for(b"stream 1!")
    found = [event["worker"] for event in program.events("connected")]
    assert [found.count(str(worker)) for worker in range(3)] == [2, 2, 2]
    found = facts(lab.server, "sproxy")
    assert found["pid"] == program.pid and found["deaths"] == 0
    assert [session["streams"] for session in found["sessions"]] == [1] * 6
    for client in clients[:4]:
        client.send(frame(GOODBYE))
    program.event("ended", count=4)
    found = facts(lab.server, "sproxy", "--streams")
    assert found["ended"]["sessions"] == len(found["endings"]) == 4
    assert [len(session["stream_list"]) for session in found["sessions"]] == [1, 1]
    for session in found["sessions"]:
        assert "ended" in ask(lab.server, "kill", session["session"])
    ask(lab.server, "kill", found["sessions"][0]["session"], status=1)
    assert facts(lab.server, "sproxy")["sessions"] == []
    assert program.stop() == 0


class Ways:
    """A client's session, encrypted or not, and how it comes back to it."""

    def __init__(self, lab, encrypted):
        self.lab, self.encrypted = lab, encrypted
        self.client = member(lab, 2) if encrypted else LyingClient(lab, SPROXY_PORT)
        self.welcome = self.client.welcome if encrypted else self.client.join()
        self.session_id = self.welcome.session_id if encrypted else self.welcome.session
        self.tag = self.welcome.routing_tag if encrypted else self.welcome.tag

    def resume(self, tag, session_id=None):
        """Another carrier, with that tag."""
        session_id = session_id or self.session_id
        self.client.connection.close()
        if self.encrypted:
            self.client = Member(self.lab.client.connect(SPROXY_PORT, self.lab.server_address), 2, session_id,
                                 self.welcome.secret, tag=tag)
            self.client.join()
        else:
            self.client = LyingClient(self.lab, SPROXY_PORT)
            self.client.send(preamble(tag=tag) + hello(session_id, self.welcome.secret, epoch=time.time_ns(),
                                                       resume_list=end_mark()) + end_mark())
            self.client.read_welcome()


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plaintext"])
def test_a_resume_reaches_its_worker_by_its_tag_or_by_hello(pair, lab, encrypted):
    """Goal: with its tag, without one, with a forged one, that of a worker that is not there, of another node, of
    another session: wherever it was accepted, every resume goes on."""
    program = start(pair, *([] if encrypted else ["--plaintext"]))
    sessions = [Ways(lab, encrypted) for _ in range(4)]
    assert {where(program, each.session_id) for each in sessions} == {0, 1}
    chance = random.Random(1)
    shown = [lambda own: own, lambda own: 0, lambda own: own ^ 1, lambda own: chance.getrandbits(64),
             lambda own: own ^ 63 << 50, lambda own: own ^ 1 << 56, *(lambda own, each=each: each.tag
                                                                       for each in sessions)]
    for show, each in itertools.product(shown, sessions):
        each.resume(show(each.tag))
    assert not program.events("refused")
    assert len(facts(lab.server, "sproxy")["sessions"]) == 4
    for tag in (0, sessions[0].tag, sessions[1].tag):
        with pytest.raises((PeerError, AssertionError), match="no such session"):
            sessions[0].resume(tag, os.urandom(16))


@pytest.mark.long
def test_each_worker_is_killed_under_load_and_no_byte_is_lost(pair, lab, seed):
    """Goal: bulk, ping-pong, opens and ends of two clients in two workers, while either is killed in turn."""
    with lab.server.listen(DAEMON_PORT) as listener:
        program = start(pair)
        pair.start_cproxy()
        second = another(pair, 3, OTHER_PORT)
        meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)
        other = meeting.joined(lambda: lab.client.connect(OTHER_PORT, timeout=PATIENCE_S))
        flows = [Flow(*other), Flow(*reversed(other))]
        load = MixedLoad(meeting, seed)
        program.event("connected", count=2)
        assert {event["worker"] for event in program.events("connected")} == {"0", "1"}
        for number in range(DEATHS):
            keeper, worker = branches(program)[number % 2]
            os.kill(worker, signal.SIGKILL)
            until(lambda keeper=keeper, worker=worker: last_of_line(keeper) not in (keeper, worker), PATIENCE_S,
                  "there is another worker")
            outage(0.55 + random.Random(f"{seed} {number}").random() * 0.1)  # a second later it is no young one
        load.stop()
        for flow in flows:
            flow.stop(PATIENCE_S)
        assert facts(lab.server, "sproxy")["deaths"] == DEATHS
        assert not pair.cproxy.events("ended") and not second.events("ended")
        assert program.stop() == 0


def test_a_log_that_was_moved_away_is_left_by_all(pair, lab):
    """Goal: after SIGHUP the main process, and keepers that it starts later, write to the new file, too."""
    log = lab.server.home / "proxy.log"
    pair.start_sproxy("--workers", 2, "--log-file", log, stderr=subprocess.DEVNULL)
    until(lambda: log.exists() and " listening " in log.read_text(), PATIENCE_S, "it listens")
    until(lambda: all(worker != keeper for keeper, worker in branches(pair.sproxy)), PATIENCE_S, "all workers run")
    log.rename(f"{log}.1")
    pair.sproxy.process.send_signal(signal.SIGHUP)
    until(lambda: log.exists() and log.read_text().count(" reloaded ") == 2, PATIENCE_S, "reloaded, in a new file")
    os.kill(branches(pair.sproxy)[0][0], signal.SIGKILL)
    until(lambda: " recovered " in log.read_text().partition(" keeper-died ")[2], PATIENCE_S, "what follows is there")
    assert "keeper-died" not in Path(f"{log}.1").read_text()


def test_a_keeper_that_is_killed_costs_its_own_sessions_alone(pair, lab):
    pair.echo()
    program = start(pair, "--plaintext")
    one, other = Ways(lab, False), Ways(lab, False)
    home = where(program, one.session_id)
    assert where(program, other.session_id) != home
    keeper, _worker = branches(program)[home]
    os.kill(keeper, signal.SIGKILL)
    assert program.event("keeper-died")["worker"] == str(home)
    assert echoed(other.client, 1, b"still here")
    with pytest.raises(AssertionError, match="no such session"):
        one.resume(one.tag)
    for _ in range(4):
        LyingClient(lab, SPROXY_PORT).join()
    assert program.stop() == 0


def test_guests_wait_for_the_next_worker(pair, lab):
    """Goal: what was handed to a worker that is just dead, or stands still, is not lost."""
    pair.echo()
    program = start(pair, "--plaintext")
    one, other = Ways(lab, False), Ways(lab, False)
    _keeper, worker = branches(program)[where(program, one.session_id)]
    os.kill(worker, signal.SIGSTOP)
    back = threading.Thread(target=one.resume, args=(one.tag,))
    back.start()
    assert echoed(other.client, 1, b"the others go on")
    os.kill(worker, signal.SIGKILL)
    back.join(PATIENCE_S)
    assert echoed(one.client, 1, b"served by the next one")


# ---- limits of all together

def test_max_sessions_counts_all_workers(pair, lab):
    pair.echo()
    authorize(lab, key2="", key3="")
    start(pair, "--max-sessions", "5", workers=3)
    held = [member(lab, 2) for _ in range(5)]
    for session in held:
        open_streams(session, 1)
        session.wait_for(b"stream 1!")
    assert turned_away(lab, 2)
    held[1].connection.close()
    pair.sproxy.event("lost")
    again = member(lab, 2)
    assert "it made room" in pair.sproxy.event("ended")["why"]
    for session in (held[0], *held[2:], again):
        open_streams(session, 2)
        session.wait_for(b"stream 2!")
    assert len(facts(lab.server, "sproxy")["sessions"]) == 5


def test_limits_hold_when_all_come_at_once(pair, lab):
    authorize(lab, key2="max-sessions=3", key3="")
    start(pair, workers=4)
    results = []

    def come():
        try:
            results.append(member(lab, 2))
        except PeerError as error:
            results.append(error.code)
    threads = [threading.Thread(target=come) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results.count(TOO_MANY) == 9 and len(results) == 12
    assert len(facts(lab.server, "sproxy")["sessions"]) == 3


def test_max_streams_of_a_key_counts_its_sessions(pair, lab):
    pair.echo()
    authorize(lab, key2="max-streams=3", key3="")
    start(pair)
    others = [member(lab, 3) for _ in range(2)]
    one, other = member(lab, 2), member(lab, 2)
    open_streams(one, 1)
    one.wait_for(b"stream 1!")
    open_streams(other, 1, 2)
    other.wait_for(b"stream 2!")
    open_streams(one, 3)
    one.wait_for(frame(RESET, stream=3, seq=STREAM_LIMIT))
    for each in others:
        open_streams(each, 1, 2, 3)
        each.wait_for(b"stream 3!")


def test_single_ends_those_of_other_workers(pair, lab):
    start(pair, "--plaintext", "--single")
    first = LyingClient(lab, SPROXY_PORT)
    first.join()
    second = LyingClient(lab, SPROXY_PORT)
    second.join()
    assert first.next_frame(GOODBYE).seq == REPLACED
    assert len(facts(lab.server, "sproxy")["sessions"]) == 1


def test_a_cproxy_that_began_anew_replaces_its_session_in_another_worker(pair, lab):
    pair.echo()
    program = start(pair, workers=3)
    firsts = [Member(lab.client.connect(SPROXY_PORT, lab.server_address), 2, instance=bytes([number]) * 16)
              for number in range(6)]
    for client in firsts:
        client.join()
    chance = random.Random(2)
    for number in chance.sample(range(6), 6):
        again = Member(lab.client.connect(SPROXY_PORT, lab.server_address), 2, instance=bytes([number]) * 16)
        again.join()
        open_streams(again, 1)
        again.wait_for(b"stream 1!")
    assert len(facts(lab.server, "sproxy")["sessions"]) == 6
    assert len(program.events("ended")) == 6


# ---- the program as a whole

@pytest.mark.parametrize("options", [["--plain"], ["--no-keeper"]])
def test_what_cannot_be_is_refused(lab, options):
    program = lab.server.start(SPROXY, "--workers", "2", *options, SPROXY_PORT)
    assert program.wait() == 2
    (line,) = program.log.text.splitlines()
    assert "--workers" in line and options[0] in line


@pytest.mark.parametrize("word", ["0", "65", "two", "-1"])
def test_not_a_number_of_workers(lab, word):
    program = lab.server.start(SPROXY, "--workers", word, SPROXY_PORT)
    assert program.wait() == 2
    (line,) = program.log.text.splitlines()
    assert "--workers" in line


def test_signals_are_for_all(pair, lab):
    program = start(pair, "--plaintext")
    client = LyingClient(lab, SPROXY_PORT)
    client.join()
    program.process.send_signal(signal.SIGHUP)
    program.event("reloaded", count=2)
    program.process.send_signal(signal.SIGTERM)
    assert client.next_frame(GOODBYE).seq == SHUTDOWN
    assert program.wait() == 0


def test_it_ends_as_a_whole(pair):
    """Goal: nothing is left of it when its main process is killed, and the port can be had again."""
    program = start(pair)
    pids = [pid for branch in branches(program) for pid in branch]
    program.stop(signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), PATIENCE_S, "all are gone")
    start(pair)
    assert pair.sproxy.stop() == 0


def test_it_stops_accepting_when_it_ends(pair, lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        program = start(pair)
        pair.start_cproxy()
        app, _daemon = pair.joined(listener)
        program.process.send_signal(signal.SIGTERM)
        program.event("stopping", count=2)
        with pytest.raises(ConnectionRefusedError):
            lab.client.connect(SPROXY_PORT, lab.server_address)
        assert program.wait() == 0
        app.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_probe_is_answered_without_a_key(pair, lab, workers):
    authorize(lab, key3="")
    program = start(pair, workers=workers)
    for _ in range(30):
        with lab.client.connect(SPROXY_PORT, lab.server_address) as probe:
            probe.sendall(bytes.fromhex("ab6d7078020200000000000000000000"))
            assert read_to_end(probe)[:5] == bytes.fromhex("ab6d707802")
    assert member(lab, 3)
    assert not program.events("refused") and not program.events("source-blocked")


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend mproxy
    bind :{port}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.len ge 16 }}
    default_backend sproxies
backend sproxies
    balance roundrobin
    option tcp-check
    tcp-check connect
    tcp-check send-binary ab6d7078020200000000000000000000
    tcp-check expect binary ab6d707802
    use-server node17 if {{ req.payload(8,1),hex -m str 11 }}
    use-server node18 if {{ req.payload(8,1),hex -m str 12 }}
    server node17 127.0.0.1:{first} check inter 100ms
    server node18 127.0.0.1:{second} check inter 100ms
"""


def test_a_balancer_sends_clients_back_by_their_tag(pair, lab, tmp_path):
    """Goal: haproxy, as docs/operations.md has it, in front of two sproxies with one key: each resume finds its own."""
    ports = {17: 6217, 18: 6218}
    nodes = {node: pair.start_sproxy("--node", node, "--workers", 2, port=port) for node, port in ports.items()}
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=SPROXY_PORT, first=ports[17], second=ports[18]))
    lab.server.start("haproxy", "-db", "-f", config)
    until(lambda: connects(lab), PATIENCE_S, "haproxy listens")
    sessions = [Ways(lab, True) for _ in range(4)]
    assert {each.tag >> 56 for each in sessions} == {17, 18}
    for _ in range(5):
        for each in sessions:
            each.resume(each.tag)
    for node, program in nodes.items():
        assert not program.events("refused"), node
        assert not program.events("source-blocked")


def connects(lab):
    try:
        lab.client.connect(SPROXY_PORT, lab.server_address).close()
    except OSError:
        return False
    return True


def test_exit_idle_is_when_no_worker_has_a_session(pair, lab):
    program = start(pair, "--plaintext", "--exit-idle", "1s", "--heartbeat", "10s")
    clients = [LyingClient(lab, SPROXY_PORT) for _ in range(2)]
    homes = {where(program, client.join().session): client for client in clients}
    homes[0].send(frame(GOODBYE))
    outage(2)
    assert program.process.poll() is None, "a session in worker 1 is in use"
    homes[1].send(frame(GOODBYE))
    assert program.wait() == 0
    program.event("idle-end")


def test_attached_clients_reach_any_worker(pair, lab):
    """Goal: whoever comes through --attach is a client as the others."""
    pair.echo()
    program = start(pair, "--plaintext")
    for number in range(4):
        pipe = lab.server.start(SPROXY, "--attach", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pipe.process.stdin.write(preamble() + hello() + end_mark())
        pipe.process.stdin.flush()
        program.event("connected", count=number + 1)
    assert {event["worker"] for event in program.events("connected")} == {"0", "1"}
