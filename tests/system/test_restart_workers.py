"""A service manager restarts an sproxy with several workers, and no connection ends: each leaves what it has, and the
one that follows has it again."""

import os
import random
import signal
from contextlib import ExitStack

import pytest
from asking import facts
from conversations import PATIENCE_S, Meeting, MixedLoad, still_joined
from lab import outage, until
from managed import Manager
from proxies import CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from test_remote_places import PLACE, TARGET_PORT, listens_at
from test_restart import change_byte, spoil
from test_sproxy_workers import another
from test_upgrade_workers import OTHER_PORT, keepers_of, workers_of
from traffic import ends_by_reset


class Service:
    """An sproxy with two workers as a service, two cproxies with a session in each, where applications meet their
    daemons."""

    def __init__(self, pair, lab, directory, listener, room=4096):
        self.pair, self.lab = pair, lab
        self.manager = Manager(lab.server, directory, room)
        self.start()
        pair.start_cproxy("--carrier", "tcp")
        self.cproxies = [pair.cproxy, another(pair, 3, OTHER_PORT, "--carrier", "tcp")]
        self.meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)
        self.joined = [self.meeting.joined(), self.other()]
        assert {event["worker"] for event in self.program.events("connected")} == {"0", "1"}

    @property
    def program(self):
        return self.manager.program

    def other(self):
        """An application of the second cproxy and its daemon."""
        return self.meeting.joined(lambda: self.lab.client.connect(OTHER_PORT, timeout=PATIENCE_S))

    def start(self, workers=2):
        program = self.manager.start(SPROXY, "--workers", workers, "--survive", "--allow-listen", PLACE, SPROXY_PORT,
                                     f"127.0.0.1:{DAEMON_PORT}")
        self.pair.started.append(program)
        program.event("listening")
        workers_of(program)
        return program

    def leave(self):
        """As `systemctl restart` ends a service."""
        self.program.process.send_signal(signal.SIGUSR1)
        assert self.program.wait() == 0, str(self.program)

    def restart(self, workers=2):
        self.leave()
        assert len(self.program.events("stored")) == 2
        assert len([name for name in self.manager.names() if "manifest" in name]) == 2
        self.start(workers)
        self.program.event("recovered", 2)
        assert not self.manager.store, "before any of them goes on"

    def goes_on(self):
        return all(still_joined(*ends) for ends in [*self.joined, self.meeting.joined(), self.other()])

    def verify(self):
        """Nothing was lost, in two sessions."""
        for program in self.pair.started:
            assert not [event for event in program.events("taken-over") if "lost" in event.fields]
            for name in ("session-damaged", "ended", "restart-failed", "not-stored", "no-store"):
                assert not program.events(name), str(program)
            for event in program.events("restarted") + program.events("stored"):
                assert not event.fields.keys() & {"missing", "lost"}, str(program)


@pytest.fixture
def service(pair, lab, tmp_path):
    with lab.server.listen(DAEMON_PORT) as listener, ExitStack() as stack:
        found = Service(pair, lab, tmp_path, listener)
        stack.callback(found.manager.close)
        yield found


def test_no_byte_is_lost_in_restarts(service, seed):
    """Goal: under every kind of load, two in a row, after deaths and an upgrade: every byte arrives once, in two
    sessions; who calls meanwhile waits."""
    chance = random.Random(seed)
    load = MixedLoad(service.meeting, seed)
    for number in range(3):
        outage(chance.random() * 0.3)
        if number == 2:
            service.program.process.send_signal(signal.SIGUSR2)
            service.program.event("recovered", 4)
            os.kill(workers_of(service.program)[1], signal.SIGKILL)
            service.program.event("worker-died")
        service.restart()
    load.stop()
    assert service.goes_on()
    service.verify()
    found = facts(service.lab.server, "sproxy")
    assert len(found["sessions"]) == 2 and found["upgrades"] == found["deaths"] == 0
    assert service.program.stop() == 0
    assert not service.manager.store


def test_another_number_of_workers(service):
    """Goal: sessions stay in the workers that have them, so there are as many as before, and the log says so."""
    service.restart(workers=1)
    kept = service.program.event("workers-kept")
    assert (kept["workers"], kept["asked"]) == ("2", "1")
    assert len(keepers_of(service.program)) == 2 and service.goes_on()
    service.verify()


def test_what_one_has_left_is_damaged(service):
    """Goal: its connections are reset, at both ends; those of the other worker go on."""
    lost = next(number for number, cproxy in enumerate(service.cproxies)
                if worker_of(service.program, cproxy) == 1)
    service.leave()
    spoil(service.manager, "mproxy-dump-1", lambda fd: change_byte(fd, 28))
    service.start()
    assert "the dump is damaged" in service.program.event("restart-failed")["why"]
    app, daemon = service.joined[lost]
    assert ends_by_reset(daemon) and ends_by_reset(app)
    assert still_joined(*service.joined[1 - lost])
    assert not service.manager.store
    assert len(facts(service.lab.server, "sproxy")["sessions"]) >= 1


def worker_of(program, cproxy):
    session = cproxy.event("connected")["session"]
    return int(next(event for event in program.events("connected") if event["session"] == session)["worker"])


def test_a_start_that_fails_changes_nothing(service):
    """Goal: when the mistake is mended everything is still there."""
    service.leave()
    program = service.manager.start(SPROXY, "--workers", "2", "--survive", "--host-key", "/nowhere", SPROXY_PORT)
    assert program.wait() != 0
    service.start()
    assert service.goes_on()
    service.verify()


def test_a_worker_dies_while_it_leaves(service):
    """Goal: the next one leaves what it had."""
    workers = workers_of(service.program)
    os.kill(workers[1], signal.SIGSTOP)
    service.program.process.send_signal(signal.SIGUSR1)
    service.program.event("stored")
    os.kill(workers[1], signal.SIGKILL)
    assert service.program.wait() == 0
    service.start()
    assert service.goes_on()
    service.verify()


def test_a_store_that_is_too_small(pair, lab, tmp_path):
    """Goal: each worker has its half; connections beyond it are reset at both ends, the others go on."""
    with lab.server.listen(DAEMON_PORT) as listener:
        service = Service(pair, lab, tmp_path, listener, room=20)
        try:
            joined = [service.meeting.joined() for _ in range(12)]
            service.leave()
            assert sum(int(event.fields.get("lost", 0)) for event in service.program.events("stored")) >= 3
            service.start()
            kept = [ends for ends in joined if not broken(*ends)]
            assert 4 <= len(kept) < 12
            assert all(still_joined(*ends) for ends in service.joined[1:])
        finally:
            service.manager.close()


def broken(app, daemon):
    try:
        return not still_joined(app, daemon)
    except (OSError, AssertionError):
        return True


def test_a_stop_is_an_end(service):
    assert service.program.stop() == 0
    assert not service.manager.store
    assert all(ends_by_reset(app) for app, _daemon in service.joined)


def test_a_place_of_one_worker(service, lab):
    """Goal: where it listens for a client, it does so through a restart, and who calls meanwhile waits."""
    for _ in range(30):  # until one is in the second worker, whose names are its own
        guest = another(service.pair, 4, OTHER_PORT + 1, "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}")
        guest.event("remote-listening")
        if worker_of(service.program, guest) == 1:
            break
        guest.stop()
        (lab.client.home / f"key-{OTHER_PORT + 1}").rename(lab.client.home / f"gone-{guest.pid}")
    with lab.client.listen(TARGET_PORT) as listener:
        meeting = Meeting(lambda: lab.server.connect(PLACE, timeout=PATIENCE_S), listener)
        ends = meeting.joined()
        service.leave()
        caller = lab.server.connect(PLACE, timeout=PATIENCE_S)
        service.start()
        caller.sendall(b"?")
        assert still_joined(caller, meeting.accept(b"?"))
        assert still_joined(*ends) and still_joined(*meeting.joined())
    assert guest.stop() == 0
    until(lambda: not listens_at(lab, PLACE), PATIENCE_S, "nobody has it open any more")
