"""Watch a fleet lose what it can lose: demo.py [SESSIONS]

Starts the fleet of docs/fleet.md on this host (fleet.py), with so many sessions, 1,000 by default, each with an
application that sends to its daemon and compares what comes back. Then: every sproxy is upgraded, one after the other;
a balancer loses power; a node is taken out and put back; a node loses power.
"""

from __future__ import annotations

import sys
import tempfile
import time

from fleet import NODES, PATIENCE_S, SHARED, Fleet, Talks, missing, until

BEGIN_S = 300
BACK_S = 120


class Demo:
    """What is done, and what comes of it, line by line."""

    def __init__(self, fleet, sessions, began):
        self.fleet, self.began = fleet, began
        self.crowd = fleet.crowd(sessions)
        self.talks = Talks(fleet.client, self.crowd.ports, pause_s=max(0.5, sessions / 500), rate=40)
        self.talks.start()

    def say(self, text):
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    def step(self, what, act):
        """Do it, wait until everybody is answered again, and tell what it cost."""
        self.say(what)
        resets, began = len(self.talks.resets), time.monotonic()
        act()
        self.talks.settled(BACK_S)
        times = sorted(took for at, took in self.talks.waits if at > began)
        told = {number: at - began for at, number in reversed(self.talks.resets[resets:])}  # the first of each
        self.say(f"    connections lost: {len(told)}{self.say_when(told, len(self.talks.resets) - resets)}; the longest"
                 f" wait for an answer: {times[-1]:.2f} s, half of them below {times[len(times) // 2] * 1000:.0f} ms;"
                 f" other bytes than were sent: {len(self.talks.wrong)}")
        return len(told)

    @staticmethod
    def say_when(told, resets):
        if not told:
            return ""
        again = f", {resets - len(told)} attempts to connect again failed" if resets > len(told) else ""
        return f", told after {min(told.values()):.1f} to {max(told.values()):.1f} s{again}"

    def run(self):
        """Whether all was as docs/fleet.md says."""
        self.talks.settled(BEGIN_S)
        self.say(f"{len(self.talks.talks)} sessions through {SHARED}, which {self.fleet.balancer} has:"
                 f" {self.fleet.connections()}")
        lost = 0
        for node in NODES:
            lost += self.step(f"{node} is upgraded", lambda node=node: self.fleet.upgrade(node))
        name = self.fleet.balancer
        lost += self.step(f"{name} loses power; the other one takes {SHARED}", lambda: self.fleet.kill_machine(name))
        self.fleet.boot(name)
        lost += self.step("node1 gets no new sessions, as before work on it", lambda: self.drain("node1", "drain"))
        lost += self.step("node1 is there for everybody again", lambda: self.drain("node1", "ready"))
        there = self.fleet.connections()["node2"]
        due = self.step(f"node2 loses power, with some {there} sessions", lambda: self.lose("node2"))
        self.say(f"    now: {self.fleet.connections()}")
        self.fleet.boot("node2")
        until(lambda: self.fleet.states(self.fleet.balancer).get("node2") == "UP", PATIENCE_S, "node2 is up")
        self.say("node2 is there again, for new sessions")
        return not lost and 0 < due <= there and not self.talks.wrong

    def drain(self, node, state):
        self.fleet.ask_haproxy(self.fleet.balancer, f"set server sproxies/{node} state {state}")

    def lose(self, node):
        resets = len(self.talks.resets)
        self.fleet.kill_machine(node)
        until(lambda: len(self.talks.resets) > resets, BACK_S, "its clients are told")


def main(sessions="1000"):
    if lacking := missing():
        sys.exit(f"fleet-demo: not here: {', '.join(lacking)} (as root, make fleet-demo installs them)")
    if not sessions.isdigit() or not int(sessions):
        sys.exit(f"fleet-demo: not a number of sessions: {sessions}")
    print(__doc__.partition("\n\n")[2])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fleet-") as directory, Fleet(directory) as fleet:
        demo = Demo(fleet, int(sessions), began)
        try:
            well = demo.run()
        except AssertionError as error:
            sys.exit(f"fleet-demo: {error}; {demo.talks.wrong[:3]}")
        finally:
            demo.talks.stop()
    print("\nNo connection was lost but those of the machine that is gone, and no byte differs." if well else
          "\nThat was not as it should be.")
    sys.exit(not well)


if __name__ == "__main__":
    main(*sys.argv[1:])
