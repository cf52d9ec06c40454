"""mproxy relay --access-log: a line for each connection."""

import contextlib
import json
import os
import signal

import pytest
from lab import until
from relays import ECHO_PORT, RELAY, SERVER, echoes, is_served, start_echo, udp_socket
from traffic import ends_by_reset

from mproxy.relay._proxy_header import make_header

ECHO = f"{SERVER}:{ECHO_PORT}"


@pytest.fixture(autouse=True)
def echo(lab):
    return start_echo(lab.server)


@pytest.fixture
def access(relay):
    """Reads the lines of the file: access(count) waits for so many."""
    path = relay.host.home / "access.log"

    def read(count, where=path):
        def lines():
            return [json.loads(line) for line in where.read_text().splitlines()] if where.exists() else []
        until(lambda: len(lines()) >= count, 15, f"{count} lines in the access log")
        return lines()
    read.path = path
    return read


def test_what_a_line_says(lab, relay, access):
    """Goal: who, by which rule, to whom, how much, how long, and why it ended."""
    relay.start(f"7005 -> {ECHO} name=web", f"7006 -> {SERVER}:9 connect-timeout=5s", f"7007 -> {ECHO} timeout=200ms",
                options=["--access-log", access.path])
    with lab.client.connect(7005, RELAY) as connection:
        assert echoes(connection, b"x" * 1000)
        client = connection.getsockname()
    [line] = access(1)
    took = line.pop("duration_s")
    assert 0 < took < 10 and line.pop("time")[:2] == "20"
    assert line == {
        "protocol": "tcp", "rule": "web", "listen": "7005", "client": f"{client[0]}:{client[1]}", "target": ECHO,
        "address": SERVER, "bytes_in": 1000, "bytes_out": 1000, "ended": "done", "worker": 0}
    with contextlib.suppress(ConnectionResetError), lab.client.connect(7006, RELAY) as connection:
        assert ends_by_reset(connection)  # if that did not come before connect() had returned
    line = access(2)[1]
    assert line["ended"] == "no target: Connection refused" and "target" not in line and "rule" not in line
    with lab.client.connect(7007, RELAY) as connection:
        assert echoes(connection) and ends_by_reset(connection)
    assert access(3)[2]["ended"] == "silent"
    connection = lab.client.connect(7005, RELAY)
    assert echoes(connection)
    relay.reload(f"7006 -> {SERVER}:9")
    connection.close()
    assert access(4)[3]["rule"] == "web"  # which is gone


def test_a_proxy_header_says_who_the_client_is(lab, relay, access):
    relay.start(f"7005 -> {ECHO} accept-proxy", options=["--access-log", access.path])
    with lab.client.connect(7005, RELAY) as connection:
        connection.sendall(make_header(2, (("192.0.2.7", 4000), ("192.0.2.1", 80))))
        assert echoes(connection)
        through = connection.getsockname()
    access(1)
    with lab.client.connect(7005, RELAY) as connection:
        connection.sendall(b"nonsense\n")
        assert ends_by_reset(connection)
    good, bad = access(2)
    assert (good["client"], good["through"]) == ("192.0.2.7:4000", f"{through[0]}:{through[1]}")
    assert bad["ended"] == "bad PROXY header"


def test_udp_flows(lab, relay, access):
    relay.start(f"udp 7005 -> {SERVER}:8006 timeout=300ms", options=["--access-log", access.path])
    with udp_socket(lab.server, SERVER) as server, udp_socket(lab.client, RELAY) as client:
        server.bind((SERVER, 8006))
        client.sendto(b"question", (RELAY, 7005))
        _, address = server.recvfrom(100)
        server.sendto(b"answer", address)
        assert client.recv(100) == b"answer"
        port = client.getsockname()[1]
        [line] = access(1)
    assert line["client"].endswith(f":{port}") and line["target"] == f"{SERVER}:8006"
    assert (line["protocol"], line["bytes_in"], line["bytes_out"], line["ended"]) == ("udp", 8, 6, "silent")


def test_rotation(lab, relay, access):
    """Goal: after a rename, and after a SIGHUP, lines go to a new file, from every worker; none is lost."""
    program = relay.start(f"7005 -> {ECHO}", options=["--access-log", access.path, "--workers", "2"])
    for _ in range(6):
        assert is_served(lab.client, 7005)
    access(6)
    away = access.path.with_suffix(".1")
    access.path.rename(away)
    until(access.path.exists, 10, "there is a new file")
    until(lambda: is_served(lab.client, 7005) and access.path.stat().st_size > 0, 10, "a line in the new file")
    access.path.rename(access.path.with_suffix(".2"))
    program.signal(signal.SIGHUP)
    program.event("reloaded")
    for _ in range(6):
        assert is_served(lab.client, 7005)
    access(6)
    total = relay.status()["totals"]["tcp"]["total"]
    files = [away, access.path.with_suffix(".2"), access.path]
    until(lambda: sum(len(file.read_text().splitlines()) for file in files) == total, 10, "no line is lost")


def test_a_full_disk_stops_nobody(lab, relay):
    """Goal: connections are served, lines dropped, and the log says how many."""
    program = relay.start(f"7005 -> {ECHO}", options=["--access-log", "/dev/full"])
    for _ in range(20):
        assert is_served(lab.client, 7005)
    lost = program.event("access-log-lost")
    assert int(lost["lines"]) > 0 and lost["why"] == "No space left on device"
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert sum(int(each["lines"]) for each in program.events("access-log-lost")) == 20


def test_a_file_that_cannot_be_written(lab, relay):
    program = relay.start_with("7005", SERVER, ECHO_PORT, "--access-log", "/nowhere/access.log", ready=False)
    assert program.wait() == 2
    assert "cannot write --access-log /nowhere/access.log: No such file or directory" in program.log.text


def test_the_end_of_the_relay_is_noted(lab, relay, access):
    program = relay.start(f"7005 -> {ECHO}", options=["--access-log", access.path, "--drain-timeout", "0"])
    connection = lab.client.connect(7005, RELAY)
    assert echoes(connection)
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert [line["ended"] for line in access(1)] == ["stopped"]
    assert os.stat(access.path).st_mode & 0o777 == 0o640
