"""A worker killed at any instruction: the next one goes on with every byte, and nothing leaks. See survival.py."""

import subprocess
import sys

from tests.meta.sources import ROOT


def survive(*arguments):
    """Run the program of that name; its last line, by words."""
    done = subprocess.run([sys.executable, "-m", "tests.unit.survival", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_a_thousand_deaths_lose_nothing_and_leak_nothing():
    deaths, steps, in_turns, sessions, streams, pages = map(int, survive("kill", 1, 1000))
    assert deaths == 1000 and steps > 1000 and in_turns > 10
    assert sessions <= 16 and streams <= 600
    assert pages == 0


def test_every_instruction_leaves_a_state_that_can_be_recovered():
    """Looked at after each, and killed after some."""
    deaths, instructions = map(int, survive("step", 1, 40))
    assert deaths == 40 and instructions > 100_000


def test_a_damaged_session_costs_itself_alone():
    assert int(survive("spoil", 1, 0)[0]) > 10
