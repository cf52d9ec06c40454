"""A whole fleet, as docs/fleet.md and contrib/fleet/ have it: two balancers, three nodes, and what befalls them."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "contrib" / "fleet"))

from chaos import Chaos
from fleet import NODES, Fleet

SEED, SESSIONS = 23, 12
# Each kind of event once; `make chaos` has all of them, for longer.
EVENTS = ["worker_dies", "upgrade", "short_cut", "balancer_is_reloaded", "balancer_dies", "sproxy_dies"]


@pytest.fixture
def fleet(tmp_path):
    with Fleet(tmp_path) as running:
        yield running
        for program in running.sproxies.values():
            print(program)
            assert "internal-error" not in program.log.text, str(program)


def test_what_befalls_a_fleet_costs_only_whom_it_must(fleet):
    """Goal: new sessions go where there are fewest; whatever dies, is upgraded or cut off, the bytes are exact, and
    only the clients of an sproxy that is gone are reset: at once, and they go on at another."""
    chaos = Chaos(fleet, SESSIONS, SEED)
    assert sorted(fleet.connections().values()) == [SESSIONS // len(NODES)] * len(NODES)
    for event in random.Random(SEED).sample(EVENTS, len(EVENTS)):
        getattr(chaos, event)()
    chaos.talks.stop()
    assert chaos.talks.resets and chaos.talks.blocks > SESSIONS
    # The address that counts is the client's, though all came through a balancer.
    for event in fleet.sproxies["node1"].events("connected"):
        assert event["peer"].startswith("10.77.0.100:") and event["through"].startswith("10.77.0.1")
