"""Workload: machines of a fleet are upgraded, and lose power, under load (contrib/fleet).

Goal: nobody loses a connection but the clients of a machine that is gone, these are told in seconds, and what everybody
else notices is a short pause.
Method: two balancers (haproxy, keepalived), three sproxies and a client, each a network namespace on one switch. Each
session has an application that sends 1 KiB every so often, at most twice a second, and compares what comes back. The
longest wait is the longest time to an answer around the event, of all sessions that go on. A byte that differs, or a
connection that is lost and should not be, ends the row. A node's power fails together with its cable: nobody says that
it is gone.
Limits: all machines share this one's processors, and so do all clients, which come back at once; sessions are few for
three machines. The switch has no latency.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness.bench import Bench, Case, MeasureError, Workload
from harness.contenders import MPROXY_TLS

CONTRIB = Path(__file__).resolve().parents[2] / "contrib" / "fleet"

SESSIONS, QUICK_SESSIONS = 1000, 60
ROUNDS, QUICK_ROUNDS = 3, 1
BEGIN_SECONDS, BACK_SECONDS = 300, 120
UPGRADE_ROW, BALANCER_ROW, NODE_ROW = "upgrade of a node", "a balancer loses power", "a node loses power"
WAIT, TOLD, LOST = "longest wait s", "told after s", "lost wrongly"


class Sessions:
    """A fleet with so many sessions, all of which have an answer."""

    def __init__(self, stack: ExitStack, count: int):
        sys.path.insert(0, str(CONTRIB))
        import fleet

        if lacking := fleet.missing():
            raise MeasureError(f"not here: {', '.join(lacking)}")
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-"))
        self.fleet = stack.enter_context(fleet.Fleet(directory))
        self.nodes = fleet.NODES
        crowd = self.fleet.crowd(count)
        self.talks = fleet.Talks(self.fleet.client, crowd.ports, pause_s=max(0.5, count / 500), rate=40)
        self.talks.start()
        stack.callback(self.talks.stop)
        self.settle(BEGIN_SECONDS)
        self.turn = 0

    def settle(self, seconds: float = BACK_SECONDS) -> None:
        try:
            self.talks.settled(seconds)
        except AssertionError as error:
            raise MeasureError(str(error)) from None
        if self.talks.wrong:
            raise MeasureError(self.talks.wrong[0])

    def node(self) -> str:
        """Each in turn."""
        self.turn += 1
        return self.nodes[self.turn % len(self.nodes)]

    def measure(self, act: Callable[[Sessions], Callable[[], object] | None]) -> dict[str, float]:
        """Nobody may be lost by it."""
        resets, answers = len(self.talks.resets), len(self.talks.waits)
        act_after = act(self)
        self.settle()
        longest = max(wait for _at, wait in self.talks.waits[answers:])
        lost = len(self.talks.resets) - resets
        if act_after is not None:
            act_after()
            self.whole()
        return {WAIT: longest, LOST: lost}

    def measure_loss(self) -> dict[str, float]:
        """A node is gone: the last of its clients is told so after how long; what the others notice."""
        node, resets, answers = self.node(), len(self.talks.resets), len(self.talks.waits)
        there = self.fleet.connections()[node]
        began = time.monotonic()
        self.fleet.kill_machine(node)
        while len(self.talks.resets) - resets < there:
            if time.monotonic() > began + BACK_SECONDS:
                raise MeasureError(f"{len(self.talks.resets) - resets} of {there} clients were told")
            time.sleep(0.05)
        self.settle()
        told = [at - began for at, _number in self.talks.resets[resets:]]
        longest = max(wait for _at, wait in self.talks.waits[answers:])
        self.fleet.boot(node)
        self.whole()
        return {TOLD: max(told), WAIT: longest, LOST: max(0, len(told) - there)}

    def whole(self) -> None:
        """Until all is up again."""
        import fleet

        fleet.until(lambda: self.fleet.balancer is not None and all(
            self.fleet.states(name) and set(self.fleet.states(name).values()) == {"UP"} for name in fleet.BALANCERS),
            BACK_SECONDS, "all is up again")


def upgrade(sessions: Sessions) -> None:
    sessions.fleet.upgrade(sessions.node())


def lose_balancer(sessions: Sessions) -> Callable[[], object]:
    name = sessions.fleet.balancer
    sessions.fleet.kill_machine(name)
    return partial(sessions.fleet.boot, name)


def cases(bench: Bench, stack: ExitStack) -> Iterator[Case]:
    sessions = Sessions(stack, bench.plan.pick(SESSIONS, QUICK_SESSIONS))
    rounds = bench.plan.pick(ROUNDS, QUICK_ROUNDS)
    yield Case(UPGRADE_ROW, MPROXY_TLS, partial(sessions.measure, upgrade), rounds)
    yield Case(BALANCER_ROW, MPROXY_TLS, partial(sessions.measure, lose_balancer), rounds)
    yield Case(NODE_ROW, MPROXY_TLS, sessions.measure_loss, rounds)


WORKLOAD = Workload("fleet", "A fleet of three sproxies behind two balancers, 1,000 sessions", cases, (MPROXY_TLS,),
                    (MPROXY_TLS,), needs_root=True, peer=MPROXY_TLS,
                    note="Sessions of a machine that is gone are lost, and are not counted as lost wrongly.")
