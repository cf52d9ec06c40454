"""mproxy relay with workers that may die as often as they like: nobody counts how young they were.

    kept_relay.py .../mproxy relay OPTIONS...
"""

import sys

from mproxy.keeper.deaths import Deaths
from mproxy.programs import relay
from mproxy.relay import worker_pool

worker_pool.Deaths = lambda: Deaths(young_us=0)
sys.exit(relay.main(sys.argv[3:]))
