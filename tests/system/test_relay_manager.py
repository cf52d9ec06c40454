"""mproxy relay under a service manager: its notifications, and sockets that it is passed."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest
from lab import until
from relays import (
    ECHO_PORT,
    MPROXY,
    RELAY,
    RELAY6,
    SERVER,
    echoes,
    exchange,
    is_served,
    notify_socket,
    start_echo,
    udp_client,
    udp_socket,
)
from traffic import ends_by_reset, read_exactly

RULE = f"7005 -> {SERVER}:{ECHO_PORT}"


def test_notifications(relay, tmp_path):
    """Goal: sd_notify: READY with the process's number, watchdog, reload, stop."""
    with notify_socket(tmp_path) as (address, receive):
        program = relay.start(RULE, env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"})
        words = receive()
        assert "READY=1" in words
        assert f"MAINPID={program.pid}" in words
        assert "WATCHDOG=1" in until(lambda: "WATCHDOG=1" in (text := receive()) and text, 10, "watchdog")
        relay.reload(RULE, "7006 -> host:1")
        until(lambda: "RELOADING=1\nMONOTONIC_USEC=" in receive(), 10, "reloading")
        until(lambda: "READY=1" in receive(), 10, "ready again")
        program.signal(signal.SIGTERM)
        until(lambda: "STOPPING=1" in receive(), 10, "stopping")


ACTIVATE = """
import os, socket, sys
kind, port, *hosts = sys.argv[1].split(",")
socks = []
for host in hosts:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, getattr(socket, kind))
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((host, int(port)))
    if kind == "SOCK_STREAM":
        sock.listen()
    socks.append(sock)
for number, sock in enumerate(socks, 3):
    assert sock.fileno() == number
    os.set_inheritable(number, True)
print("open", flush=True)
sys.stdin.readline()
os.environ.update(LISTEN_FDS=str(len(socks)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_activation(lab, relay):
    """Goal: a socket from the service manager is used for its rule; one without a rule is reported."""
    start_echo(lab.server)
    prefix = [sys.executable, "-c", ACTIVATE]
    program = relay.start(f"0.0.0.0:{RULE}", prefix=[*prefix, "SOCK_STREAM,7005,0.0.0.0"], options=["--workers", "2"])
    inode = lab.router.run("ss", "-Hltne", "sport = :7005").split("ino:")[1].split()[0]
    assert f"socket:[{inode}]" in open_files(program.pid)
    assert is_served(lab.client, 7005)
    assert program.stop() == 0
    program = relay.start(RULE, prefix=[*prefix, "SOCK_STREAM,7999,0.0.0.0"])
    assert program.event("socket-unused")["address"] == "tcp:0.0.0.0:7999"
    assert is_served(lab.client, 7005)


def test_who_called_before_it_ran_is_like_others(lab, relay):
    """Goal: connections made before the relay had its listening socket, such as the one for which a service manager
    starts it, are watched and cut by a reset like any other, and so are later ones."""
    start_echo(lab.server)
    relay.write(f"0.0.0.0:{RULE}")
    program = lab.router.start(sys.executable, "-c", ACTIVATE, "SOCK_STREAM,7005,0.0.0.0", MPROXY, "relay", "--config",
                               relay.file, "--drain-timeout", "200ms", stdin=subprocess.PIPE, env=relay.environment)
    program.expect("^open$")
    connections = [lab.client.connect(7005, RELAY) for _ in range(3)]
    program.process.stdin.write(b"\n")
    program.process.stdin.flush()
    program.event("ready")
    connections.append(lab.client.connect(7005, RELAY))
    assert all(echoes(connection) for connection in connections)
    timers = lab.router.run("ss", "-Htno", "state", "established", "sport = :7005").splitlines()
    assert len(timers) == 4 and all(re.search(r"keepalive,(\d+sec|1min)", line) for line in timers), timers
    assert program.stop() == 0
    assert [ends_by_reset(connection) for connection in connections] == [True] * 4


def open_files(pid):
    """What the descriptors of a process are."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


TAKE_OVER = """
import os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.bind(sys.argv[1])
    print("listening", flush=True)
    kept = []
    while not kept:
        text, fds, _, _ = socket.recv_fds(sock, 4096, 250)
        kept += fds if text.startswith(b"FDSTORE=1") else []
for number, fd in enumerate(kept, 3):
    os.dup2(fd, 100 + number)
for number, fd in enumerate(kept, 3):
    os.dup2(100 + number, number)
    os.set_inheritable(number, True)
print("kept", len(kept), flush=True)
sys.stdin.readline()
os.environ.update(LISTEN_FDS=str(len(kept)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_restart_refuses_nobody(lab, relay, tmp_path):
    """Goal: while the relay stops, the service manager holds the listening sockets; callers wait for the next run,
    which serves them though the former one still has a connection."""
    start_echo(lab.server)
    place = tmp_path / "notify"
    relay.write(RULE, f"udp {RULE}")
    words = [MPROXY, "relay", "--config", relay.file, "--pidfile", relay.pidfile, "--drain-timeout", "60s"]
    successor = lab.router.start(sys.executable, "-c", TAKE_OVER, place, *words, stdin=subprocess.PIPE,
                                 env=relay.environment)
    successor.expect("^listening$")
    former = relay.start(RULE, f"udp {RULE}", options=["--drain-timeout", "60s"], env={"NOTIFY_SOCKET": str(place)})
    connection = lab.client.connect(7005, RELAY)
    assert echoes(connection)
    inode = lab.router.run("ss", "-Hltne", "sport = :7005").split("ino:")[1].split()[0]
    [worker] = relay.workers()
    former.signal(signal.SIGTERM)
    successor.expect("^kept 2$")
    until(lambda: f"socket:[{inode}]" not in open_files(worker), 10, "the former run accepts nobody")
    waiting = lab.client.connect(7005, RELAY)
    waiting.sendall(b"hello")
    successor.process.stdin.write(b"\n")
    successor.process.stdin.flush()
    successor.event("ready")
    assert read_exactly(waiting, 5) == b"hello"
    assert not successor.events("socket-unused")
    assert echoes(connection)
    assert relay.status()["pid"] == successor.pid
    connection.close()
    assert former.wait(within=20) == 0
    assert relay.status()["pid"] == successor.pid, "the former one took the file of its successor away"


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_udp_socket_activation(lab, relay, workers):
    """Goal: sockets of both families from the service manager are served, by any number of workers."""
    prefix = [sys.executable, "-c", ACTIVATE, "SOCK_DGRAM,7005,0.0.0.0,::"]
    program = relay.start(f"udp {RULE}", prefix=prefix, options=["--workers", workers])
    with udp_socket(lab.server, SERVER) as server:
        server.bind((SERVER, ECHO_PORT))
        for address in (RELAY, RELAY6):
            for _ in range(6):
                exchange(udp_client(lab, address), server)
    assert not program.events("socket-unused")
    assert relay.status()["rules"][0]["counters"]["total"] == 12
