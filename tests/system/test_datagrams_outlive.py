"""Sessions over UDP, whose keys die with a process: deaths of workers, upgrades and restarts of either proxy."""

import random
import signal

import pytest
from conversations import PATIENCE_S, Meeting, MixedLoad
from lab import outage
from mortal import kill_worker
from proxies import CPROXY_PORT, DAEMON_PORT
from test_restart import Services

SPROXY_OPTIONS, CPROXY_OPTIONS = [], ["--carrier", "datagram"]
WHO = pytest.mark.parametrize("names", [["sproxy"], ["cproxy"], ["sproxy", "cproxy"]], ids="-".join)


@pytest.fixture
def meeting(pair, lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        pair.start_sproxy("--keeper", *SPROXY_OPTIONS)
        pair.start_cproxy("--keeper", *CPROXY_OPTIONS)
        yield Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)


def all_over_udp(programs):
    """Nothing was lost, in one session, and every carrier was one of packets."""
    for program in programs:
        assert not [event for event in program.events("taken-over") if "lost" in event.fields], str(program)
        assert not program.events("session-damaged") and not program.events("ended"), str(program)
        for event in program.events("connected") + program.events("resumed"):
            assert event["carrier"] == "datagram", str(program)


@WHO
def test_workers_die(pair, meeting, seed, names):
    """Goal: killed again and again, together or one of them: every byte arrives once, over UDP."""
    chance = random.Random(seed)
    load = MixedLoad(meeting, seed)
    for count in range(1, 5):
        outage(chance.random() * 0.3)
        kill_worker(*(getattr(pair, name) for name in names))
        pair.sproxy.event("resumed", count)
    load.stop()
    all_over_udp([pair.sproxy, pair.cproxy])


@WHO
def test_upgrades(pair, meeting, seed, names):
    """Goal: another build has the UDP socket of the one before, and the session goes on at once."""
    chance = random.Random(seed)
    load = MixedLoad(meeting, seed)
    for count in range(1, 4):
        outage(chance.random() * 0.3)
        for name in names:
            getattr(pair, name).process.send_signal(signal.SIGUSR2)
        for name in names:
            getattr(pair, name).event("upgraded", count)
        pair.sproxy.event("resumed", count)
    load.stop()
    all_over_udp([pair.sproxy, pair.cproxy])


@WHO
def test_restarts(pair, lab, tmp_path, seed, names):
    """Goal: what the service manager keeps meanwhile is enough to go on over UDP."""
    with lab.server.listen(DAEMON_PORT) as listener:
        services = Services(pair, lab, tmp_path, listener, sproxy=SPROXY_OPTIONS, cproxy=CPROXY_OPTIONS)
        try:
            load = MixedLoad(services.meeting, seed)
            for _ in range(2):
                outage(random.Random(seed).random() * 0.3)
                services.restart(*names)
            load.stop()
            services.verify()
            all_over_udp(pair.started)
        finally:
            services.close()
