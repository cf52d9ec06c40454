"""How other programs call this `mproxy`."""

from __future__ import annotations

import os
import sys


def own_command() -> list[str]:
    """The command's words: its file where it was called by that, else Python and the module."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "mproxy" and os.path.isfile(script) and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "mproxy"]
