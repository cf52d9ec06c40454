"""Random schedules: one seed determines limits, applications, network and faults, so it replays a run exactly."""

import random

from mproxy.ground.config import SessionConfig
from tests.sim.apps import Plan
from tests.sim.net import Carrier
from tests.sim.packets import PacketCarrier
from tests.sim.path import Faults
from tests.sim.world import HOUR_US, World

MAX_FAULTS = 12


class Schedule:
    """One run. `str()` says how to replay it."""

    def __init__(self, seed, kind=None, carriers="bytes"):
        self.seed = seed
        self.asked = kind
        self.carriers = carriers
        self.random = random.Random(seed)
        self.kind = self.random.choice((
            "mixed", "mixed", "both-full", "supersede", "short-streams", "beating", "crossing"))
        self.kind = kind or self.kind
        pick = self.random
        beating = self.kind in ("beating", "crossing")
        self.heartbeat_us = pick.choice((100_000, 1_000_000)) if beating else HOUR_US
        self.latency = int(10 ** pick.uniform(2, 4.2 if beating else 5.2))
        self.world = World(
            self._config(), self._config(), latency=self.latency, capacity=int(2 ** pick.uniform(9, 20)))
        self.world.redial_pause = lambda: int(pick.uniform(1, 2 + 4 * self.latency))
        self.world.dial_patience = 50 * self.latency + 1_000_000
        self.world.on_carrier = self._watch
        self.opener = random.Random(~seed)     # of its own: who opens decides about nothing else
        self.served = self.opener.choice((0, 0, 0.5, 1))  # how many streams sproxy opens
        self.faults_left = pick.randrange(3 * MAX_FAULTS if self.kind == "crossing" else MAX_FAULTS)
        self.split = pick.choice((None, None, self._split))
        if carriers != "bytes":
            self.up, self.down = self._path(), self._path()
            self.world.make_carrier = self._make_carrier

    def __str__(self):
        kind = f" --kind {self.asked}" if self.asked else ""
        kind += f" --carriers {self.carriers}" if self.carriers != "bytes" else ""
        return f"seed {self.seed} ({self.kind}); replay: python -m tests.sim.soak --seed {self.seed}{kind}"

    # ---- making it up

    def _config(self):
        pick = self.random
        window = pick.choice((4096, 5000, 8192, 16384, 65536, 100_000))
        budget = max(window, pick.choice((4096, 10_000, 65536, 1 << 20)))
        return SessionConfig(
            heartbeat_us=self.heartbeat_us, misses=pick.choice((2, 3, 5)), window_bytes=window,
            session_budget_bytes=budget)

    def _path(self):
        """What one direction of every carrier of packets does to them."""
        pick = self.random
        worst = pick.choice((0, 0.02, 0.1, 0.1 if self.heartbeat_us < HOUR_US else 0.3))
        return Faults(
            delay=self.latency, jitter=pick.choice((0, self.latency)), loss=worst, duplicate=worst / 3,
            reorder=pick.choice((0, worst, 0.3)), reorder_by=2 * self.latency, corrupt=worst / 10,
            rate=pick.choice((0, 0, 2e5, 5e6)), mtu=pick.choice((65_535, 1300)))

    def _make_carrier(self):
        world = self.world
        if self.carriers == "changing" and self.random.random() < 0.5:
            return Carrier(world.clock, world.latency, world.capacity)
        return PacketCarrier(world, self.random.random(), self.up, self.down)

    def _plan(self, accepts):
        pick = self.random
        total = int(2 ** pick.uniform(0, 12 if self.kind in ("short-streams", "crossing") else 18)) - 1
        plan = Plan(total, chunk=int(2 ** pick.uniform(4, 15)), end_pause=pick.choice((0, 0, 0, 20_000, 300_000)),
                    release_pause=pick.choice((0, 0, 0, 50_000)), start=pick.choice((0, 0, 1_000, 100_000)))
        plan.chunk = max(plan.chunk, total // 200)
        slow = pick.random()
        if slow < 0.2:
            plan.pause = pick.randrange(1, 20_000)
        elif slow < 0.4:
            plan.read_chunk = max(1 + total // 200, int(2 ** pick.uniform(5, 13)))
            plan.read_pause = pick.randrange(1, 20_000)
        if self.kind == "both-full":
            plan.total = total = 300_000
            plan.pause = 0
            plan.chunk = 8192
            plan.stall_at, plan.stall_for = 0, HOUR_US
        elif pick.random() < 0.4:
            plan.stall_at, plan.stall_for = pick.randrange(total + 1), pick.randrange(1, 2_000_000)
        end = pick.random()
        if self.kind == "early-answer":
            self._answer_early(plan, accepts)
        elif end < 0.1:
            plan.reset_at = pick.randrange(2 * total + 1)
        elif end < 0.2:
            plan.discard = True
        elif end < 0.25 and accepts:
            plan.refuse = True
        return plan

    @staticmethod
    def _answer_early(plan, accepts):
        """A daemon that answers and closes while its client goes on uploading: the answer arrives, then the reset."""
        plan.pause = 0
        if accepts:
            plan.total = min(plan.total, 3000)
            plan.reset_behind = True
        else:
            plan.total, plan.chunk = 300_000, 8192

    def _split(self, data):
        """Deliver in pieces: single bytes at first, then pieces of any size."""
        pieces, at = [], 0
        singles = self.random.choice((0, 0, 0, 30))
        size = max(self.random.choice((7, 100, 4000)), len(data) // 10)
        while at < len(data):
            pieces.append(data[at:at + (1 if singles > 0 else size)])
            at += len(pieces[-1])
            singles -= 1
        return pieces

    # ---- faults

    def _watch(self, carrier):
        """A carrier was dialled: decide whether it will be cut soon."""
        if isinstance(carrier, PacketCarrier):
            return
        carrier.up.split = carrier.down.split = self.split
        if self.faults_left == 0 or self.world.healing:
            return
        pick = self.random
        if pick.random() < 0.3:      # dies after so many bytes one way, perhaps inside HELLO or WELCOME
            self.faults_left -= 1
            pipe = pick.choice((carrier.up, carrier.down))
            pipe.cut_after = int(2 ** pick.uniform(0, 16))
            pipe.on_cut = lambda: self._cut(carrier)

    def _cut(self, carrier):
        pick = self.random
        carrier.cut(pick.choice((0, pick.randrange(100_000))), pick.choice((0, pick.randrange(100_000))),
                    pick.choice((0, 0, 300_000)), pick.choice((0, 0, 300_000)))

    def _fault(self):
        """Make something go wrong now."""
        world, pick = self.world, self.random
        if self.faults_left <= 0 or world.healing:
            return
        self.faults_left -= 1
        carrier = world.client.carrier
        what = pick.random()
        end = pick.choice((world.client, world.server)) if self.kind == "dying" else None
        if end is not None and end.ps is not None and what < 0.6:
            end.die(sending=pick.random() < 0.5)
        elif self.kind in ("supersede", "crossing") or what < 0.3:
            for _ in range(pick.choice((1, 1, 2, 3))):
                world.clock.after(pick.randrange(2 * self.latency), world.client.dial)
        elif carrier is None:
            pass
        elif isinstance(carrier, PacketCarrier) and what < 0.5:
            carrier.rebind()
        elif what < 0.6:
            self._cut(carrier)
        elif what < 0.7:
            carrier.hold(pick.randrange(1, 3_000_000))
        elif what < 0.8 and (self.heartbeat_us < HOUR_US or isinstance(carrier, PacketCarrier)):
            carrier.black_hole()
        elif what < 0.9:
            pick.choice((world.client, world.server)).freeze(pick.randrange(1, 5_000_000))
        else:
            self._cut(carrier)
            world.clock.after(pick.randrange(2 * self.latency), world.client.dial)
        world.clock.after(self._gap(), self._fault)

    def _gap(self):
        return int(10 ** self.random.uniform(2, 5 if self.kind == "crossing" else 6.3))

    # ---- running

    def run(self):
        """Play it; AssertionError when anything is not as it must be."""
        world, pick = self.world, self.random
        if pick.random() < 0.5:
            world.client.dial()
        else:
            world.clock.after(pick.randrange(1, 100_000), world.client.dial)
        most = 40 if self.kind in ("short-streams", "crossing") else 8
        for _ in range(pick.randrange(1, most)):
            when = 0 if self.kind == "both-full" else int(10 ** pick.uniform(0, 6))
            world.clock.after(when, self._open)
        if self.kind == "both-full":
            world.run(until=world.clock.now + 3_000_000 + 10 * self.latency)
            if world.client.carrier:
                self._cut(world.client.carrier)
        world.clock.after(self._gap(), self._fault)
        world.run(until=world.clock.now + pick.randrange(1, 8_000_000))
        world.client.redial(1)
        # Whatever window and latency, this is far less than the hour after which a heartbeat would free a stall.
        world.finish(within_us=HOUR_US // 2)

    def _open(self):
        if not self.world.healing:
            end = self.world.server if self.opener.random() < self.served else self.world.client
            end.open(self._plan(False), self._plan(True))


def play(seed, kind=None, carriers="bytes"):
    """Run the schedule of `seed`; the AssertionError of a failure tells how to replay it."""
    schedule = Schedule(seed, kind, carriers)
    try:
        schedule.run()
    except Exception as error:
        raise AssertionError(f"{schedule}\n{type(error).__name__}: {error}") from error
    return schedule
