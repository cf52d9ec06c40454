"""Builds of cproxy and sproxy that follow each other at one place, as an installation puts them there."""

import os
import signal
import sys

from asking import ask
from lab import until

LATEST_S = 60

# What is wrong with a build: what its launcher does before it starts the program.
SOUND = ""
EXITS = "sys.exit(3)"
HANGS = "import time; time.sleep(60)"
RAISES = "sys.excepthook = lambda *_: None; raise SystemError('a mistake')"
RAISES_LATER = """
import mproxy.programs.cproxy, mproxy.programs.sproxy
def mistake(*_): raise SystemError('a mistake')
mproxy.programs.cproxy.make_program = mproxy.programs.sproxy.make_program = mistake
"""
CANNOT_READ = """
import mproxy.keeper.loading as loading
def damaged(*_): raise loading.LocalError('not for me')
loading.load_sessions = damaged
"""
DIES_LOADING = """
import os, mproxy.keeper.loading as loading
loading.load_sessions = lambda *_: os.kill(os.getpid(), 11)
"""
HANGS_LOADING = """
import time, mproxy.keeper.loading as loading
loading.load_sessions = lambda *_: time.sleep(60)
"""
DIES_READY = """
import os, mproxy.keeper.successor as successor
successor.load_apart = lambda *_: os.kill(os.getpid(), 9)
"""
TOO_NEW = """
import mproxy.keeper.successor as successor
successor.OLDEST, successor.VERSION = 7, 9
"""
FORMER = """
import mproxy.keeper.successor as successor
import mproxy.keeper.handing_over as handing_over
successor.VERSION = handing_over.VERSION = 1
"""


# It may take as long to start as a busy host needs.
PATIENT = "import signal; signal.alarm(0)"
# It has started, and takes over when it is told (Build.await_start, let_go).
WAITS = """
import os, signal, time
signal.alarm(0)
import mproxy.keeper.successor as successor
place = os.path.dirname(sys.argv[0])
def late(function):
    def wait(*arguments):
        open(os.path.join(place, 'waits'), 'w').close()
        while not os.path.exists(os.path.join(place, 'go')):
            time.sleep(0.01)
        return function(*arguments)
    return wait
successor.Successor.take_over = late(successor.Successor.take_over)
successor.Successor.ask_for_all = late(successor.Successor.ask_for_all)
"""
# It has the worker of the running one killed, while the main process is the one that was started.
KILLS = """
import os, signal
signal.alarm(0)
import mproxy.keeper.successor as successor
take_over = successor.Successor.take_over
def kill(*arguments):
    with open(f'/proc/{os.getppid()}/task/{os.getppid()}/children') as children:
        os.kill(int(children.read().split()[0]), NUMBER)
    return take_over(*arguments)
successor.Successor.take_over = kill
"""


class Build:
    """A launcher like that of `make`, on one host, in a place of its own; `install` puts another one there."""

    def __init__(self, host, program):
        self.host = host
        self.name = program.name
        self._launcher = program.read_text()
        directory = host.home / "build"
        directory.mkdir(exist_ok=True)
        self.path = directory / program.name
        self.install()

    def run_by(self, python):
        """The builds that follow are started by another interpreter."""
        self._launcher = self._launcher.replace(sys.executable, python)
        self.install()

    def install(self, fault=SOUND):
        first, last = self._launcher.split("sys.exit(")
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{first}{fault}\nsys.exit({last}")
        fresh.chmod(0o755)
        os.rename(fresh, self.path)

    def await_start(self):
        """Until a build that WAITS does."""
        until((self.path.parent / "waits").exists, LATEST_S, "the next build has heard from the running one")

    def let_go(self):
        (self.path.parent / "go").touch()

    def upgrade(self, status=0):
        """What `mproxy upgrade` says."""
        return ask(self.host, "upgrade", self.name, status=status)


def take_over(*programs):
    """Have the builds that are in place take over, all at once, and wait until they serve. One that a slow host does
    not start in time is asked for again."""
    def has_upgraded(program, upgrades, failures):
        failed = program.events("upgrade-failed")[failures + attempts[program]:]
        if failed:
            assert "not ready within" in failed[0]["why"], str(program)
            attempts[program] += 1
            program.process.send_signal(signal.SIGUSR2)
        return len(program.events("upgraded")) > upgrades

    attempts = dict.fromkeys(programs, 0)
    before = [(program, len(program.events("upgraded")), len(program.events("upgrade-failed"))) for program in programs]
    for program in programs:
        program.process.send_signal(signal.SIGUSR2)
    for one in before:
        until(lambda one=one: has_upgraded(*one), LATEST_S, f"the next build serves: {one[0]}")
