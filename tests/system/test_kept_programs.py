"""sproxy under a keeper: how others see it, and what its next worker does."""

import os
import re
import signal
from pathlib import Path

import pytest
from asking import facts
from lab import until
from proxies import DAEMON_PORT, SPROXY, SPROXY_PORT
from traffic import read_exactly

from tests.root import real_root


@pytest.fixture
def start(pair):
    """Starts sproxy under a keeper, with options."""
    def start(*options):
        program = pair.lab.server.start(
            SPROXY, "--keeper", *options, SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}")
        pair.sproxy = program
        return program
    pair.echo()
    return start


def worker_of(program):
    """The pid of a program's worker."""
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    return int(until(children.read_text, 10, "there is a worker"))


def echoes(pair):
    with pair.app() as app:
        app.sendall(b"hello")
        return read_exactly(app, 5) == b"hello"


def test_the_next_worker_serves(pair, start):
    """Goal: callers come back to the same process, which goes on to have one control socket, with its own number."""
    program = start("--plaintext")
    program.event("listening")
    for number in range(2, 4):
        assert facts(pair.lab.server, "sproxy")["pid"] == program.pid
        pair.start_cproxy("--plaintext")
        assert echoes(pair)
        assert pair.cproxy.stop() == 0
        os.kill(worker_of(program), signal.SIGKILL)
        assert program.event("worker-died", number - 1)["why"] == "SIGKILL"
        program.event("recovered", number - 1)
    assert program.stop() == 0
    assert len(program.events("stopping")) == 1
    assert len(program.events("listening")) == 2, "a line for each of two addresses, by the first worker alone"


def test_hangup_is_for_the_worker(pair, start, tmp_path):
    """Goal: the log goes to a new file of the same name, before and after a death."""
    log = pair.lab.server.home / "proxy.log"
    program = start("--plaintext", "--log-file", log)
    until(lambda: log.exists() and " listening " in log.read_text(), 30, "it listens")
    for number in range(2):
        log.rename(f"{log}.{number}")
        program.signal(signal.SIGHUP)
        until(lambda: log.exists() and " reloaded" in log.read_text(), 30, "reloaded")
        os.kill(worker_of(program), signal.SIGKILL)
        until(lambda: " recovered " in log.read_text(), 30, "the next worker serves")
    assert program.stop() == 0


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_every_worker_has_the_rights_of_the_user(start):
    program = start("--plaintext", "--user", "nobody")
    program.event("listening")
    for number in range(1, 3):
        worker = worker_of(program)
        for pid in (program.pid, worker):
            status = Path(f"/proc/{pid}/status").read_text()
            assert "\nNoNewPrivs:\t1\n" in status and "\nCapPrm:\t0000000000000000\n" in status
            assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, "not dumpable"
        os.kill(worker, signal.SIGKILL)
        program.event("recovered", number)
    assert program.stop() == 0


def resident_bytes(pid):
    """What the kernel counts where memory is short, but for page tables."""
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"^VmRSS:\s+([0-9]+) kB", text, re.MULTILINE)[1])


def test_who_is_killed_where_memory_is_short(start):
    """Goal: the worker, even of a program with nothing to do, not the keeper, with which everything ends: it has less
    in memory, also after deaths."""
    program = start("--plaintext")
    program.event("listening")
    for number in range(4):
        until(lambda: resident_bytes(program.pid) < resident_bytes(worker_of(program)), 30,
              "the keeper is the smaller one")
        os.kill(worker_of(program), signal.SIGKILL)
        program.event("recovered", number + 1)
    assert program.stop() == 0


def test_a_mistake_is_told_once(pair, start):
    """Goal: what fails at the start fails in the keeper, as without one."""
    start("--plaintext").event("listening")
    second = pair.lab.server.start(
        SPROXY, "--keeper", "--plaintext", SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}")
    assert second.wait() == 1
    assert len(second.log.lines) == 1, str(second)
