"""A service manager restarts a proxy, and no connection ends: what it has is with the manager meanwhile."""

import os
import random
import select
import signal
import socket
from contextlib import ExitStack

import pytest
from asking import facts
from conversations import PATIENCE_S, Meeting, MixedLoad, half_ended, still_joined
from lab import outage, until
from managed import Manager
from mortal import kill_worker
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from traffic import ends_by_reset, read_exactly, reset


class Services:
    """Both proxies as services, and where applications meet their daemons."""

    def __init__(self, pair, lab, directory, listener, room=4096, sproxy=(), cproxy=()):
        self.pair, self.lab = pair, lab
        self.managers = {}
        self.commands = {
            "sproxy": [SPROXY, "--keeper", "--survive", *pair.options, *sproxy, SPROXY_PORT,
                       f"127.0.0.1:{DAEMON_PORT}"],
            "cproxy": [CPROXY, "--keeper", "--survive", *pair.options, *cproxy, CPROXY_PORT, pair.lab.server_address,
                       SPROXY_PORT]}
        for name, host in (("sproxy", lab.server), ("cproxy", lab.client)):
            (directory / f"of-{name}").mkdir()
            self.managers[name] = Manager(host, directory / f"of-{name}", room)
            self.start(name)
        self.meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)

    def __getitem__(self, name):
        """The program that runs under that name."""
        return self.managers[name].program

    def start(self, name, *options):
        command = self.commands[name]
        program = self.managers[name].start(command[0], *options, *command[1:])
        self.pair.started.append(program)
        program.event("listening")
        return program

    def leave(self, name):
        """As `systemctl restart` ends a service."""
        program = self[name]
        program.process.send_signal(signal.SIGUSR1)
        assert program.wait() == 0, str(program)
        return program

    def restart(self, *names, options=()):
        """All at once; the new ones serve."""
        for name in names:
            self[name].process.send_signal(signal.SIGUSR1)
        for name in names:
            assert self[name].wait() == 0, str(self[name])
        for name in names:
            self.start(name, *options)
            self[name].event("recovered")
            until(lambda name=name: not self.managers[name].store, 10, "the store is empty")

    def verify(self):
        """Nothing was lost, in one session."""
        for program in self.pair.started:
            assert not [event for event in program.events("taken-over") if "lost" in event.fields]
            for name in ("session-damaged", "ended", "worker-died", "restart-failed", "not-stored", "no-store"):
                assert not program.events(name), str(program)
            for event in program.events("restarted") + program.events("stored"):
                assert not event.fields.keys() & {"missing", "lost"}, str(program)

    def close(self):
        for manager in self.managers.values():
            manager.close()


@pytest.fixture
def services(pair, lab, tmp_path):
    with lab.server.listen(DAEMON_PORT) as listener, ExitStack() as stack:
        found = Services(pair, lab, tmp_path, listener)
        stack.callback(found.close)
        yield found


@pytest.mark.parametrize("names", [["sproxy"], ["cproxy"], ["sproxy", "cproxy"]], ids="-".join)
def test_no_byte_is_lost_in_restarts(services, seed, names):
    """Goal: under every kind of load, two in a row, every byte arrives once, in one session."""
    load = MixedLoad(services.meeting, seed)
    for _ in range(2):
        outage(random.Random(seed).random() * 0.5)
        services.restart(*names)
        services.restart(*names)
    load.stop()
    services.verify()
    for name in names:
        assert services[name].event("restarted")["former"]


def test_two_hundred_streams(services):
    joined = [services.meeting.joined() for _ in range(200)]
    services.restart("sproxy", "cproxy")
    assert int(services["cproxy"].event("restarted")["connections"]) == 200
    assert all(still_joined(app, daemon) for app, daemon in joined)
    services.restart("cproxy", "sproxy")
    assert all(still_joined(app, daemon) for app, daemon in joined)
    services.verify()


def test_who_calls_meanwhile_waits(services):
    """Goal: the ports listen on, in the manager's hands."""
    services.leave("cproxy")
    caller = services.lab.client.connect(CPROXY_PORT)
    services.leave("sproxy")
    services.start("sproxy")
    services.start("cproxy")
    caller.sendall(b"?")
    daemon = services.meeting.accept(b"?")
    assert still_joined(caller, daemon)


def test_what_happens_meanwhile_is_seen(services):
    """Goal: bytes, ends and resets of the time between two runs arrive."""
    (app, daemon), (ended_app, ended_daemon), (reset_app, reset_daemon) = (
        services.meeting.joined() for _ in range(3))
    services.leave("sproxy")
    services.leave("cproxy")
    daemon.sendall(b"words" * 1000)
    app.sendall(b"back" * 1000)
    ended_daemon.sendall(b"last words")
    ended_daemon.shutdown(socket.SHUT_WR)
    reset(reset_daemon)
    services.start("sproxy")
    services.start("cproxy")
    assert read_exactly(app, 5000) == b"words" * 1000
    assert read_exactly(daemon, 4000) == b"back" * 1000
    assert ends_by_reset(reset_app)
    assert half_ended(ended_app, ended_daemon, b"last words")
    assert still_joined(app, daemon)
    services.verify()


def test_a_restart_while_away(services):
    app, daemon = services.meeting.joined()
    services.lab.wifi.cut()
    services["sproxy"].event("lost")
    services["cproxy"].event("lost")
    daemon.sendall(b"words" * 1000)
    services.restart("sproxy", "cproxy")
    services.lab.wifi.mend()
    assert read_exactly(app, 5000) == b"words" * 1000
    assert still_joined(app, daemon)
    services.verify()


def test_deaths_and_upgrades_between_restarts(pair, lab, tmp_path):
    """Goal: what stands in front after an upgrade hands on what the program behind it has left."""
    with lab.server.listen(DAEMON_PORT) as listener, ExitStack() as stack:
        services = Services(pair, lab, tmp_path, listener)
        stack.callback(services.close)
        app, daemon = services.meeting.joined()
        for _ in range(2):
            kill_worker(services["sproxy"], services["cproxy"])
            assert still_joined(app, daemon)
            for name in ("sproxy", "cproxy"):
                services[name].process.send_signal(signal.SIGUSR2)
                services[name].event("upgraded")
            services.restart("sproxy", "cproxy")
            assert still_joined(app, daemon)
        assert facts(lab.server, "sproxy")["upgrades"] == 0


def test_a_stop_is_an_end(services):
    """Goal: with SIGTERM nothing is left with the manager, and everybody hears of it."""
    app, _daemon = services.meeting.joined()
    assert services["sproxy"].stop() == 0
    assert not services.managers["sproxy"].store
    assert ends_by_reset(app)
    assert services["cproxy"].stop() == 0


def test_a_store_that_is_given_up(services):
    """Goal: when no start follows, and the manager closes what it has, applications see that their connections broke;
    the next start, whenever that is, ends the session at the other side."""
    app, daemon = services.meeting.joined()
    services.leave("sproxy")
    services.managers["sproxy"].drop(lambda _name, _number: True)
    assert ends_by_reset(daemon)
    services.start("sproxy")
    assert ends_by_reset(app)


def change_byte(fd, at):
    """Give another sealed file with one byte changed."""
    data = bytearray(os.pread(fd, os.fstat(fd).st_size, 0))
    data[at] ^= 1
    return sealed(bytes(data))


def sealed(data, seals=0xF):
    import fcntl
    fd = os.memfd_create("changed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def spoil(manager, name, change):
    """Put something else in the place of what is in the store."""
    [(at, fd)] = [(at, fd) for at, (found, fd) in enumerate(manager.store) if found == name]
    manager.store[at] = name, change(fd)
    os.close(fd)


@pytest.mark.parametrize("name, change, why", [
    ("mproxy-dump", lambda fd: change_byte(fd, 28), "the dump is damaged"),
    ("mproxy-dump", lambda fd: change_byte(fd, 8), "this build reads 1 to 2"),
    ("mproxy-dump", lambda fd: sealed(b""), "it cannot read the dump"),
    ("mproxy-dump", lambda fd: sealed(os.pread(fd, 100, 0)), "cut off"),
    ("mproxy-dump", lambda fd: sealed(os.pread(fd, 1 << 20, 0), 0), "its dump could have been changed"),
    ("mproxy-manifest", lambda fd: change_byte(fd, 50), "its manifest is damaged"),
    ("mproxy-manifest", lambda fd: os.dup(2), "its manifest could have been changed"),
], ids=["number", "version", "empty", "cut", "unsealed", "manifest", "foreign"])
def test_what_cannot_be_right_is_refused(services, name, change, why):
    """Goal: one line, connections are reset at both ends, and the program starts anew."""
    app, daemon = services.meeting.joined()
    services.leave("sproxy")
    spoil(services.managers["sproxy"], name, change)
    program = services.start("sproxy")
    assert why in program.event("restart-failed")["why"]
    assert ends_by_reset(daemon) and ends_by_reset(app)
    until(lambda: not services.managers["sproxy"].store, 10, "nothing is kept any more")
    assert still_joined(*services.meeting.joined())


def test_another_programs_store(services):
    app, daemon = services.meeting.joined()
    services.leave("sproxy")
    services.leave("cproxy")
    ours, other = services.managers["sproxy"], services.managers["cproxy"]
    ours.drop(lambda _name, _number: True)
    ours.store, other.store = other.store, []
    assert "it is cproxy's, not sproxy's" in services.start("sproxy").event("restart-failed")["why"]
    services.start("cproxy")
    assert ends_by_reset(app) and ends_by_reset(daemon)
    assert still_joined(*services.meeting.joined())


@pytest.mark.parametrize("side", ["sproxy", "cproxy"])
def test_half_of_the_descriptors_are_lost(services, side):
    """Goal: those streams are reset at both ends, the others go on."""
    joined = [services.meeting.joined() for _ in range(20)]
    services.leave(side)
    manager = services.managers[side]
    apps = [number for number, name in enumerate(manager.names()) if name == "app"]
    assert len(apps) == 20
    manager.drop(lambda _name, number: number in apps[::2])
    event = services.start(side).event("restarted")
    assert event["missing"] == "10" and event.level == "warning"
    assert services[side].event("taken-over")["lost"] == "10"
    verify_lost(joined, 10)


def verify_lost(joined, count):
    """So many were reset at both ends, and the others work."""
    def over():
        return [pair for pair in joined if select.select(pair, [], [], 0)[0]]

    until(lambda: len(over()) == count, 10, f"{count} of {len(joined)} are over")
    for pair in joined:
        assert all(map(ends_by_reset, pair)) if pair in over() else still_joined(*pair)


def test_a_store_that_is_too_small(pair, lab, tmp_path):
    """Goal: that is said at the restart, and what does not fit is reset at both ends."""
    with lab.server.listen(DAEMON_PORT) as listener, ExitStack() as stack:
        services = Services(pair, lab, tmp_path, listener, room=10)
        stack.callback(services.close)
        joined = [services.meeting.joined() for _ in range(12)]
        former = services["cproxy"]
        services.leave("cproxy")
        fits = int(former.event("stored")["connections"])
        assert int(former.event("stored")["lost"]) == 12 - fits and 0 < fits < 9
        services.start("cproxy")
        verify_lost(joined, 12 - fits)


def test_what_was_changed_with_the_restart(services):
    """Goal: other ports are opened, the former ones are not in the way, and connections stay."""
    app, daemon = services.meeting.joined()
    services.leave("sproxy")
    services.start("sproxy", "--bind", "0.0.0.0")
    services.commands["sproxy"].insert(1, "--bind=0.0.0.0")
    assert still_joined(app, daemon)
    services.restart("cproxy", options=["-L", "5300:127.0.0.1:1"])
    assert still_joined(app, daemon)
    services.verify()


def test_a_cproxy_that_leads_elsewhere_now(services):
    app, _daemon = services.meeting.joined()
    services.leave("cproxy")
    services.commands["cproxy"][-2] = "127.0.0.9"
    program = services.start("cproxy")
    assert "and this cproxy leads to 127.0.0.9:6200" in program.event("restart-failed")["why"]
    assert ends_by_reset(app)


def test_a_restart_without_a_keeper(services):
    app, daemon = services.meeting.joined()
    services.leave("sproxy")
    services.commands["sproxy"][1] = "--no-keeper"
    program = services.start("sproxy")
    assert "this one has no keeper" in program.event("restart-failed")["why"]
    assert "there is no keeper" in program.event("no-store")["why"]
    assert ends_by_reset(app) and ends_by_reset(daemon)
    services.leave("sproxy")


def test_a_start_that_fails_takes_nothing(services):
    """Goal: when the mistake is mended everything is still there."""
    app, daemon = services.meeting.joined()
    services.leave("sproxy")
    manager = services.managers["sproxy"]
    program = manager.start(SPROXY, "--survive", "--host-key", "/nowhere", SPROXY_PORT)
    assert program.wait() != 0
    services.start("sproxy")
    assert still_joined(app, daemon)
    services.verify()


@pytest.mark.parametrize("env, why", [
    ({}, "no service manager that keeps descriptors"),
    ({"NOTIFY_SOCKET": "/nowhere"}, "set FileDescriptorStoreMax=N"),
    ({"NOTIFY_SOCKET": "/nowhere", "FDSTORE": "0"}, "set FileDescriptorStoreMax=N"),
])
def test_without_a_store(pair, env, why):
    """Goal: one line at the start; the signal is an end in order."""
    program = pair.start_sproxy("--keeper", "--survive", env=env)
    assert why in program.event("no-store")["why"]
    program.process.send_signal(signal.SIGUSR1)
    assert program.wait() == 0
    assert program.events("stopping")


def test_the_manager_is_gone(pair, tmp_path):
    """Goal: one line, and an end in order."""
    program = pair.start_sproxy("--keeper", "--survive",
                                env={"NOTIFY_SOCKET": str(tmp_path / "nowhere"), "FDSTORE": "100"})
    program.process.send_signal(signal.SIGUSR1)
    assert program.wait() == 0
    assert "the service manager cannot be reached" in program.event("not-stored")["why"]
    assert program.events("stopping")
