"""The lab itself, on which the other tests rely."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import pytest
from asking import ask
from lab import HERE, until
from program import Program
from proxies import SPROXY, SPROXY_PORT
from relays import MPROXY
from traffic import Traffic, read_exactly

from tests.root import real_root


def reachable(lab, address):
    return ", 0% packet loss" in lab.client.run("ping", "-c1", "-W0.3", address, check=False)


@pytest.fixture(params=[4, 6])
def server_address(lab, request):
    return lab.core.address(2) if request.param == 4 else lab.core.address6(2)


def test_client_reaches_the_server_from_every_address_it_gets(lab, server_address):
    assert reachable(lab, server_address)
    lab.wifi.pull()
    assert not reachable(lab, server_address)
    lab.wifi.give(7)
    assert reachable(lab, server_address)
    lab.phone.give(9)
    lab.wifi.pull()
    assert reachable(lab, server_address)


def test_black_hole_swallows_everything_and_tells_nobody(lab, server_address):
    listener = lab.server.listen(80, server_address)
    app = lab.client.connect(80, server_address)
    daemon, _ = listener.accept()
    lab.wifi.cut()
    assert not reachable(lab, server_address)
    daemon.sendall(b"held back")
    app.settimeout(0.3)
    with pytest.raises(socket.timeout):
        app.recv(100)
    lab.wifi.mend()
    app.settimeout(10)
    assert read_exactly(app, 9) == b"held back"


def test_traffic_judges_every_byte(lab):
    """The check that other tests use must notice a difference: a daemon that changes one byte is caught."""
    with lab.server.inside():
        listener = socket.create_server((lab.server_address, 80))
    app = lab.client.connect(80, lab.server_address)
    daemon, _ = listener.accept()
    traffic = Traffic([app])
    daemon.sendall(daemon.recv(100, socket.MSG_WAITALL))
    until(lambda: traffic.total == 100, 5, "echo of 100 bytes")
    part = bytearray(daemon.recv(100, socket.MSG_WAITALL))
    part[50] ^= 1
    daemon.sendall(part)
    traffic.join(timeout=5)
    assert traffic.failures == ["connection 0: wrong byte at offset 150"]


@pytest.mark.parametrize("death", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_killed_run(lab, tmp_path, death):
    """Programs and namespaces go with their run, however it ended; so do daemons with sessions of their own."""
    script = textwrap.dedent("""
        import signal, sys
        from lab import Lab
        with Lab(sys.argv[1]) as lab:
            lab.client.start("setsid", "-f", "sleep", "1000")
            lab.server.start("sleep", "1000")
            print(*(host.holder.pid for host in lab.hosts), flush=True)
            signal.pause()
    """)
    run = subprocess.Popen([sys.executable, "-c", script, tmp_path / "other"], stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(HERE)})
    holders = run.stdout.readline().split()
    with ExitStack() as held:
        # Held, or the kernel gives a network's number to the next one, of a test that runs beside this one.
        networks = {held.enter_context(open(f"/proc/{pid}/ns/net")) for pid in holders}
        numbers = {f"net:[{os.fstat(network.fileno()).st_ino}]" for network in networks}
        assert len(numbers) == 3
        run.send_signal(death)
        run.wait(timeout=10)
        run.stdout.close()
        until(lambda: not numbers & set(networks_in_use()), 10, "end of the other run's programs")


def networks_in_use():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield os.readlink(f"/proc/{pid}/ns/net")
        except OSError:
            continue


@pytest.fixture
def place_of_the_machine():
    """For control sockets, in the /tmp that all share; somebody's program has one there."""
    place = Path(f"/tmp/mproxy-{1_000_000_000 + os.getpid()}")
    place.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / f"sproxy-{os.getpid()}.sock"))
        listener.listen()
        yield place
    for file in place.iterdir():
        file.unlink()
    place.rmdir()


def test_programs_beside_the_lab_are_not_seen_in_it(place_of_the_machine, lab, tmp_path, ends):
    """Goal: neither the tester's own nor those of a test that runs at the same time, although all may be root's."""
    beside = Program([SPROXY, "--state-dir", tmp_path / "state", "0"])
    ends.callback(beside.close)
    beside.event("listening")
    program = lab.client.start(MPROXY, "status")
    assert program.wait() == 1 and "nothing is running" in program.out.text and not program.log.text, str(program)


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_programs_of_nobody_are_seen_in_their_host_alone(lab, pair):
    pair.start_sproxy("--user", "nobody")
    assert f"sproxy:{SPROXY_PORT}" in ask(lab.server, "status")
    assert "nothing is running" in ask(lab.client, "status", status=1)
