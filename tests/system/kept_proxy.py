"""cproxy or sproxy with workers that may die as often as they like: nobody counts how young they were.

    kept_proxy.py .../cproxy OPTIONS...

With MPROXY_MISTAKE in the environment the program has a mistake in what it does at SIGHUP.
"""

import os
import sys
from importlib import import_module

from mproxy.keeper import keeper
from mproxy.keeper.deaths import Deaths
from mproxy.service.run import Reload


def make_mistake(_reload):
    raise SystemError("a mistake")


keeper.Deaths = lambda: Deaths(young_us=0)
if "MPROXY_MISTAKE" in os.environ:
    Reload.__call__ = make_mistake
program = os.path.basename(sys.argv.pop(1))
sys.exit(import_module(f"mproxy.programs.{program}").main())
