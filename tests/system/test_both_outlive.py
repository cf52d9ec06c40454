"""Both programs lose the processes that do their work, at once, while the path changes; nothing else is lost."""

import random
import sys
from pathlib import Path

import pytest
from conversations import PATIENCE_S, Meeting, MixedLoad
from lab import outage
from mortal import Reaper
from proxies import CPROXY_PORT, DAEMON_PORT

KEPT = (sys.executable, Path(__file__).with_name("kept_proxy.py"))
DEATHS = 40  # of each
CHANGES_S = (0.2, 0.6)


@pytest.fixture
def meeting(pair, lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        pair.start_sproxy("--keeper", prefix=KEPT)
        pair.start_cproxy("--keeper", "--bind", "127.0.0.1", prefix=KEPT)
        yield Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)


def test_no_byte_is_lost(pair, meeting, lab, seed):
    """Goal: both workers are killed together, at random moments, while addresses come and go: all that applications and
    daemons write arrives once, each end and each reset behind it, in one session."""
    chance = random.Random(f"{seed} deaths")
    load = MixedLoad(meeting, seed)
    reaper = Reaper([pair.sproxy, pair.cproxy], DEATHS, chance, 0.6)
    number = 2
    while reaper.is_alive():
        outage(chance.uniform(*CHANGES_S))
        lab.wifi.pull()
        outage(chance.random() * 0.1)
        number = 2 + (number - 1) % 200
        lab.wifi.give(number)
    reaper.join()
    load.stop()
    for program in (pair.sproxy, pair.cproxy):
        assert not [event for event in program.events("taken-over") if "lost" in event.fields]
        assert not program.events("session-damaged") and not program.events("ended")
