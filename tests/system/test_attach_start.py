"""sproxy --attach --start: an sproxy that is there when it is needed, one for each daemon, and outlives its caller."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from lab import outage, until
from proxies import CPROXY, DAEMON_PORT, SPROXY, state_dir
from test_via import attach, echoed, entering, in_session, runs, start

from tests import keys

DAEMON = f"127.0.0.1:{DAEMON_PORT}"


@pytest.fixture
def starting(pair):
    """The command that leads from anywhere to an sproxy on the server, and starts it, beside an echo daemon."""
    pair.echo()
    return entering(pair.lab.server, SPROXY, "--attach", "--start", DAEMON)


def place(host, daemon=DAEMON):
    """Where the files of a started sproxy are."""
    (found,) = state_dir(host).glob("started/*")
    return found / daemon.replace(":", ",")


def sockets(host, daemon=DAEMON):
    return sorted(place(host, daemon).glob("*.sock"))


def started(host, daemon=DAEMON):
    """The number of the sproxy that runs; there is one."""
    (found,) = [int(path.stem.rpartition("-")[2]) for path in sockets(host, daemon)]
    return found


def log_of(host):
    return (place(host) / "log").read_text()


def announced(host, *words):
    """The first line of `sproxy --attach --start`, whose input has ended."""
    done = attach(host, "--start", *words)
    assert done.returncode == 0, done.stderr
    match = re.fullmatch(r"mproxy-attached ports=(\d+) key=(SHA256:\S{43})\n", done.stdout)
    assert match, done
    return int(match[1]), match[2]


def test_a_session_begins_where_no_sproxy_runs(pair, starting):
    """Goal: the first command starts it; it survives the command, which is killed with its session, and the next one
    joins it."""
    start(pair, starting, "--heartbeat", "100ms")
    app = echoed(pair)
    pid = started(pair.lab.server)
    for count in (1, 2):
        (command,) = [int(each) for each in children_of(pair.cproxy)]
        for process in in_session(command):
            os.kill(int(process), signal.SIGKILL)
        pair.cproxy.event("resumed", count=count)
        app.sendall(b"more")
        assert app.recv(4) == b"more"
    assert started(pair.lab.server) == pid
    assert log_of(pair.lab.server).count(" listening ") == 2  # IPv4 and IPv6


def test_a_session_begins_where_the_umask_lets_a_group_write(pair):
    """Goal: Debian's and Ubuntu's, in ssh sessions: the key that was told is let in, since nobody else can write its
    list."""
    pair.echo()
    start(pair, entering(pair.lab.server, "sh", "-c", 'umask 002; exec "$@"', "sh", SPROXY, "--attach", "--start",
                         DAEMON))
    echoed(pair)
    found = place(pair.lab.server)
    assert all(each.stat().st_mode & 0o077 == 0 for each in (found, found.parent, found.parent.parent))


@pytest.mark.parametrize("daemon, has", [("127.0.0.1:22", True), (DAEMON, False)])
def test_sshd_alone_sees_an_address_for_each_key(pair, daemon, has):
    """Goal: PostgreSQL as Debian sets it up lets in 127.0.0.1, and no other address of the host."""
    announced(pair.lab.server, daemon)
    words = Path(f"/proc/{started(pair.lab.server, daemon)}/cmdline").read_text().split("\0")
    assert ("--source-per-key" in words) is has


def children_of(program):
    pid = program.worker_pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_it_is_a_daemon(pair, starting):
    """Goal: a session of its own, no terminal, no descriptor of who started it, not in a directory that may go."""
    announced(pair.lab.server, DAEMON)
    pid = started(pair.lab.server)
    process = Path(f"/proc/{pid}")
    state, _parent, group, session, terminal = (process / "stat").read_text().rpartition(")")[2].split()[:5]
    assert (state, int(group), int(session), int(terminal)) == ("S", pid, pid, 0)
    assert os.readlink(process / "cwd") == "/"
    assert os.readlink(process / "fd" / "0") == os.readlink(process / "fd" / "1") == "/dev/null"
    assert os.readlink(process / "fd" / "2") == str(place(pair.lab.server) / "log")
    assert not any("pipe:" in os.readlink(fd) for fd in (process / "fd").iterdir())


def test_several_at_once_start_one(pair, starting):
    server = pair.lab.server
    racing = [server.start(SPROXY, "--attach", "--start", DAEMON) for _ in range(8)]
    lines = set()
    for each in racing:
        assert each.wait() == 0, str(each)
        lines.add(each.out.text)
    assert len(lines) == 1
    assert runs(started(server))
    assert not (place(server) / "log.old").exists()


def test_each_daemon_has_its_own(pair, starting):
    server = pair.lab.server
    first, key = announced(server, DAEMON)
    assert first == 6200
    second, other_key = announced(server, "127.0.0.1:5432")
    assert second == 6201 and other_key != key
    assert started(server) != started(server, "127.0.0.1:5432")
    shown = server.run(CPROXY.parent / "bin" / "mproxy", "status", "sproxy")
    assert f"started:{DAEMON}" in shown and "started:127.0.0.1:5432" in shown


def test_one_that_was_killed_is_replaced(pair, starting):
    """Goal: a socket that was left behind is recognised, whatever process has its number now."""
    server = pair.lab.server
    announced(server, DAEMON)
    pid = started(server)
    for process in in_session(pid):
        os.kill(int(process), signal.SIGKILL)
    until(lambda: not runs(pid), 10, "its end")
    (left,) = sockets(server)
    left.rename(left.with_name(f"sproxy-{os.getpid()}.sock"))
    announced(server, DAEMON)
    (running,) = [path for path in sockets(server) if path.stem != f"sproxy-{os.getpid()}"]
    assert runs(int(running.stem.rpartition("-")[2]))


def test_keys_that_were_attached_may_come_to_the_port(pair, starting):
    """Goal: a key that came through the pipe is trusted at the port, and no other; one session moves there."""
    server = pair.lab.server
    start(pair, starting)
    echoed(pair)
    port, key = announced(server, DAEMON)
    assert pair.cproxy.stop() == 0
    (line,) = (place(server) / "authorized_keys").read_text().splitlines()
    assert re.fullmatch(r"mproxy-ed25519 \S+ attached by process \d+", line)
    client = pair.lab.client
    pair.lab.wifi.plug(2)
    pair.start_cproxy("--host-fingerprint", key, server_port=port)
    echoed(pair)
    pair.cproxy.stop()
    pair.start_cproxy("--state-dir", client.home / "stranger", server_port=port)
    assert pair.app_is_reset()
    assert "the key is not in authorized_keys" in pair.cproxy.event("dial-failed")["why"]


def test_what_keeps_it_from_starting_is_said(pair):
    server = pair.lab.server
    announced(server, "127.0.0.1:1")
    place(server).mkdir(mode=0o700)
    key = place(server) / "host-key.pem"
    key.touch(mode=0o644)
    key.write_bytes(keys.pem(1))
    done = attach(server, "--start", DAEMON)
    assert (done.returncode, done.stdout) == (1, "")
    log = place(server) / "log"
    assert re.fullmatch(rf"sproxy: cannot start sproxy: \S+: the key {key} is accessible to other users: .*"
                        rf" \(its log: {log}\)\n", done.stderr), done.stderr
    key.chmod(0o600)
    announced(server, DAEMON)
    assert (place(server) / "log.old").read_text()


def test_a_directory_of_somebody_else_is_refused(pair):
    server = pair.lab.server
    announced(server, "127.0.0.1:1")
    others = place(server)
    others.mkdir()
    try:
        os.chown(others, 1, 1)
    except OSError:
        pytest.skip("only root can give a directory away")
    done = attach(server, "--start", DAEMON)
    assert done.returncode == 1 and "is not a directory of this user" in done.stderr


def test_plain_attach_still_finds_the_one_that_was_started_by_hand(pair, starting):
    announced(pair.lab.server, DAEMON)
    pair.start_sproxy(port=6300)
    start(pair, entering(pair.lab.server, SPROXY, "--attach"))
    echoed(pair)
    assert pair.sproxy.event("connected")


def test_the_default_is_the_sshd_that_let_us_in(pair):
    server = pair.lab.server
    done = subprocess.run(server.entering([SPROXY, "--attach", "--start"]), stdin=subprocess.DEVNULL, timeout=30,
                          env=server.environment({"SSH_CONNECTION": "10.1.0.2 40000 10.3.0.2 2222"}),
                          capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mproxy-attached ports=62")
    assert started(server, "127.0.0.1:2222")


def test_an_idle_sproxy_ends(pair):
    """Goal: only without sessions, and in order."""
    pair.echo()
    pair.start_sproxy("--exit-idle", "1s")
    pair.start_cproxy("--idle", "0")
    app = echoed(pair)
    outage(1.5)
    assert not pair.sproxy.events("idle-end")
    app.close()
    assert pair.sproxy.wait() == 0
    idle_s = pair.sproxy.event("idle-end").at - pair.sproxy.event("ended").at
    assert idle_s > 0.8  # less by one look at most


def test_a_user_who_lingers_keeps_it(pair, starting):
    """Goal: logind ends what a user left running; a scope of the user's own service manager is spared."""
    server = pair.lab.server
    user = server.run("id", "-un").strip()
    runtime = server.home / "runtime" / "systemd"
    runtime.mkdir()
    (runtime / "private").touch()
    program = server.home / "bin" / "systemd-run"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $* > {server.home}/scope\nwhile [ $1 != -- ]; do shift; done\nshift\n"
                       "exec \"$@\"\n")
    program.chmod(0o755)
    if not os.path.isdir("/var/lib/systemd"):
        pytest.skip("no systemd")
    script = ("mount -t tmpfs tmpfs /var/lib/systemd && mkdir /var/lib/systemd/linger &&"
              f" touch /var/lib/systemd/linger/{user} &&"
              f" PATH={program.parent}:$PATH exec {SPROXY} --attach --start {DAEMON}")
    done = subprocess.run(server.entering(["sh", "-c", script]), stdin=subprocess.DEVNULL, timeout=30,
                          env=server.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("mproxy-attached"), done.stderr
    words = (server.home / "scope").read_text()
    assert words.startswith("--user --scope --quiet --collect -- ") and words.endswith(f" {DAEMON}\n")
    assert runs(started(server))
