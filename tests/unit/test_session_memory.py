"""What `mproxy status` calls the memory of a session is what was allocated for it."""

import json
import os
import subprocess
import sys

import pytest

from tests.meta.sources import ROOT

# Their own processes, in which Python's small objects come from malloc(3), too: then that knows of every byte.
USED = """
import ctypes, gc, json, socket

class Usage(ctypes.Structure):
    _fields_ = [(f"field{number}", ctypes.c_size_t) for number in range(10)]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Usage

def used(pool_too=True):
    gc.collect()
    usage = library.mallinfo2()
    return usage.field7 + pool_too * usage.field4  # uordblks, hblkhd: large pieces, as the pool has
"""

MEASURE = USED + """
from mproxy._session import Session
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import SessionConfig
from mproxy.io._loop import Loop
from mproxy.service.status import SEALED_BYTES, Outages, memory_bytes
from tests.keys import joined

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

# Both ends of LINKS links, once they are open, while each carries much, and when each has carried little for a while.
LINKS, MUCH, FEW = 50, 400_000, 100
MEASURE_LINKS = USED + f"""
from mproxy.ground.config import SessionConfig
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.policy.keys import fresh_pem
from mproxy.service.status import LINK_BYTES
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import for_session
from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair
from mproxy.transport.observers import DatagramObserver, LinkHandler
from tests.drivers._memory import pool_bytes

LINKS, MUCH, FEW = {LINKS}, {MUCH}, {FEW}
AT_ONCE = 25
buffer = bytearray(65536)  # nobody looks into it

class Newcomer(LinkHandler):
    def __init__(self, is_client):
        self.keying = Keying(pair, is_client, lambda _spki, _link: None, SESSION_PURPOSE)

    def on_handshake(self, link, data):
        self.keying.take(link, data)

    def on_established(self, link):
        opened.append(link)
        link.handler = Busy(link)
        if len(opened) == wanted:
            loop.stop()

class Busy(LinkHandler):
    def __init__(self, link):
        link.fill(buffer, 1)

    def on_filled(self, link):
        global expected
        expected -= link.filled
        link.fill(buffer, 1)
        if expected <= 0:
            loop.stop()

class Open(DatagramObserver):
    def on_link(self, link):
        link.handler = Newcomer(False)

loop, config, pair = Loop(), for_session(SessionConfig(), 1200), KeyPair(fresh_pem(), "key")
opened, wanted, expected = [], 0, 0
sockets = [open_udp("127.0.0.1", 0) for _ in range(2)]
server = DatagramEndpoint(loop, sockets[0].fileno(), config, Open())
client = DatagramEndpoint(loop, sockets[1].fileno(), config)
target = Target("there", [(socket.AF_INET, sockets[0].getsockname())])

def make(count):
    global wanted
    for _ in range(count // AT_ONCE):
        wanted += 2 * AT_ONCE
        for _ in range(AT_ONCE):
            client.connect(target, Newcomer(True))
        loop.run()
    settle()

def settle():
    for _ in range(5):
        loop.call_later(20_000, loop.stop)
        loop.run()

def carry(data):
    global expected
    for link in opened:
        expected = len(data)
        link.send(data)
        loop.run()

make(AT_ONCE)
before, lent = used(False), pool_bytes()[0]
make(LINKS)
rest = used(False) - before
for link in opened:
    link.send(bytes(MUCH))
expected = len(opened) * MUCH // 2
loop.run()
amid = used(False) - before
expected = len(opened) * MUCH // 2 + expected
loop.run()
for _ in range(FEW):
    carry(b"k")
settle()
print(json.dumps([rest / LINKS / 2, LINK_BYTES, lent, amid / LINKS / 2, (used(False) - before) / LINKS / 2,
                  pool_bytes()[0]]))
"""
WITH_SANITIZERS = pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="memory has another form with the sanitizers")


def measured(script):
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          env=os.environ | {"PYTHONMALLOC": "malloc", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@WITH_SANITIZERS
def test_it_is_what_was_allocated():
    taken, told, sealed_taken, sealed_told = measured(MEASURE)
    assert 0.9 * taken <= told <= 1.1 * taken
    assert 0.8 * sealed_taken <= sealed_told <= 1.2 * sealed_taken


@WITH_SANITIZERS
def test_a_link_at_rest_is_small_whatever_it_has_carried():
    """Goal: of ten thousand sessions at rest over UDP each costs its state, and no room for what it may carry."""
    taken, told, lent, amid, after_few, lent_after = measured(MEASURE_LINKS)
    assert 0.8 * taken <= told <= 1.2 * taken
    assert taken < 12_000 and lent == lent_after == 0
    assert after_few < 1.1 * taken and amid > 1.2 * taken
