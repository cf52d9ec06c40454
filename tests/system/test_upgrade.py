"""Another build takes over, and no connection ends with the one before; or it does not come up, and that goes on."""

import os
import random
import signal
import socket
from pathlib import Path

import builds
import pytest
from asking import facts, session_of
from builds import Build
from conversations import PATIENCE_S, Meeting, MixedLoad, half_ended, still_joined
from lab import outage, until
from mortal import arena_bytes, descriptors, kill_worker
from program import is_pending
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from relays import MPROXY
from test_via import runs
from traffic import ends_by_reset, read_exactly, reset

from mproxy.keeper.orders import MOST_TRIES


class Kept:
    """Both proxies with their builds, and where applications meet their daemons."""

    def __init__(self, pair, lab, listener):
        self.pair, self.lab = pair, lab
        self.client, self.server = Build(lab.client, CPROXY), Build(lab.server, SPROXY)
        self.sproxy = self._start(lab.server, self.server, SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}")
        self.cproxy = self._start(lab.client, self.client, CPROXY_PORT, pair.lab.server_address, SPROXY_PORT)
        self.meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)

    def _start(self, host, build, *arguments):
        program = host.start(build.path, "--keeper", *self.pair.options, *arguments)
        self.pair.started.append(program)
        program.event("listening")
        return program

    def of(self, name):
        """(program, build) by its name."""
        return (self.cproxy, self.client) if name == "cproxy" else (self.sproxy, self.server)

    def upgrade(self, *names):
        """Have sound builds take over, all at once, and wait until they serve."""
        builds.take_over(*(self.of(name)[0] for name in names))

    def verify(self):
        """Nothing was lost, in one session."""
        for program in (self.cproxy, self.sproxy):
            assert not [event for event in program.events("taken-over") if "lost" in event.fields]
            for name in ("session-damaged", "ended", "worker-died"):
                assert not program.events(name), str(program)


def outages_of(host, program):
    """(how many, why each began) of the outages that status tells of its session."""
    outages = session_of(host, program)["outages"]
    return outages["count"], [each["why"] for each in outages["recent"]]


@pytest.fixture
def kept(pair, lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        yield Kept(pair, lab, listener)


@pytest.mark.parametrize("names", [["sproxy"], ["cproxy"], ["sproxy", "cproxy"]], ids="-".join)
def test_no_byte_is_lost_in_upgrades(kept, seed, names):
    """Goal: under every kind of load, again and again, every byte arrives once, in one session, and users see the same
    process, which counts."""
    chance = random.Random(seed)
    load = MixedLoad(kept.meeting, seed)
    for _ in range(4):
        outage(chance.random() * 0.5)
        kept.upgrade(*names)
    load.stop()
    kept.verify()
    for name in names:
        program, build = kept.of(name)
        found = facts(build.host, name)
        assert found["upgrades"] == 4 and found["deaths"] == 0
        assert found["pid"] == int(Path(f"/proc/{program.pid}").name)


def test_mproxy_upgrade_says_how_it_went(kept):
    app, daemon = kept.meeting.joined()
    assert "has taken over" in kept.server.upgrade()
    assert "has taken over" in kept.client.upgrade()
    assert still_joined(app, daemon)
    assert "upgraded 1 time," in kept.lab.client.run(MPROXY, "status")
    kept.verify()


@pytest.mark.parametrize("fault, why", [
    ("EXITS", "it ended before it was ready: exit status 3"),
    ("RAISES", "it ended before it was ready: exit status 1"),
    ("RAISES_LATER", "SystemError: a mistake"),
    ("CANNOT_READ", "it cannot read the dump: not for me"),
    ("DIES_LOADING", "it died while reading the dump"),
    ("DIES_READY", "it ended before it was ready: SIGKILL"),
    ("TOO_NEW", "it reads dumps of version 7 to 9, and this build writes 1 to 2"),
])
def test_a_build_that_does_not_come_up(kept, fault, why):
    """Goal: the one that runs goes on with its connections, whoever it is, and says why; the next sound one can take
    over."""
    app, daemon = kept.meeting.joined()
    for name in ("sproxy", "cproxy"):
        program, build = kept.of(name)
        for number in range(1, 3):
            build.install(getattr(builds, fault))
            build.upgrade(status=1)
            assert program.event("upgrade-failed", number)["why"] == f"{why}; the running one continues"
            assert still_joined(app, daemon)
            build.install()
            kept.upgrade(name)
            assert still_joined(app, daemon)
    kept.verify()


@pytest.mark.parametrize("fault", ["HANGS", "HANGS_LOADING"])
def test_a_build_that_hangs(kept, fault):
    app, daemon = kept.meeting.joined()
    kept.server.install(getattr(builds, fault))
    kept.server.upgrade(status=1)
    why = kept.sproxy.event("upgrade-failed")["why"]
    assert why == "it was not ready within 5 s; the running one continues"
    assert still_joined(app, daemon)
    until(lambda: len(line_of(kept.sproxy.pid)) == 2, 10, "only keeper and worker are left")
    kept.verify()


def test_a_build_of_the_former_version(kept):
    """Goal: back to it, and forth again."""
    app, daemon = kept.meeting.joined()
    for fault in ("FORMER", "SOUND", "FORMER", "FORMER", "SOUND"):
        for build in (kept.server, kept.client):
            build.install(getattr(builds, fault))
        kept.upgrade("sproxy", "cproxy")
        assert still_joined(app, daemon)
    kept.verify()


def test_upgrades_while_the_client_is_away(kept, lab):
    """Goal: what was written, ended and reset before and meanwhile arrives."""
    (app, daemon), (ended_app, ended_daemon), (reset_app, reset_daemon) = (kept.meeting.joined() for _ in range(3))
    lab.wifi.cut()
    kept.sproxy.event("lost")
    kept.cproxy.event("lost")
    daemon.sendall(b"words" * 1000)
    app.sendall(b"back" * 1000)
    ended_daemon.sendall(b"last words")
    ended_daemon.shutdown(socket.SHUT_WR)
    told = [outages_of(lab.client, "cproxy"), outages_of(lab.server, "sproxy")]
    kept.upgrade("sproxy", "cproxy")
    assert [outages_of(lab.client, "cproxy"), outages_of(lab.server, "sproxy")] == told
    reset(reset_daemon)
    kept.upgrade("sproxy", "cproxy")
    lab.wifi.mend()
    assert read_exactly(app, 5000) == b"words" * 1000
    assert read_exactly(daemon, 4000) == b"back" * 1000
    assert ends_by_reset(reset_app)
    assert half_ended(ended_app, ended_daemon, b"last words")
    assert still_joined(app, daemon)
    kept.verify()


def test_upgrades_while_addresses_change(kept, lab, seed):
    """Goal: an upgrade at any moment of a resume, of either or both."""
    chance = random.Random(seed)
    load = MixedLoad(kept.meeting, seed)
    for number in range(8):
        lab.wifi.pull()
        outage(chance.random() * 0.1)
        lab.wifi.give(3 + number)
        outage(chance.random() * 0.1)
        kept.upgrade(*chance.choice([["sproxy"], ["cproxy"], ["sproxy", "cproxy"]]))
    load.stop()
    kept.verify()


def test_a_worker_dies_between_upgrades(kept):
    """Goal: each keeper has its workers."""
    app, daemon = kept.meeting.joined()
    for deaths in range(1, 4):
        kept.upgrade("sproxy", "cproxy")
        kill_worker(kept.sproxy, kept.cproxy)
        assert still_joined(app, daemon)
        assert facts(kept.lab.server, "sproxy")["deaths"] == deaths
    assert not kept.cproxy.events("ended")


@pytest.mark.parametrize("upgraded", [False, True])
def test_the_worker_dies_while_the_next_build_starts(kept, upgraded):
    """Goal: the next worker has it started once more, whoever is the main process by then: what was asked for is
    done."""
    if upgraded:
        kept.upgrade("sproxy")
    app, daemon = kept.meeting.joined()
    worker = kept.sproxy.worker_pid
    kept.server.install(builds.WAITS)
    kept.sproxy.process.send_signal(signal.SIGUSR2)
    kept.server.await_start()
    os.kill(worker, signal.SIGKILL)
    kept.sproxy.event("worker-died")
    assert still_joined(app, daemon)
    kept.server.let_go()
    kept.sproxy.event("upgraded", 2 if upgraded else 1, within=builds.LATEST_S)
    assert still_joined(app, daemon)
    assert len(line_of(kept.sproxy.pid)) == 3, "the main process, a keeper, a worker"
    assert not kept.sproxy.events("upgrade-failed")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_build_with_which_workers_die(kept, number):
    """Goal: it is not tried for ever, with one that crashes not twice; and that is said."""
    app, daemon = kept.meeting.joined()
    kept.server.install(builds.KILLS.replace("NUMBER", str(int(number))))
    kept.sproxy.process.send_signal(signal.SIGUSR2)
    deaths = MOST_TRIES if number == signal.SIGKILL else 1
    kept.sproxy.event("worker-died", deaths, within=builds.LATEST_S)
    assert "the worker has died meanwhile" in kept.sproxy.event("upgrade-failed", within=builds.LATEST_S)["why"]
    assert still_joined(app, daemon)
    kept.server.install()
    kept.upgrade("sproxy")
    assert len(kept.sproxy.events("worker-died")) == deaths and still_joined(app, daemon)


def test_asked_for_again_while_the_next_build_starts(kept):
    """Goal: what was installed meanwhile takes over as well."""
    app, daemon = kept.meeting.joined()
    kept.server.install(builds.WAITS)
    kept.sproxy.process.send_signal(signal.SIGUSR2)
    kept.server.await_start()
    kept.server.install(builds.PATIENT)
    kept.sproxy.process.send_signal(signal.SIGUSR2)
    until(lambda: not is_pending(kept.sproxy.pid, signal.SIGUSR2), 10, "the main process has heard it")
    kept.server.let_go()
    kept.sproxy.event("upgraded", 2, within=builds.LATEST_S)
    assert still_joined(app, daemon)
    kept.verify()


@pytest.mark.parametrize("upgraded", [False, True])
def test_told_something_while_the_next_build_starts(pair, lab, upgraded):
    """Goal: a log file that is moved away after the next build has opened it is written anew by that, too."""
    log = lab.server.home / "proxy.log"
    build = Build(lab.server, SPROXY)
    program = lab.server.start(build.path, "--keeper", "--log-file", log, *pair.options, SPROXY_PORT,
                               f"127.0.0.1:{DAEMON_PORT}")
    pair.started.append(program)
    until(lambda: log.exists() and " listening " in log.read_text(), PATIENCE_S, "it listens")
    if upgraded:
        assert "has taken over" in build.upgrade()
    build.install(builds.WAITS)
    program.process.send_signal(signal.SIGUSR2)
    build.await_start()
    log.rename(f"{log}.1")
    program.process.send_signal(signal.SIGHUP)
    until(lambda: log.exists() and " reloaded" in log.read_text(), PATIENCE_S, "the running one has a new file")
    build.let_go()
    until(lambda: " reloaded" in log.read_text().partition(" reloaded")[2], PATIENCE_S, "and so has the next build")
    assert program.stop() == 0


def test_upgrades_leave_nothing(kept):
    """Goal: descriptors, memory and processes are those of one program, however often it was upgraded."""
    app, daemon = kept.meeting.joined()
    upgrade_in_turn(kept)
    programs = (kept.sproxy, kept.cproxy)
    counts = [len(descriptors(program)) for program in programs]
    fronts = [len(os.listdir(f"/proc/{program.pid}/fd")) for program in programs]
    pages = [arena_bytes(program) for program in programs]
    for _ in range(6):
        upgrade_in_turn(kept)
        assert still_joined(app, daemon)
    until(lambda: all(len(descriptors(program)) <= count for program, count in zip(programs, counts, strict=True)), 10,
          "no more descriptors than before")
    until(lambda: all(arena_bytes(program) <= memory + (256 << 10)
                      for program, memory in zip(programs, pages, strict=True)), 30, "no more memory than before")
    for program, front in zip(programs, fronts, strict=True):
        assert len(os.listdir(f"/proc/{program.pid}/fd")) == front <= 8
        assert len(line_of(program.pid)) == 3, "the main process, a keeper, a worker"
        assert "memfd:mproxy" not in Path(f"/proc/{program.pid}/maps").read_text()
    kept.verify()


def test_signals_reach_the_program_behind(kept):
    """Goal: SIGHUP and SIGTERM to the process that was started mean what they meant; its death is the program's."""
    kept.upgrade("sproxy", "cproxy")
    kept.sproxy.signal(signal.SIGHUP)
    kept.sproxy.event("reloaded")
    for pid in line_of(kept.cproxy.pid)[1:]:
        os.kill(pid, signal.SIGTERM)  # as `pkill` does, and nothing happens
    app, daemon = kept.meeting.joined()
    assert still_joined(app, daemon)
    app.close()
    daemon.close()
    line = line_of(kept.sproxy.pid)
    assert kept.cproxy.stop() == 0 and len(kept.cproxy.events("stopping")) == 1
    kept.sproxy.process.kill()
    until(lambda: not any(map(runs, line[1:])), 10, "all have died with it")


def test_a_program_that_is_ending_is_not_upgraded(kept):
    app, _daemon = kept.meeting.joined()
    app.sendall(bytes(1 << 20))  # nobody reads it, so the end waits for --drain
    kept.cproxy.signal(signal.SIGTERM)
    kept.cproxy.event("stopping")
    kept.cproxy.process.send_signal(signal.SIGUSR2)
    assert kept.cproxy.event("upgrade-failed")["why"] == "the program is ending"
    assert "the program is ending" in ask_upgrade(kept.lab.client, "cproxy")
    assert not kept.cproxy.events("upgraded")
    kept.cproxy.stop(signal.SIGKILL)


def test_programs_that_cannot_be_upgraded(pair, lab):
    pair.start_sproxy("--no-keeper")
    assert "restart it" in ask_upgrade(lab.server, "sproxy")
    assert "nothing called cproxy is running" in ask_upgrade(lab.server, "cproxy")


def upgrade_in_turn(kept):
    """Upgrade both, and wait each time until the session goes on."""
    for name in ("sproxy", "cproxy"):
        number = len(kept.cproxy.events("resumed")) + 1
        kept.upgrade(name)
        kept.cproxy.event("resumed", number)


def ask_upgrade(host, which):
    """What `mproxy upgrade` complains of."""
    program = host.start(MPROXY, "upgrade", which)
    assert program.wait() == 1
    return program.log.text


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def line_of(pid):
    """The process, its child, and so on."""
    line = [pid]
    while children := children_of(line[-1]):
        line.append(children[0])
    return line
