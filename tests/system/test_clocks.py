"""The wall clock jumps forwards and backwards, as when a host finds a time server or its battery was empty."""

import mmap
import os
import struct
import subprocess
import time

import pytest
from lab import HERE, until
from test_tls import authorize, fingerprint, served, spki
from traffic import Traffic, ends_by_reset, read_exactly

DAY_S = 86400
YEARS = (20, -20)
HOSTS = ("client", "server")


class Clock:
    """The wall clock of a program that was started with `environment`."""

    def __init__(self, library, file):
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self.shift = mmap.mmap(opened.fileno(), 8)
        self.environment = {"LD_PRELOAD": os.fspath(library), "MPROXY_TEST_CLOCK": os.fspath(file)}

    def jump(self, days):
        """Set the clock `days` off from now on."""
        self.shift[:] = struct.pack("=q", days * DAY_S)


@pytest.fixture
def clocks(tmp_path):
    """A clock for each host."""
    library = tmp_path / "wall_clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "wall_clock.c", "-ldl"], check=True)
    return {host: Clock(library, tmp_path / f"{host}.clock") for host in HOSTS}


def start(pair, clocks):
    pair.echo()
    pair.start_sproxy(env=clocks["server"].environment)
    pair.start_cproxy(env=clocks["client"].environment)


def year_of_log(program):
    """The year in the newest line that a program has logged."""
    return int(program.log.lines[-1][1][:4])


@pytest.mark.parametrize("years", YEARS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_session_does_not_notice(pair, lab, clocks, host, years):
    """Goal: the clock of one host jumps by twenty years: traffic goes on, at once and on a carrier that is dialled
    after it; whoever comes later, from a cproxy that is started anew, is served and knows the server."""
    start(pair, clocks)
    going = Traffic([pair.app()])
    going.goes_on()
    clocks[host].jump(365 * years)
    going.goes_on()
    lab.wifi.pull()
    lab.wifi.give(9)
    pair.comes_from(lab.wifi.address(9))
    going.goes_on()
    program = {"client": pair.cproxy, "server": pair.sproxy}[host]
    until(lambda: abs(year_of_log(program) - time.localtime().tm_year - years) <= 1, 5, "a clock that jumped")
    if not pair.uses_udp:  # which may carry a session that TCP has begun
        assert len(pair.cproxy.events("resumed")) == 1
    going.finish()
    pair.cproxy.stop()
    pair.start_cproxy(env=clocks["client"].environment)
    assert served(pair)
    assert not pair.cproxy.events("host-remembered")


def test_expiry_follows_the_clock(pair, lab, clocks):
    """Goal: a key with an expiry: when sproxy's clock passes that, the session ends within a second or so and there is
    no other; when the clock was wrong and is put right, the key counts again."""
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() + 10 * DAY_S))
    authorize(lab, 2, options=f'expiry="{day}" ')
    start(pair, clocks)
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    clocks["client"].jump(400)  # the client's own clock does not count
    app.sendall(b"again")
    assert read_exactly(app, 5) == b"again"
    clocks["server"].jump(11)
    app.settimeout(5)
    assert ends_by_reset(app)
    assert fingerprint(spki(2)) in pair.sproxy.event("ended")["why"]
    assert "expiry" in pair.sproxy.event("ended")["why"]
    assert pair.app_is_reset()
    clocks["server"].jump(0)
    until(lambda: served(pair), 10, "the key counts again")
