"""What `mproxy status` calls the memory of a session is what was allocated for it."""

import json
import os
import subprocess
import sys

import pytest

from tests.meta.sources import ROOT

# Its own process, in which Python's small objects come from malloc(3), too: then that knows of every byte.
MEASURE = """
import ctypes, gc, json
from mproxy._session import Session
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import SessionConfig
from mproxy.io._loop import Loop
from mproxy.service.status import SEALED_BYTES, Outages, memory_bytes
from tests.keys import joined

class Usage(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Usage

def used():
    gc.collect()
    usage = library.mallinfo2()
    return usage.field4 + usage.field7  # hblkhd, uordblks

def of_each(make, count=200):
    kept = [make(0)]
    before = used()
    kept += [make(number) for number in range(1, count + 1)]
    return kept[0], (used() - before) / count

loop, config, observer = Loop(), SessionConfig(), EndpointObserver()

def session(number):
    inner = Session(config, is_server=True, session_id=b"%016d" % number, secret=b"%032d" % number)
    return Endpoint(loop, inner, observer), Outages(1000)

def sealed(_number):
    ends = joined()
    for end in ends:
        end.forget()
    return ends

(endpoint, _), taken = of_each(session)
print(json.dumps([taken, memory_bytes(endpoint), of_each(sealed)[1] / 2, SEALED_BYTES]))
"""


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="memory has another form with the sanitizers")
def test_it_is_what_was_allocated():
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env=os.environ | {"PYTHONMALLOC": "malloc", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    taken, told, sealed_taken, sealed_told = json.loads(done.stdout)
    assert 0.9 * taken <= told <= 1.1 * taken
    assert 0.8 * sealed_taken <= sealed_told <= 1.2 * sealed_taken
