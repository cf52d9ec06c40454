"""`python -m mproxy`: the same as the `mproxy` command."""

import sys

from mproxy.programs.start import mproxy

if __name__ == "__main__":
    sys.exit(mproxy())
