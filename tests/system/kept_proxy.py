"""cproxy or sproxy with workers that may die as often as they like: nobody counts how young they were.

    kept_proxy.py .../cproxy OPTIONS...

With MPROXY_MISTAKE in the environment the program has a mistake: in what it does at SIGHUP (`reload`), or when a daemon
has reset a stream (`reset`).
"""

import os
import sys
from importlib import import_module

from mproxy.keeper import keeper
from mproxy.keeper.deaths import Deaths
from mproxy.programs.cproxy import Cproxy
from mproxy.service.run import Reload

MISTAKES = {"reload": (Reload, "__call__"), "reset": (Cproxy, "on_reset")}


def make_mistake(*_arguments):
    raise SystemError("a mistake")


keeper.Deaths = lambda: Deaths(young_us=0)
if "MPROXY_MISTAKE" in os.environ:
    setattr(*MISTAKES[os.environ["MPROXY_MISTAKE"]], make_mistake)
program = os.path.basename(sys.argv.pop(1))
sys.exit(import_module(f"mproxy.programs.{program}").main())
