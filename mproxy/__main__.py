"""`python -m mproxy`: the same as the `mproxy` command."""

import sys

from mproxy.programs.main import main

if __name__ == "__main__":
    sys.exit(main())
