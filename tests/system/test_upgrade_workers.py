"""Another build takes over from an sproxy with several workers: all of them give it everything, or none does."""

import os
import random
import signal
from pathlib import Path

import builds
import pytest
from asking import facts
from builds import Build
from conversations import PATIENCE_S, Meeting, MixedLoad, still_joined
from lab import outage, until
from program import last_of_line, of_process
from proxies import CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from test_remote_places import PLACE, TARGET_PORT, listens_at
from test_sproxy_workers import another
from traffic import Flow

OTHER_PORT = 5301

# In one keeper of the next build alone, which has loaded what the other one is still waiting for.
ONE_CANNOT_READ = """
import mproxy.keeper.several_successors as successors
prepare, load = successors.SeveralSuccessors.prepare, successors.load_apart
def prepare_or_not(self, number):
    if number:
        successors.load_apart = lambda *_: 'not for me'
    return prepare(self, number)
successors.SeveralSuccessors.prepare = prepare_or_not
"""
ONE_DIES = ONE_CANNOT_READ.replace("lambda *_: 'not for me'",
                                   "lambda *_: successors.os.kill(successors.os.getpid(), 9)")
ONE_HANGS = ONE_CANNOT_READ.replace("lambda *_: 'not for me'", "lambda *_: __import__('time').sleep(60)")


def children_of(pid):
    return [int(child) for child in of_process(pid, f"task/{pid}/children").split()]


def keepers_of(program):
    """The keepers of its workers, in their order: from the first upgrade on the main process stands in front of the
    one whose children they are."""
    pid = program.pid
    while len(found := children_of(pid)) == 1:
        pid = found[0]
    return sorted(found)


def workers_of(program):
    """All workers, when all are there."""
    found = []

    def all_run():
        found[:] = [last_of_line(keeper) for keeper in keepers_of(program)]
        return len(found) > 1 and all(worker not in keepers_of(program) for worker in found)
    until(all_run, PATIENCE_S, "all workers run")
    return found


class Crew:
    """An sproxy with two workers, two cproxies with a session in each, and where applications meet their daemons."""

    def __init__(self, pair, lab, listener, kind):
        self.lab = lab
        self.build = Build(lab.server, SPROXY)
        self.arguments = [*pair.options, SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}"]
        self.sproxy = lab.server.start(self.build.path, "--workers", 2, *self.arguments)
        pair.sproxy = self.sproxy
        pair.started.append(self.sproxy)
        self.sproxy.event("listening")
        workers_of(self.sproxy)
        pair.start_cproxy("--carrier", kind)
        self.cproxies = [pair.cproxy, another(pair, 3, OTHER_PORT, "--carrier", kind)]
        self.meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)
        self.joined = [self.meeting.joined(), self.other()]
        assert {event["worker"] for event in self.sproxy.events("connected")} == {"0", "1"}

    def other(self):
        """An application of the second cproxy and its daemon."""
        return self.meeting.joined(lambda: self.lab.client.connect(OTHER_PORT, timeout=PATIENCE_S))

    def upgrade(self):
        """Have a sound build take over, and wait until it serves."""
        count = len(self.sproxy.events("upgraded"))
        recovered = len(self.sproxy.events("recovered"))
        self.sproxy.process.send_signal(signal.SIGUSR2)
        self.sproxy.event("upgraded", count + 1)
        self.sproxy.event("recovered", recovered + 2)

    def goes_on(self):
        return all(still_joined(*ends) for ends in [*self.joined, self.meeting.joined(), self.other()])

    def verify(self):
        """Nothing was lost, in two sessions."""
        assert not [event for event in self.sproxy.events("taken-over") if "lost" in event.fields]
        for program in (self.sproxy, *self.cproxies):
            for name in ("session-damaged", "ended"):
                assert not program.events(name), str(program)


@pytest.fixture(params=["tcp", "datagram"])
def crew(request, pair, lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        yield Crew(pair, lab, listener, request.param)


OVER_TCP = pytest.mark.parametrize("crew", ["tcp"], indirect=True)


def test_no_byte_is_lost_in_upgrades(crew, seed):
    """Goal: two clients in two workers, every kind of load and bulk: every byte arrives once, in the same sessions, and
    users see one process, which counts."""
    chance = random.Random(seed)
    ends = crew.other()
    flows = [Flow(*ends), Flow(*reversed(ends))]
    load = MixedLoad(crew.meeting, seed)
    for _ in range(2):
        outage(chance.random() * 0.3)
        crew.upgrade()
    load.stop()
    for flow in flows:
        flow.stop(PATIENCE_S)
    assert crew.goes_on()
    crew.verify()
    found = facts(crew.lab.server, "sproxy")
    assert found["upgrades"] == 2 and found["deaths"] == 0 and len(found["sessions"]) == 2
    assert found["pid"] == int(Path(f"/proc/{crew.sproxy.pid}").name)
    assert "has taken over" in crew.build.upgrade()
    crew.sproxy.event("upgraded", 3)
    assert len(children_of(crew.sproxy.pid)) == 1, "nothing is left of those before"
    assert crew.sproxy.stop() == 0


@OVER_TCP
@pytest.mark.parametrize("fault, why", [
    (builds.EXITS, "it ended before it was ready: exit status 3"),
    (builds.DIES_LOADING, "it died while reading the dump"),
    (ONE_CANNOT_READ, "not for me"),
    (ONE_DIES, "one of its keepers has ended"),
    (builds.TOO_NEW, "it reads dumps of version 7 to 9, and this build writes 1 to 2"),
], ids=["exits", "all die", "one cannot read", "one dies", "too new"])
def test_a_build_that_does_not_come_up(crew, fault, why):
    """Goal: as if nothing had been tried: the same workers go on. The next sound one can take over."""
    workers = workers_of(crew.sproxy)
    crew.build.install(fault)
    crew.build.upgrade(status=1)
    assert crew.sproxy.event("upgrade-failed")["why"] == f"{why}; the running one continues"
    assert crew.goes_on()
    until(lambda: workers_of(crew.sproxy) == workers, PATIENCE_S, "nothing but the same workers is there")
    crew.build.install()
    crew.upgrade()
    assert crew.goes_on()
    crew.verify()
    assert facts(crew.lab.server, "sproxy")["deaths"] == 0


@OVER_TCP
def test_a_build_of_which_one_keeper_hangs(crew):
    crew.build.install(ONE_HANGS)
    crew.build.upgrade(status=1)
    why = crew.sproxy.event("upgrade-failed")["why"]
    assert why == "it was not ready within 5 s; the running one continues"
    assert crew.goes_on()
    until(lambda: len(children_of(crew.sproxy.pid)) == 2, PATIENCE_S, "the two keepers alone are left")
    crew.verify()


@OVER_TCP
def test_workers_die_between_upgrades(crew):
    """Goal: each keeper has its workers, before and after."""
    deaths = 0
    for number in range(3):
        if number:
            crew.upgrade()
        for worker in workers_of(crew.sproxy)[number % 2:]:
            os.kill(worker, signal.SIGKILL)
            deaths += 1
            crew.sproxy.event("worker-died", deaths)
        assert crew.goes_on()
        found = facts(crew.lab.server, "sproxy")
        assert found["deaths"] == deaths and found["upgrades"] == number
    assert not any(program.events("ended") for program in (crew.sproxy, *crew.cproxies))


@OVER_TCP
@pytest.mark.parametrize("upgraded", [False, True])
def test_the_first_worker_dies_while_the_next_build_starts(crew, upgraded):
    """Goal: it speaks for all, and so does the next one: what was asked for is done."""
    if upgraded:
        crew.upgrade()
    worker = workers_of(crew.sproxy)[0]
    crew.build.install(builds.WAITS)
    crew.sproxy.process.send_signal(signal.SIGUSR2)
    crew.build.await_start()
    os.kill(worker, signal.SIGKILL)
    crew.sproxy.event("worker-died")
    assert crew.goes_on()
    crew.build.let_go()
    crew.sproxy.event("upgraded", 2 if upgraded else 1, within=builds.LATEST_S)
    assert crew.goes_on()
    assert not crew.sproxy.events("upgrade-failed")


@OVER_TCP
@pytest.mark.parametrize("upgraded", [False, True])
def test_told_something_while_the_next_build_starts(crew, upgraded):
    """Goal: the next build is told it, too: by then it may have read what was to be read again."""
    if upgraded:
        crew.upgrade()
    workers_of(crew.sproxy)
    crew.build.install(builds.WAITS)
    crew.sproxy.process.send_signal(signal.SIGUSR2)
    crew.build.await_start()
    crew.sproxy.process.send_signal(signal.SIGHUP)
    crew.sproxy.event("reloaded", 2)
    crew.build.let_go()
    crew.sproxy.event("reloaded", 4, within=builds.LATEST_S)
    assert len(crew.sproxy.events("upgraded")) == (2 if upgraded else 1)
    assert crew.goes_on()


@OVER_TCP
@pytest.mark.parametrize("upgraded", [False, True])
def test_a_worker_dies_in_the_middle(crew, upgraded):
    """Goal: one worker has given everything away and has ended, the other one dies before that: both go on, with new
    workers that have everything; whoever decides is the main process, or one behind it."""
    if upgraded:
        crew.upgrade()
    crew.build.install("""
import mproxy.keeper.several_successors as successors
confirm = successors.SeveralSuccessors.confirm
def late(self, number):
    if number:
        while not os.path.exists(os.path.join(os.path.dirname(sys.argv[0]), 'go')):
            __import__('time').sleep(0.01)
    confirm(self, number)
successors.SeveralSuccessors.confirm = late
""".replace("import mproxy", "import os\nimport mproxy", 1))
    keepers, (_first, second) = keepers_of(crew.sproxy), workers_of(crew.sproxy)
    crew.sproxy.process.send_signal(signal.SIGUSR2)
    until(lambda: not children_of(keepers[0]), PATIENCE_S, "the first worker has given everything away")
    os.kill(second, signal.SIGKILL)
    crew.sproxy.event("upgrade-failed")
    (crew.build.path.parent / "go").touch()
    assert keepers_of_running(crew.sproxy, upgraded) == keepers
    assert crew.goes_on()
    crew.build.install()
    until(lambda: len(children_of(crew.sproxy.pid)) == (1 if upgraded else 2), PATIENCE_S, "the next build has ended")
    crew.upgrade()
    assert crew.goes_on()
    assert not any(program.events("ended") for program in (crew.sproxy, *crew.cproxies))


def keepers_of_running(program, upgraded):
    """Of the build that runs, while the next one may be there still."""
    main = children_of(program.pid)[0] if upgraded else program.pid
    return sorted(children_of(main))[:2]


@OVER_TCP
def test_another_number_of_workers(crew):
    """Goal: sessions stay in the workers that have them, so there are as many as before, and the log says so."""
    crew.build.install("sys.argv[sys.argv.index('--workers') + 1] = '3'")
    crew.upgrade()
    kept = crew.sproxy.event("workers-kept")
    assert (kept["workers"], kept["asked"]) == ("2", "3")
    assert len(keepers_of(crew.sproxy)) == 2 and crew.goes_on()
    crew.verify()


@OVER_TCP
def test_signals_reach_all_behind(crew):
    """Goal: SIGHUP and SIGTERM to the process that was started mean what they meant; its death is everybody's."""
    crew.upgrade()
    crew.sproxy.process.send_signal(signal.SIGHUP)
    crew.sproxy.event("reloaded", count=2)
    pids = [*keepers_of(crew.sproxy), *workers_of(crew.sproxy)]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)  # as `pkill` does, and nothing happens
    assert crew.goes_on()
    crew.sproxy.process.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), PATIENCE_S, "all have died with it")


def test_each_has_its_own_places(pair, lab):
    """Goal: where sproxy listens for two clients, of two workers, it does so after upgrades, until they leave."""
    build = Build(lab.server, SPROXY)
    pair.sproxy = lab.server.start(build.path, "--workers", 2, "--allow-listen", PLACE,
                                    "--allow-listen", PLACE + 1, SPROXY_PORT)
    pair.started.append(pair.sproxy)
    pair.sproxy.event("listening")
    workers_of(pair.sproxy)
    with lab.client.listen(TARGET_PORT) as listener:
        for number in range(2):
            place = ["-R", f"{PLACE + number}:127.0.0.1:{TARGET_PORT}"]
            if number:
                another(pair, 3, OTHER_PORT, *place).event("remote-listening")
            else:
                pair.start_cproxy(*place).event("remote-listening")
        assert {event["worker"] for event in pair.sproxy.events("connected")} == {"0", "1"}
        joined = []
        for count in range(1, 3):
            for number in range(2):
                meeting = Meeting(lambda port=PLACE + number: lab.server.connect(port, timeout=PATIENCE_S), listener)
                joined.append(meeting.joined())
            assert all(still_joined(*ends) for ends in joined)
            pair.sproxy.process.send_signal(signal.SIGUSR2)
            pair.sproxy.event("upgraded", count)
            pair.sproxy.event("recovered", 2 * count)
        assert all(still_joined(*ends) for ends in joined)
    for program in pair.started[1:]:
        assert program.stop() == 0
    until(lambda: not [port for port in (PLACE, PLACE + 1) if listens_at(lab, port)], PATIENCE_S,
          "nobody listens any more")
    assert not pair.sproxy.events("remote-closed")[2:]
