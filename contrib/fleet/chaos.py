"""Everything that befalls a fleet, in a random order, under load: chaos.py [SECONDS [SESSIONS [SEED]]]

Each event says whom it may cost their connections: nobody, or the clients of one node, and those it must cost. So what
is checked after each: no byte differs from what was sent, exactly these connections were reset, each by a reset and
none by an end in order, and every client, also those, is answered again. A failure prints the seed, which repeats the
same events.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time

from fleet import BALANCERS, NODES, PATIENCE_S, Fleet, Talks, missing, until

# A node counts as gone after 4 s without an answer (haproxy.cfg); a cut that no balancer may take for its end.
SHORT_CUT_S = 1.0
# What clients may need to notice and come back, on a busy machine.
BACK_S = 90


class Chaos:
    """Events on a fleet with `sessions` clients; `say` tells what happens."""

    def __init__(self, fleet, sessions, seed, say=print):
        self.fleet, self.say = fleet, say
        self.chance = random.Random(seed)
        self.crowd = fleet.crowd(sessions)
        self.talks = Talks(fleet.client, self.crowd.ports)
        self.talks.start()
        self.talks.settled(BACK_S + sessions / 10)
        self.events = 0

    # ---- costs nobody anything

    def worker_dies(self):
        node = self.node()
        self.nobody(f"kill -9 of what serves on {node}", lambda: self.fleet.kill_worker(node))

    def upgrade(self):
        node = self.node()
        self.nobody(f"upgrade of {node}", lambda: self.fleet.upgrade(node))

    def short_cut(self):
        node = self.node()
        self.nobody(f"{node} is cut off for {SHORT_CUT_S:g} s", lambda: self.cut(node, SHORT_CUT_S))

    def balancer_is_reloaded(self):
        name = self.fleet.balancer
        self.nobody(f"reload of haproxy on {name}", lambda: self.fleet.reload_balancer(name))

    def haproxy_dies(self):
        name = self.fleet.balancer
        self.nobody(f"kill -9 of haproxy on {name}, which has the address", lambda: self.fleet.kill_haproxy(name))
        self.fleet.start_balancer(name)
        self.whole()

    def balancer_dies(self):
        name = self.fleet.balancer
        self.nobody(f"{name}, which has the address, loses power", lambda: self.fleet.kill_machine(name))
        self.fleet.boot(name)
        self.whole()

    def balancer_is_parted(self):
        name = self.fleet.balancer

        def part():
            for node in NODES:
                self.fleet.part(name, node)
            until(lambda: self.fleet.balancer not in (name, None), PATIENCE_S, "the other one has the address")
        self.nobody(f"{name}, which has the address, reaches no node", part)
        self.fleet.join()
        self.whole()

    # ---- costs the clients of one node their connections

    def sproxy_dies(self):
        node = self.node_in_use()
        self.those_of(node, f"kill -9 of all of sproxy on {node}", lambda: self.fleet.kill_sproxy(node))
        self.fleet.start_node(node)
        self.whole()

    def node_dies(self):
        node = self.node_in_use()
        self.those_of(node, f"{node} loses power", lambda: self.fleet.kill_machine(node))
        self.fleet.boot(node)
        self.whole()

    def node_is_parted(self):
        node = self.node_in_use()
        self.those_of(node, f"{node} is cut off for good, and goes on", lambda: self.fleet.cut(node))
        self.fleet.mend(node)
        self.whole()

    HARMLESS = ("worker_dies", "upgrade", "short_cut", "balancer_is_reloaded", "haproxy_dies", "balancer_dies",
                "balancer_is_parted")
    HARMFUL = ("sproxy_dies", "node_dies", "node_is_parted")

    # ---- what is checked

    def run(self, seconds):
        """Events until the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            getattr(self, self.chance.choice(self.HARMLESS + self.HARMFUL))()

    def nobody(self, what, act):
        """An event after which no connection has ended."""
        resets = len(self.talks.resets)
        took = self.event(what, act)
        lost = self.talks.resets[resets:]
        assert not lost, f"{what}: {len(lost)} connections were reset"
        self.say(f"{what}: all are answered again after {took:.1f} s, none was reset")

    def those_of(self, node, what, act):
        """An event that ends the connections of one node's clients, and no others."""
        homes, resets, began = self.crowd.homes(), len(self.talks.resets), time.monotonic()
        expected = {number for number, home in homes.items() if home == node}
        unsure = set(range(len(self.talks.talks))) - set(homes)

        def act_and_wait():
            act()
            until(lambda: expected <= self.lost_since(resets), BACK_S, f"clients of {node} are told")
        self.event(what, act_and_wait)
        lost = self.lost_since(resets)
        assert lost <= expected | unsure, f"{what}: {len(lost - expected - unsure)} others were reset, too"
        told = [at - began for at, _number in self.talks.resets[resets:]]
        self.say(f"{what}: its {len(told)} clients were told after {min(told, default=0):.1f} to"
                 f" {max(told, default=0):.1f} s, no others")

    def lost_since(self, resets):
        return {number for _at, number in self.talks.resets[resets:]}

    def event(self, what, act):
        """How long after it every client was answered."""
        self.events += 1
        try:
            act()
            took = self.talks.settled(BACK_S)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}; {self.talks.wrong[:3]}") from None
        assert not self.talks.wrong, f"{what}: {self.talks.wrong[:3]}"
        return took

    def whole(self):
        """Waits until everything is up again."""
        until(lambda: self.fleet.balancer is not None and all(
            state == "UP" for name in BALANCERS for state in self.states_of(name)), PATIENCE_S, "all are up")

    def states_of(self, balancer):
        return self.fleet.states(balancer).values() or ["no answer"]

    def node(self):
        return self.chance.choice(NODES)

    def node_in_use(self):
        return self.chance.choice(sorted(set(self.crowd.homes().values())))

    def cut(self, name, seconds):
        self.fleet.cut(name)
        time.sleep(seconds)
        self.fleet.mend(name)


def main(seconds="600", sessions="60", seed=None):
    if lacking := missing():
        sys.exit(f"chaos: not here: {', '.join(lacking)}")
    seed = int(seed or time.time())
    began = time.monotonic()

    def say(text):
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)
    say(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory, Fleet(directory) as fleet:
        chaos = Chaos(fleet, int(sessions), seed, say)
        say(f"{sessions} sessions, on {fleet.connections()}")
        try:
            chaos.run(float(seconds))
        except AssertionError as error:
            sys.exit(f"chaos: seed {seed}: {error}")
        finally:
            chaos.talks.stop()
        say(f"{chaos.events} events, {chaos.talks.blocks} blocks compared, {len(chaos.talks.resets)} resets, all due")


if __name__ == "__main__":
    main(*sys.argv[1:])
