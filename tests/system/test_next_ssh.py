"""A `mproxy connect` whose ssh has ended keeps its session for the next one: real ssh, real sshd."""

import hashlib
import os
import signal
import subprocess

import pytest
from lab import until
from openssh import COUNTING, NEEDS_SSHD, SshHost, counts_on

pytestmark = NEEDS_SSHD

THROUGH_SSH, DIRECT = (None, "process"), ("10.1.0.2", None)
SCRIPT = "echo out; cat; echo err >&2; exit 7"


@pytest.fixture
def host(lab):
    """One ssh has started sproxy, and there was another; a session waits that goes straight."""
    host = SshHost(lab).start()
    for _ in range(2):
        assert host.run("server", "true").returncode == 0
    until(lambda: sockets(host), 30, "somebody who waits")
    until(lambda: DIRECT in host.peers() + host.peers("resumed"), 30, "the session to go straight")
    return host


def sockets(host):
    return list((host.home / "runtime" / "mproxy").glob("standby-*"))


def waiting(host):
    """The process that waits, once those that do not have ended."""
    def found():
        return [pid for pid, line in host.lab.client.processes().items() if "-IS" in line and " connect " in line]
    until(lambda: len(found()) == 1, 30, "one process")
    return found()[0]


def served(host, run):
    """What `run()` returns, by an ssh for which no session began: one on a host so slow that heartbeats are late dials
    for itself."""
    for _attempt in range(8):
        before = host.peers()
        done = run()
        if host.peers() == before:
            return done
    pytest.fail(f"nobody is served by who waits: {host.peers()}")


def test_the_next_one_waits_for_nothing(host):
    """Goal: no dial and no other session; status, output, errors and input are the command's, and ssh's pipes end with
    it, although somebody stays."""
    def run():
        done = subprocess.run(host.lab.client.entering(host.command("server", SCRIPT)), input="in\n", text=True,
                              env=host.lab.client.environment(), capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\nin\n", "err\n")
    for _ in range(3):
        served(host, run)
    assert os.readlink(f"/proc/{waiting(host)}/cwd") == "/", "what it was started in can be unmounted"


def test_it_survives_an_address_change(host):
    ssh = host.lab.client.start(*host.command("server", COUNTING), stdin=subprocess.PIPE)
    ssh.expect("^number 20$")
    counts_on(host.lab, ssh)


def test_it_waits_on_whatever_carries_it(host):
    """Goal: it moves to UDP while nobody uses it, and is found there."""
    until(lambda: host.peers("resumed"), 60, "the session to move to UDP")
    pid = waiting(host)
    assert served(host, lambda: host.run("server", "exit 5")).returncode == 5
    assert waiting(host) == pid


def test_one_that_ends_holds_nothing_of_a_caller_s(host):
    """Goal: who reads an ssh's standard error to its end has it when that ssh ends, although another one goes on."""
    ssh = host.lab.client.start(*host.command("server", "echo there; exec cat"), stdin=subprocess.PIPE)
    ssh.expect("^there$")
    for _ in range(2):
        done = host.run("server", "echo err >&2; exit 3")
        assert (done.returncode, done.stderr) == (3, "err\n")
    ssh.process.stdin.close()
    assert ssh.wait() == 0


def test_several_at_once(host):
    """Goal: each gets its own bytes, all of them."""
    before, data = host.peers(), [os.urandom(2_000_000) for _ in range(4)]
    running = [subprocess.Popen(host.lab.client.entering(host.command("server", "cat")), stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, env=host.lab.client.environment()) for _ in data]
    try:
        for each, said in zip(running, data, strict=True):
            out, _ = each.communicate(said, timeout=60)
            assert hashlib.sha256(out).digest() == hashlib.sha256(said).digest()
            assert each.returncode == 0
    finally:
        for each in running:
            each.kill()
            each.wait()
    assert len(host.peers()) < len(before) + len(data)


@pytest.mark.parametrize("how", ["its sproxy has ended", "it is frozen", "it was killed", "it was told to end"])
def test_without_it_the_next_one_dials(host, how):
    """Goal: whatever has become of it; and who was told to end says goodbye."""
    pid = waiting(host)
    if how == "its sproxy has ended":
        (place,) = (host.lab.server.home / "state").glob("mproxy/started/*/*/*.sock")
        os.kill(int(place.stem.rpartition("-")[2]), signal.SIGTERM)
        until(lambda: not sockets(host), 30, "the end of who has no session")
    else:
        os.kill(pid, {"it is frozen": signal.SIGSTOP, "it was killed": signal.SIGKILL}.get(how, signal.SIGTERM))
    if how == "it was told to end":
        until(lambda: " ended " in host.log(), 30, "its goodbye")
    try:
        done = host.run("server", "echo out; exit 7")
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "")
    finally:
        if how == "it is frozen":
            os.kill(pid, signal.SIGKILL)


def test_an_ssh_that_is_killed_takes_its_own_with_it(host):
    """Goal: its command on the other host ends, quick-start ends, and who waits goes on waiting."""
    pid = waiting(host)
    ssh = host.lab.client.start(*host.command("server", "echo there; exec cat -u"), stdin=subprocess.PIPE)
    ssh.expect("^there$")
    ssh.process.kill()
    until(lambda: not any("cat -u" in line for line in host.lab.server.command_lines()), 30, "end of the command")
    until(lambda: not any("quick-start" in line for line in host.lab.client.command_lines()), 30, "end of quick-start")
    assert waiting(host) == pid
    assert served(host, lambda: host.run("server", "exit 3")).returncode == 3
