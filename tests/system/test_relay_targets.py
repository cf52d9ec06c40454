"""The relay's TCP engine and its targets: balance, failover, PROXY protocol, and 100,000 connections."""

import socket
import subprocess
import threading
from ipaddress import ip_network

import pytest
from lab import KEPT_BYTES, until
from relay_engine import address_of
from test_relay_tcp import SECOND_US, black_hole, gone, is_reset, is_turned_away, receive_all, reset
from tests.drivers._relay import parse_header

from mproxy.relay._proxy_header import make_header

LOCAL_HEADER = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def closed_port(stage):
    """An address that refuses."""
    listener = stage.server()
    address = address_of(listener)
    listener.close()
    return address


def text(address):
    host, port = address
    return f"{host}:{port}"


# ---- targets

def test_in_turn(stage):
    """Goal: round robin over the targets that have an address."""
    engine, servers = stage.engine(), [stage.server() for _ in range(3)]
    port = engine.listen(0, [*map(address_of, servers), ("?unknown", 1)], {})
    for n in range(6):
        client = stage.client(port)
        client.sendall(b"%d" % n)
        assert stage.accept(servers[n % 3]).recv(1) == b"%d" % n


def test_fewest_connections(stage):
    """Goal: leastconn prefers a target that has lost connections."""
    engine, servers = stage.engine(), [stage.server() for _ in range(2)]
    port = engine.listen(0, [*map(address_of, servers)], {"balance": "leastconn"})
    pairs = [(*stage.through(engine, port, servers[n % 2]), n % 2) for n in range(4)]
    for client, daemon, which in pairs:
        if which == 1:
            client.close()
            daemon.close()
    engine.wait_for_stat(0, "connections", 2)
    for _ in range(2):
        stage.through(engine, port, servers[1])


def test_a_target_that_refuses_is_left_out_and_tried_again(stage):
    """Goal: no client notices; there is one event when it fails and one when it is back."""
    engine, good = stage.engine(), stage.server()
    dead = closed_port(stage)
    port = engine.listen(0, [dead, address_of(good)], {})
    for _ in range(5):
        stage.through(engine, port, good)
    assert engine.named("on_target_down") == [(0, text(dead), 111)]
    back = stage.server(port=dead[1])
    back.settimeout(0.05)

    def arrives():
        stage.client(port)
        try:
            return stage.accept(back)
        except TimeoutError:
            return None
    until(arrives, 20, "a connection to the target that is back")
    assert engine.wait_for("on_target_up") == (0, text(dead))
    assert engine.stats(0)["failed"] == engine.stats(0)["refused"] == 0


def test_no_target_answers(stage):
    """Goal: the client sees a reset, the observer the reason."""
    engine = stage.engine()
    dead = [closed_port(stage), closed_port(stage)]
    port = engine.listen(0, dead, {})
    assert is_turned_away(stage, port)
    assert engine.wait_for("on_refused") == (0, ", ".join(map(text, dead)), 111)
    assert engine.stats(0)["failed"] == 1
    unknown = engine.listen(1, [("?unknown", 1)], {})
    assert is_turned_away(stage, unknown)
    assert engine.named("on_refused")[1] == (1, "?unknown:1", 0) and engine.stats(1)["refused"] == 1


def test_resolved_later(stage):
    """Goal: `set_targets` gives a rule addresses while it runs."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [("?name", 1)], {})
    assert is_turned_away(stage, port)
    engine.aim(0, [address_of(server)])
    stage.through(engine, port, server)


def test_from_ipv6_to_ipv4_and_back(stage):
    """Goal: both families work on both sides."""
    engine = stage.engine()
    for host, target in ("::1", "127.0.0.1"), ("127.0.0.1", "::1"):
        server = stage.server(target)
        port = engine.listen(host, [address_of(server)], {}, host)
        client = stage.client(port, host)
        client.sendall(b"through")
        assert stage.accept(server).recv(10) == b"through"


def test_a_client_that_leaves_while_the_target_is_silent(stage):
    """Goal: the client's reset frees everything, before the connect timeout."""
    engine = stage.engine()
    port = engine.listen(0, [address_of(black_hole(stage))], {"connect_timeout_us": 60 * SECOND_US})
    client = stage.client(port)
    engine.wait_for_stat(0, "connections", 1)
    reset(client)
    gone(engine)


# ---- PROXY protocol

@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_header_sent(stage, version, host):
    """Goal: before any data the target learns both addresses of the client's connection."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {"proxy": version}, "::" if ":" in host else host)
    client = stage.client(port, host.removeprefix("::ffff:"))
    client.sendall(b"and then the rest")
    client.shutdown(socket.SHUT_WR)
    data = receive_all(stage.accept(server))
    length, origin = parse_header(data)
    assert origin == (client.getsockname()[:2], (host.removeprefix("::ffff:"), port))
    assert data[length:] == b"and then the rest"
    assert data.startswith(b"PROXY ") == (version == 1)
    assert engine.stats(0)["bytes_in"] == 17


@pytest.mark.parametrize("version", [1, 2])
def test_header_accepted_and_passed_on(stage, version):
    """Goal: it may come byte by byte or together with data; the target is told of the original client, not the
    proxy."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {"accept_proxy": True, "proxy": 3 - version})
    origin = ("198.51.100.7", 4711), ("203.0.113.1", 80)
    header = make_header(version, origin)
    for portions in [bytes([byte]) for byte in header] + [b"data"], [header + b"data"]:
        client = stage.client(port)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for portion in portions:
            client.sendall(portion)
        client.shutdown(socket.SHUT_WR)
        data = receive_all(stage.accept(server))
        assert parse_header(data) == (len(data) - 4, origin) and data.endswith(b"data")


def test_local_header(stage):
    """Goal: for a proxy that connects on its own behalf, its own address counts."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {"accept_proxy": True, "proxy": 1})
    client = stage.client(port)
    client.sendall(LOCAL_HEADER + b"x")
    client.shutdown(socket.SHUT_WR)
    data = receive_all(stage.accept(server))
    assert parse_header(data)[1] == (client.getsockname(), ("127.0.0.1", port)) and data.endswith(b"x")


def test_headers_that_are_none(stage):
    """Goal: garbage, half a header, silence or a denied origin end only that connection."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {
        "accept_proxy": True, "deny": (ip_network("198.51.100.0/24"),), "connect_timeout_us": SECOND_US})
    for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", b"PROXY " + b"x" * 5000,
                    make_header(2, (("198.51.100.7", 1), ("203.0.113.1", 80)))):
        client = stage.client(port)
        client.sendall(garbage)
        assert is_reset(client)
    half = stage.client(port)
    half.sendall(make_header(2, None)[:-1])
    half.shutdown(socket.SHUT_WR)
    assert is_reset(half)
    assert engine.stats(0)["refused"] == 5
    silent = stage.client(port)
    assert is_reset(silent) and engine.stats(0)["timed_out"] == 1
    stage.client(port).close()  # a look whether we are alive
    gone(engine)
    assert engine.stats(0)["refused"] == 5
    good = stage.client(port)
    good.sendall(make_header(1, (("192.0.2.1", 1), ("203.0.113.1", 80))) + b"x")
    assert stage.accept(server).recv(9) == b"x"


@pytest.mark.parametrize("version", [1, 2])
def test_haproxy_understands_and_is_understood(stage, tmp_path, version):
    """Goal: through relay, haproxy and relay in a row, with headers between them, the daemon learns the first
    client."""
    engine, server = stage.engine(), stage.server()
    last = engine.listen(1, [address_of(server)], {"accept_proxy": True, "proxy": 1})
    middle = closed_port(stage)
    send = "send-proxy" if version == 1 else "send-proxy-v2"
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n"
        f"listen hop\n  bind 127.0.0.1:{middle[1]} accept-proxy\n  server next 127.0.0.1:{last} {send}\n")
    first = engine.listen(0, [middle], {"proxy": version})
    process = subprocess.Popen(["haproxy", "-db", "-f", config])
    try:
        until(lambda: not isinstance(answers(middle), OSError), 20, "haproxy")
        client = stage.client(first)
        client.sendall(b"through three")
        client.shutdown(socket.SHUT_WR)
        data = receive_all(stage.accept(server))
        assert parse_header(data)[1] == (client.getsockname(), ("127.0.0.1", first))
        assert data.endswith(b"\r\nthrough three")
    finally:
        process.terminate()
        process.wait()


def answers(address):
    try:
        socket.create_connection(address, 5).close()
    except OSError as error:
        return error
    return None


# ---- very many

class EchoServer(threading.Thread):
    """Echoes one byte of each connection and waits for its end."""

    def __init__(self, listener):
        super().__init__(daemon=True)
        self.listener = listener
        self.served = 0

    def run(self):
        while True:
            sock, _ = self.listener.accept()
            with sock:
                byte = sock.recv(1)
                if byte == b"q":
                    return
                sock.send(byte)
                self.served += 1


@pytest.mark.long
def test_100000_connections_leave_nothing_behind(stage):
    """Goal: descriptors, memory and counts are the same as before."""
    engine, listener = stage.engine(), stage.server()
    listener.settimeout(None)
    server = EchoServer(listener)
    server.start()
    port = engine.listen(0, [address_of(listener)], {"idle_timeout_us": 60 * SECOND_US})

    def connections(count, at_once):
        for _ in range(count // at_once):
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(at_once)]
            for client in clients:
                client.send(b"x")
            for client in clients:
                assert client.recv(2) == b"x"
                reset(client)

    connections(20_000, 1000)
    gone(engine)
    descriptors, memory = engine.footprint()
    connections(100_000, 100)
    gone(engine)
    now_descriptors, now_memory = engine.footprint()
    assert engine.stats(0)["total"] == server.served == 120_000 and engine.count() == 0
    assert now_descriptors == descriptors
    assert now_memory - memory < 300_000 + KEPT_BYTES
    socket.create_connection(address_of(listener)).sendall(b"q")
    server.join(10)
