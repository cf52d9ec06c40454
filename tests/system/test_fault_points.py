"""Both programs, killed behind each of their worker's system calls, before it can note what the call has done.

Here one such point in STRIDE is tried, others in each run. All of them:

    make test TESTS=tests/system/test_fault_points.py PYTEST=--every-point
"""

import mmap
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conversations import ENDINGS, PATIENCE_S, Meeting
from lab import HERE
from proxies import CPROXY_PORT, DAEMON_PORT

KEPT = (sys.executable, Path(__file__).with_name("kept_proxy.py"))
NUMBERS = struct.Struct("3I")  # as fault_points.c has them
STRIDE = 8
MOST_AGAIN = 60  # calls of the next worker

pytestmark = pytest.mark.long


class Faults:
    """When a program's worker dies."""

    def __init__(self, path):
        path.write_bytes(bytes(NUMBERS.size))
        with open(path, "r+b") as file:
            self.page = mmap.mmap(file.fileno(), NUMBERS.size)

    def arm(self, point, again=0):
        """It dies behind its call number `point` from now on, and the next one behind its call number `again`."""
        NUMBERS.pack_into(self.page, 0, point, again, 0)

    @property
    def deaths(self):
        """How many there were since then."""
        return NUMBERS.unpack(self.page)[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "fault_points.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", path, HERE / "fault_points.c", "-ldl"], check=True)
    return path


class Stage:
    """Both programs, which die when told, and all kinds of conversations between applications and daemons."""

    def __init__(self, pair, listener, library, options):
        self.pair = pair
        self.meeting = Meeting(lambda: pair.lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)
        self.faults = {name: Faults(pair.lab.directory / f"faults-{name}") for name in ("cproxy", "sproxy")}
        pair.start_sproxy(prefix=KEPT, env=self.environment(library, "sproxy"))
        pair.start_cproxy(*options, prefix=KEPT, env=self.environment(library, "cproxy"))

    def environment(self, library, name):
        return {"LD_PRELOAD": str(library), "MPROXY_FAULTS": str(self.pair.lab.directory / f"faults-{name}")}

    def play(self, seed):
        """One of each kind at once; how many deaths there were."""
        conversations = [self.meeting.converse(f"{seed} {ending}", ending) for ending in ENDINGS]
        for conversation in conversations:
            conversation.join()
        return sum(faults.deaths for faults in self.faults.values())

    def verify(self):
        for program in (self.pair.cproxy, self.pair.sproxy):
            assert not [event for event in program.events("taken-over") if "lost" in event.fields]
            assert not program.events("session-damaged")


@pytest.mark.parametrize("options", [(), ("--idle", "1ms")], ids=["in one session", "in a session each"])
@pytest.mark.parametrize("dying", [("cproxy",), ("sproxy",), ("cproxy", "sproxy")], ids="-".join)
def test_every_point(pair, lab, library, request, seed, options, dying):
    """Goal: conversations of every kind go on and are byte-exact both ways, whatever call the worker died behind; every
    second time the next one dies, too, while it takes over or soon after."""
    every = request.config.option.every_point
    chance = random.Random(f"{seed} {dying} {options}")
    with lab.server.listen(DAEMON_PORT) as listener:
        stage = Stage(pair, listener, library, options)
        assert stage.play(seed) == 0
        point, deaths = 1 if every else chance.randint(1, STRIDE), 1
        while deaths:
            for name in dying:
                stage.faults[name].arm(point, chance.choice([0, chance.randint(1, MOST_AGAIN)]))
            deaths = stage.play(f"{seed} {point}")
            point += 1 if every else STRIDE
        assert point > 40, "there are more calls than that"
        stage.verify()
