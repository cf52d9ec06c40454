"""A keeper beside its worker, as a program of its own, for it waits for signals."""

import subprocess
import sys

from tests.meta.sources import ROOT

PATIENCE_S = 60

# Its worker begins late: only when the keeper has heard that an upgrade is wanted.
EARLY = """
import os, signal, time
from mproxy.keeper.attendant import Attendant
from mproxy.keeper.signals import HELD
from mproxy.service.log import Log
from tests.system.program import is_pending

class Upgrades:
    wanted, begun = False, []
    def want(self):
        self.wanted = True
    def begin_if_wanted(self):
        if self.wanted:
            self.wanted = False
            self.begun.append(attendant.orders.is_heard)
            os.kill(pid, signal.SIGKILL)

signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
upgrades = Upgrades()
attendant = Attendant(Log(), upgrades, passed=False)
keeper = os.getpid()
os.kill(keeper, signal.SIGUSR2)
pid = os.fork()
if pid == 0:
    while is_pending(keeper, signal.SIGUSR2):
        time.sleep(0.001)
    os.kill(keeper, signal.SIGCHLD)
    while is_pending(keeper, signal.SIGCHLD):
        time.sleep(0.001)
    attendant.orders.hear()
    signal.pause()
attendant.await_end(pid)
assert upgrades.begun == [True], upgrades.begun
"""


def test_no_upgrade_begins_before_the_worker_has_closed_what_is_not_its_own():
    """Goal: what the keeper opens for an upgrade, in a table that it has in common with the worker, stays open."""
    done = subprocess.run([sys.executable, "-c", EARLY], cwd=ROOT, env={"PYTHONPATH": f"{ROOT}:{ROOT}/tests/system"},
                          capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
