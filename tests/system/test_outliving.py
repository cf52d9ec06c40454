"""cproxy's worker dies, and no application notices: not a byte is lost, repeated or changed, and ends are seen as they
were."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asking import facts, session_of
from conversations import PATIENCE_S, Meeting
from lab import CRASH, SLOWNESS_S, outage, pause, until
from mortal import arena_bytes
from proxies import CPROXY_PORT, DAEMON_PORT
from traffic import Flow, Traffic, ends_by_reset, read_exactly, read_to_end, reset

HERE = Path(__file__).parent
KEPT = (sys.executable, HERE / "kept_proxy.py")
DEATHS = 50
AT_ONCE = 3
APART_S = 0.15  # two deaths, at most


@pytest.fixture
def daemon(lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        yield listener


class Kept:
    """cproxy under a keeper, on one address, and its deaths."""

    def __init__(self, pair, options, environment, server):
        pair.start_sproxy()
        self.program = pair.start_cproxy(
            "--keeper", "--bind", "127.0.0.1", *options, server=server, prefix=KEPT, env=environment)
        self.count = 0

    def die(self, number=signal.SIGKILL):
        """Kill the worker; returns when the next one serves."""
        os.kill(self.program.worker_pid, number)
        self.count += 1
        self.program.event("recovered", self.count)

    def lost(self):
        """Events that tell of applications that could not be kept."""
        return [event for event in self.program.events() if "lost" in event.fields or event.name == "session-damaged"]


@pytest.fixture
def kept(pair):
    """Starts sproxy, and cproxy under a keeper, with options."""
    return lambda *options, env=None, server=None: Kept(pair, options, env, server)


def test_bulk_both_ways(pair, daemon, kept, seed):
    """Goal: killed at random moments, again and again, also while it resumes."""
    chance = random.Random(f"{seed} bulk")
    cproxy = kept()
    app, connection = pair.joined(daemon)
    flows = [Flow(app, connection), Flow(connection, app)]
    for _ in range(DEATHS):
        cproxy.die()
        pause(chance.random() * APART_S)
    for flow in flows:
        flow.stop(within=PATIENCE_S)
    assert flows[0].received > 0 < flows[1].received
    assert not cproxy.lost()


def test_names_cannot_be_resolved(pair, daemon, kept):
    """Goal: the next worker dials where the one before it had its carrier."""
    pair.lab.client.knows(server=pair.lab.server_address)
    cproxy = kept(server="server")
    app, connection = pair.joined(daemon)
    pair.lab.client.knows()
    cproxy.die()
    app.sendall(b"still here")
    assert read_exactly(connection, 10) == b"still here"


def test_conversations_of_every_kind(pair, daemon, kept, seed):
    """Goal: connections that are opened, half-closed, closed and reset meanwhile end as they would have."""
    chance = random.Random(f"{seed} conversations")
    cproxy = kept()
    meeting = Meeting(lambda: pair.lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), daemon)
    number, under_way = 0, []
    while cproxy.count < DEATHS or under_way:
        while cproxy.count < DEATHS and len(under_way) < AT_ONCE:
            number += 1
            under_way.append(meeting.converse(f"{seed} {number}"))
        if cproxy.count < DEATHS:
            cproxy.die()
            pause(chance.random() * APART_S)
        else:
            under_way[0].join()
        under_way = [one for one in under_way if one.is_alive() or one.join()]
    assert number > DEATHS // 4 and not cproxy.lost()


def test_what_happens_while_nobody_looks(pair, daemon, kept):
    """Goal: an end, a reset behind bytes, and a new application, between a death and the next worker."""
    cproxy = kept()
    ending, resetting, waiting = (pair.joined(daemon) for _ in range(3))
    os.kill(cproxy.program.worker_pid, signal.SIGSTOP)
    ending[0].sendall(b"bye")
    ending[0].close()
    resetting[0].sendall(b"cut")
    reset(resetting[0])
    fresh = pair.app()
    fresh.sendall(b"hello")
    waiting[0].sendall(b"still here")
    cproxy.die()
    assert read_to_end(ending[1]) == b"bye"
    assert read_exactly(resetting[1], 3) == b"cut"
    with pytest.raises(ConnectionResetError):
        resetting[1].recv(1)
    assert read_exactly(waiting[1], 10) == b"still here"
    connection, _ = daemon.accept()
    connection.settimeout(PATIENCE_S)
    assert read_exactly(connection, 5) == b"hello"
    connection.sendall(b"hello, too")
    assert read_exactly(fresh, 10) == b"hello, too"


def test_dies_while_away(pair, kept):
    """Goal: deaths while the path is gone; what was written before and between arrives when it is back."""
    pair.echo()
    cproxy = kept()
    traffic = Traffic([pair.app() for _ in range(3)])
    traffic.goes_on()
    pair.lab.wifi.cut()
    for _ in range(3):
        cproxy.die()
    pair.lab.wifi.mend()
    traffic.goes_on()
    traffic.finish()


def test_dies_while_the_first_dial_is_under_way(pair, kept):
    """Goal: an application that waits for its session is not forgotten."""
    pair.echo()
    cproxy = kept()
    pair.lab.wifi.cut()
    with pair.app() as app:
        app.sendall(b"hello")
        for _ in range(3):
            cproxy.die()
        pair.lab.wifi.mend()
        assert read_exactly(app, 5) == b"hello"


def test_deaths_leave_nothing(pair, kept):
    """Goal: descriptors and memory are the same as after the first death; both when streams live on, and when they have
    ended."""
    pair.echo()
    cproxy = kept()

    def settle():
        with pair.app() as app:
            traffic = Traffic([app])
            traffic.goes_on(1 << 20)
            cproxy.die()
            traffic.goes_on()
            traffic.finish()
        until(lambda: not facts(pair.lab.client, "cproxy")["sessions"][0]["streams"], 30, "the stream has ended")
        return cproxy.program.open_fds(), arena_bytes(cproxy.program)

    fds, size = settle()
    for _ in range(20):
        found = settle()
    assert found[1] <= size + (1 << 20)
    until(lambda: cproxy.program.open_fds() <= fds, 30, "no descriptor more")  # a dial may be under way


@pytest.mark.parametrize("number", [CRASH, signal.SIGABRT])
def test_crashes(pair, daemon, kept, number):
    cproxy = kept()
    app, connection = pair.joined(daemon)
    cproxy.die(number)
    assert cproxy.program.event("worker-died")["why"] == number.name
    connection.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"


def test_a_mistake_in_the_program(pair, daemon, kept):
    """Goal: an exception that nobody has expected ends the worker, which cannot rely on its state, and nothing else."""
    cproxy = kept(env={"MPROXY_MISTAKE": "reload"})
    pair.started.remove(cproxy.program)  # its error is wanted
    app, connection = pair.joined(daemon)
    cproxy.program.signal(signal.SIGHUP)
    assert cproxy.program.event("internal-error")["why"] == "SystemError: a mistake"
    assert cproxy.program.event("worker-died")["why"] == "exit status 70"
    connection.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"


def test_a_session_in_whose_turn_workers_crash(pair, daemon, kept):
    """Goal: after the second time it is ended, and the next application is served in another one."""
    cproxy = kept(env={"MPROXY_MISTAKE": "reset"})
    pair.started.remove(cproxy.program)  # its errors are wanted
    streams = [pair.joined(daemon) for _ in range(3)]
    for number, (_, connection) in enumerate(streams[:2], 1):
        reset(connection)
        cproxy.program.event("recovered", number)
    assert cproxy.program.event("ended")["why"] == "workers died in its turn"
    assert all(map(ends_by_reset, streams[2]))
    app, connection = pair.joined(daemon)
    connection.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    assert len({event["session"] for event in cproxy.program.events("connected")}) == 2


def test_a_session_that_cannot_be_taken_over(pair, daemon, kept, tmp_path):
    """Goal: it crashes two workers that look at it; the third does not look, and the daemon hears of its end."""
    library = tmp_path / "poison.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "poison.c", "-ldl"], check=True)
    cproxy = kept(env={"LD_PRELOAD": str(library)})
    pair.started.remove(cproxy.program)  # its errors are wanted
    app, connection = pair.joined(daemon)
    app.sendall(bytes(4241))  # and one before
    assert read_exactly(connection, 4241) == bytes(4241)
    os.kill(cproxy.program.worker_pid, signal.SIGKILL)
    assert cproxy.program.event("ended")["why"] == "workers died in its turn"
    assert ends_by_reset(app) and ends_by_reset(connection)
    app, connection = pair.joined(daemon)
    connection.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    assert [event["why"] for event in cproxy.program.events("worker-died")] == ["SIGKILL", "SIGABRT", "SIGABRT"]


def test_status_counts_deaths(pair, daemon, kept):
    """Goal: it names the process that was started, and says how often another one took its work over."""
    cproxy = kept()
    app, _ = pair.joined(daemon)
    before = facts(pair.lab.client, "cproxy")
    assert (before["pid"], before["deaths"]) == (cproxy.program.pid, 0)
    for _ in range(2):
        cproxy.die()
    after = facts(pair.lab.client, "cproxy")
    assert (after["pid"], after["deaths"]) == (cproxy.program.pid, 2)
    ours, = after["sessions"]
    assert ours["session"] == before["sessions"][0]["session"] and ours["streams"] == 1
    assert ours["age_s"] >= before["sessions"][0]["age_s"]
    app.close()


def test_what_status_lists_goes_on(pair, daemon, kept):
    """Goal: outages with their reasons, also the one that lasts, and sessions that ended, are as before a death."""
    cproxy = kept("--idle", "1ms")
    app, connection = pair.joined(daemon)
    app.close()
    connection.close()
    cproxy.program.event("ended")
    _stream = pair.joined(daemon)
    cproxy.die()
    cproxy.program.event("resumed")
    pair.lab.wifi.cut()
    until(lambda: session_of(pair.lab.client, "cproxy")["state"] == "away", PATIENCE_S, "away")
    before = facts(pair.lab.client, "cproxy")
    cproxy.die()
    after = facts(pair.lab.client, "cproxy")
    assert [each["session"] for each in after["endings"]] == [each["session"] for each in before["endings"]]
    assert after["endings"][0]["why"] == before["endings"][0]["why"] == "idle"
    old, new = (program["sessions"][0]["outages"]["recent"] for program in (before, after))
    assert [each["why"] for each in new] == [each["why"] for each in old] and len(old) == 2
    assert new[1]["lasted_s"] == old[1]["lasted_s"]


def figures(program):
    """What a program has done altogether, as its metrics count it."""
    told = program["ended"]
    sums = {name: told[name] for name in ("streams_ever", "sent_bytes", "received_bytes", "resent_bytes")}
    sums["outages"] = told["outages"]["count"]
    for session in program["sessions"]:
        for name in sums:
            sums[name] += session["outages"]["count"] if name == "outages" else session[name]
    return sums


def test_figures_never_grow_less(pair, daemon, kept):
    """Goal: what ended sessions and outages have come to is known to every worker: killed at once, while there is a
    carrier, while there is none, and between two sessions."""
    cproxy = kept("--idle", "1ms", "--carrier", "tcp")
    known = figures(facts(pair.lab.client, "cproxy"))
    for number in range(3):
        app, connection = pair.joined(daemon)
        connection.sendall(b"x" * 1000)
        assert read_exactly(app, 1000) == b"x" * 1000
        cproxy.die()
        connection.sendall(b"y")
        assert read_exactly(app, 1) == b"y"
        pair.lab.wifi.pull()
        cproxy.program.event("lost", number + 1)
        cproxy.die()
        told = facts(pair.lab.client, "cproxy")
        assert told["sessions"][0]["outages"]["count"] == 2
        assert told["sessions"][0]["outages"]["total_s"] < 30
        pair.lab.wifi.give(3 + number)
        app.close()
        connection.close()
        cproxy.program.event("ended", number + 1)
        cproxy.die()
        told = facts(pair.lab.client, "cproxy")
        found = figures(told)
        assert told["ended"]["sessions"] == number + 1 and not told["sessions"]
        assert all(found[name] > known[name] for name in ("streams_ever", "sent_bytes", "received_bytes"))
        assert found["outages"] == known["outages"] + 2
        known = found
    assert known["received_bytes"] == 3 * 1001


def test_deaths_do_not_prolong_a_session_without_a_carrier(pair, daemon, kept):
    """Goal: --session-ttl counts from the loss of the carrier, however often workers died since then."""
    cproxy = kept("--session-ttl", "8s")
    app, _ = pair.joined(daemon)
    pair.lab.wifi.cut()
    cproxy.program.event("lost")
    lost_at = time.monotonic()
    for _ in range(2):
        outage(2)
        cproxy.die()
    assert ends_by_reset(app)
    assert time.monotonic() - lost_at < 8 + SLOWNESS_S
    assert "--session-ttl" in cproxy.program.event("ended")["why"]


def test_the_log_of_a_death(pair, daemon, kept):
    """Goal: that a worker died, which sessions go on, and that all is well; no greeting as at a start."""
    cproxy = kept()
    _stream = pair.joined(daemon)
    cproxy.die()
    names = [event.name for event in cproxy.program.events()]
    assert names[names.index("worker-died"):][:3] == ["worker-died", "taken-over", "recovered"]
    recovered = cproxy.program.event("recovered")
    assert (recovered["sessions"], recovered["streams"]) == ("1", "1")
    assert names.count("listening") == 1


def test_told_to_stop_after_a_death(pair, daemon, kept):
    """Goal: the end is orderly: what was written is delivered, and sproxy hears a goodbye."""
    cproxy = kept()
    app, connection = pair.joined(daemon)
    cproxy.die()
    app.sendall(b"last words")
    assert cproxy.program.stop() == 0
    assert read_exactly(connection, 10) == b"last words"
    pair.sproxy.event("ended")
