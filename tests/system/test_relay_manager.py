"""mproxy relay under a service manager: what it tells it, and the sockets that it is given."""

import os
import signal
import sys

import pytest
from lab import until
from relays import (
    ECHO_PORT,
    RELAY,
    RELAY6,
    SERVER,
    exchange,
    is_served,
    notify_socket,
    start_echo,
    udp_client,
    udp_socket,
)

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
os.environ.update(LISTEN_FDS=str(len(socks)), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_activation(lab, relay):
    """Goal: a socket of the service manager is taken for its rule, one without a rule is told of."""
    start_echo(lab.server)
    prefix = [sys.executable, "-c", ACTIVATE]
    program = relay.start(f"0.0.0.0:{RULE}", prefix=[*prefix, "SOCK_STREAM,7005,0.0.0.0"], options=["--workers", "2"])
    inode = lab.router.run("ss", "-Hltne", "sport = :7005").split("ino:")[1].split()[0]
    links = {os.readlink(f"/proc/{program.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{program.pid}/fd")}
    assert f"socket:[{inode}]" in links
    assert is_served(lab.client, 7005)
    assert program.stop() == 0
    program = relay.start(RULE, prefix=[*prefix, "SOCK_STREAM,7999,0.0.0.0"])
    assert program.event("socket-unused")["address"] == "tcp:0.0.0.0:7999"
    assert is_served(lab.client, 7005)


@pytest.mark.parametrize("workers", ["1", "2", "3"])
def test_udp_socket_activation(lab, relay, workers):
    """Goal: a socket for each family from the service manager: both are served, by however many workers."""
    prefix = [sys.executable, "-c", ACTIVATE, "SOCK_DGRAM,7005,0.0.0.0,::"]
    program = relay.start(f"udp {RULE}", prefix=prefix, options=["--workers", workers])
    with udp_socket(lab.server, SERVER) as server:
        server.bind((SERVER, ECHO_PORT))
        for address in (RELAY, RELAY6):
            for _ in range(6):
                exchange(udp_client(lab, address), server)
    assert not program.events("socket-unused")
    assert relay.status()["rules"][0]["counters"]["total"] == 12
