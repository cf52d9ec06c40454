"""Kills a worker again and again, at any instruction; the next one goes on: `-m tests.unit.survival MODE SEED N`.

A program of its own, for an arena holds everything that is taken after it. Prints one line; exits with a failure when
a byte is lost, repeated or changed, or something leaks.
"""

import os
import random
import signal
import sys
import time
import traceback

from tests.drivers import _survival
from tests.unit.session_pair import make_config

IDS = 4000
FOREVER = 1 << 40
CHUNKS = 8     # looked at for memory that was not given back
NO_MORE = 3


def worker(seed, steps, traced=False):
    """Fork one that takes over and does `steps`; returns its process id. It exits with 0 when all streams are over."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if traced:
            _survival.be_traced()
        world = _survival.World(make_config(), seed, IDS)
        world.take_over()
        if traced:
            _survival.stop()
        world.run(steps)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end_of(pid):
    """Wait for a worker; its status is 0, or it was killed."""
    status = os.waitpid(pid, 0)[1]
    if status not in (0, signal.SIGKILL):
        sys.exit(f"the worker ended with {status:#x}")


def kill(seed, count):
    """`count` deaths at random moments."""
    dice = random.Random(seed)
    for n in range(count):
        pid = worker(seed * 100_000 + n, FOREVER)
        time.sleep(dice.random() * 0.004)
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
    finish(seed)
    print(count, *_survival.steps_done(), *_survival.records(), _survival.pages_of_rings(CHUNKS))


def step(seed, count):
    """`count` deaths after some instructions that were looked at one by one; each fourth while it takes over."""
    dice = random.Random(seed)
    instructions = 0
    for n in range(count):
        pid = worker(seed * 100_000 + n, FOREVER, traced=True)
        os.waitpid(pid, 0)
        if n % 4:
            _survival.go_on(pid)
            os.waitpid(pid, 0)
        instructions += _survival.follow(pid, dice.randrange(12_000))[0]
        os.kill(pid, signal.SIGKILL)
        end_of(pid)
    finish(seed)
    print(count, instructions)


def finish(seed):
    """The last worker brings all streams to their end; the next one ends the sessions, and one more finds nothing."""
    end_of(worker(seed, FOREVER))
    if _survival.incomplete():
        sys.exit(f"incomplete: {_survival.incomplete()}")
    for nothing in (False, True):
        pid = os.fork()
        if pid == 0:
            numbers, damaged = _survival.recover()
            for number in numbers:
                _survival.inherit(make_config(), number, 1)  # and be done with it
            os._exit(damaged or (nothing and bool(numbers)))
        end_of(pid)


def spoil(seed, _count):
    """Damage a number of one session, each kind in its turn, and see what is recovered."""
    kind = 0
    while True:
        end_of(worker(seed + kind, 3000))
        pid = os.fork()
        if pid == 0:
            os._exit(look_at_spoiled(kind))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == NO_MORE:
            break
        if status:
            sys.exit(f"kind {kind} was not noticed, or cost another session")
        _survival.forget_facts()
        kind += 1
    print(kind)


def look_at_spoiled(kind):
    """0: the damaged session was given up, and no other."""
    before = _survival.claimed()
    if not _survival.spoil(kind):
        return NO_MORE
    numbers, damaged = _survival.recover()
    for number in numbers:
        _survival.inherit(make_config(), number, 1)  # and be done with it
    return 0 if damaged == 1 and len(numbers) == before - 1 else 1


MODES = {"kill": kill, "step": step, "spoil": spoil}


def main():
    mode, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    _survival.begin()
    MODES[mode](seed, count)


if __name__ == "__main__":
    main()
