"""Options that change what the programs do: --single, --allow, --plain, limits, --version and --help."""

import json
import os
import re
import time

import pytest
from lab import SLOWNESS_S, until
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from traffic import ends_by_reset, read_exactly, read_to_end


@pytest.fixture
def daemon(lab):
    with lab.server.listen(DAEMON_PORT) as listener:
        yield listener


def is_served(connect, *where):
    """True if the echo daemon answers on the connection that `connect(*where)` makes, False if it is reset."""
    try:
        app = connect(*where)
        app.sendall(b"hello")
        return read_exactly(app, 5) == b"hello"
    except ConnectionError:
        return False


def test_single_lets_the_new_session_replace_the_old(pair, daemon):
    """Goal: `--single`: a second cproxy takes the place of the first; the first one's daemon connections end, its
    applications too, and the second is served."""
    pair.start(sproxy=["--single"])
    app, connection = pair.joined(daemon)
    first = pair.cproxy
    pair.start_cproxy("--eager", port=CPROXY_PORT + 1)
    assert ends_by_reset(connection)
    assert ends_by_reset(app)
    assert first.event("ended")["why"]
    second = pair.lab.client.connect(CPROXY_PORT + 1)
    second.sendall(b"mine")
    accepted, _ = daemon.accept()
    accepted.settimeout(15)
    assert read_exactly(accepted, 4) == b"mine"


@pytest.mark.parametrize(("target", "allowed"), [
    ("127.0.0.1:8001", True), ("[::1]:8001", False), ("127.0.0.1:8002", False), ("localhost:8001", False),
    (f"127.0.0.1:{DAEMON_PORT}", True)])
def test_target_must_be_allowed(pair, target, allowed):
    """Goal: the client may ask only for the default daemon and those that sproxy allows, however others are spelt."""
    pair.echo()
    pair.echo(8001)
    pair.start(sproxy=["--allow", "127.0.0.1:8001", "--allow", "[::1]:9999"], cproxy=["--target", target])
    assert is_served(pair.app) == allowed


@pytest.mark.parametrize("way", ["default", "allowed"])
def test_a_daemon_with_a_silent_address_is_reached_at_the_next(pair, lab, way):
    """Goal: as in RFC 8305, the next address is tried beside the silent one after a quarter of a second, and so on; the
    streams that wait lose nothing."""
    lab.server.knows(**{"daemon.example": "127.0.0.2 127.0.0.3 127.0.0.1"})
    lab.server.run("nft", "add", "table", "ip", "dead")
    lab.server.run("nft", "add", "chain", "ip", "dead", "in", "{ type filter hook input priority 0; }")
    lab.server.run("nft", "add rule ip dead in ip daddr { 127.0.0.2, 127.0.0.3 } tcp dport 8001 drop")
    pair.echo(8001)
    if way == "default":
        pair.start(daemon="daemon.example:8001")
    else:
        pair.start(sproxy=["--allow", "daemon.example:8001"], cproxy=["--target", "daemon.example:8001"])
    assert is_served(pair.app)  # the session begins with it
    started = time.monotonic()
    assert is_served(pair.app)
    assert time.monotonic() - started < 1.5 + SLOWNESS_S


def test_nothing_is_allowed_by_default(pair):
    """Goal: without --allow only the default daemon can be reached."""
    pair.echo()
    pair.echo(8001)
    pair.start(cproxy=["--target", "127.0.0.1:8001"])
    assert not is_served(pair.app)
    pair.start_cproxy(port=CPROXY_PORT + 1)
    assert is_served(pair.app, CPROXY_PORT + 1)


@pytest.mark.parametrize("plain", ["cproxy", "sproxy"])
def test_plain_is_a_bare_relay(pair, daemon, plain):
    """Goal: one proxy alone relays data, half-close and reset, without any protocol."""
    if plain == "cproxy":
        daemon.close()
        daemon = pair.lab.server.listen(DAEMON_PORT, "0.0.0.0")
        pair.start_cproxy("--plain", server_port=DAEMON_PORT)
        connect = pair.app
    else:
        pair.start_sproxy("--plain")

        def connect():
            return pair.lab.client.connect(SPROXY_PORT, pair.lab.server_address)
    app = connect()
    app.sendall(b"question")
    connection, _ = daemon.accept()
    connection.settimeout(15)
    assert read_exactly(connection, 8) == b"question"
    connection.sendall(b"part one, ")
    assert read_exactly(app, 10) == b"part one, "
    for half, other in ((app, connection), (connection, app)):
        half.shutdown(1)
        assert read_to_end(other) == b""
    app = connect()
    connection, _ = daemon.accept()
    connection.close()
    assert read_to_end(app) == b""


def test_plain_does_not_survive(pair):
    """Goal: --plain promises nothing: when the daemon dies the application sees it, and the next one is refused."""
    pair.start_sproxy("--plain")
    assert not is_served(pair.lab.client.connect, SPROXY_PORT, pair.lab.server_address)


@pytest.mark.parametrize(("bind", "there", "not_there"), [
    (["127.0.0.1"], "127.0.0.1", "::1"), (["::1"], "::1", "127.0.0.1"),
    (["127.0.0.3", "[::1]"], "127.0.0.3", "127.0.0.1")])
def test_bind_chooses_the_addresses(pair, bind, there, not_there):
    """Goal: it listens only on the addresses that were named; `[addr]` and `addr` are the same."""
    pair.echo()
    pair.start(cproxy=[word for address in bind for word in ("--bind", address)])
    assert is_served(pair.lab.client.connect, CPROXY_PORT, there)
    with pytest.raises(ConnectionRefusedError):
        pair.lab.client.connect(CPROXY_PORT, not_there)


@pytest.mark.parametrize(("host", "address"), [
    ("[::1]", "::1"), ("localhost", "127.0.0.1"), ("127.9.9.9", "127.9.9.9")])
def test_daemon_by_name_and_family(pair, host, address):
    """Goal: the daemon's HOST:PORT may be IPv6, IPv4 or a name."""
    with pair.lab.server.listen(DAEMON_PORT, address) as listener:
        pair.start(daemon=f"{host}:{DAEMON_PORT}")
        pair.joined(listener)


def test_listening_addresses_by_default(pair):
    """Goal: cproxy listens on loopback alone, since whoever reaches it may use the daemon; sproxy on every address."""
    pair.echo()
    pair.start()
    with pytest.raises(ConnectionRefusedError):
        pair.lab.server.connect(CPROXY_PORT, pair.lab.wifi.address(2))
    for address in (pair.lab.core.address(2), pair.lab.core.address6(2)):
        pair.lab.client.connect(SPROXY_PORT, address).close()


def test_port_zero_is_any_free_port(pair):
    """Goal: with PORT 0 the log line `listening` names the port, the same for every address."""
    pair.echo()
    pair.start_sproxy(port=0)
    sproxy_port = int(pair.sproxy.event("listening")["port"])
    pair.start_cproxy(port=0, server_port=sproxy_port)
    assert is_served(pair.app, int(pair.cproxy.event("listening")["port"]))
    assert len({event["port"] for event in pair.cproxy.events("listening")}) == 1


def test_streams_beyond_the_limit_are_reset(pair, daemon):
    """Goal: beyond --max-streams a stream is reset, the others go on, and a free place is used again."""
    pair.start(sproxy=["--max-streams", "2"])
    pairs = [pair.joined(daemon) for _ in range(2)]
    assert not is_served(pair.app)
    for app, connection in pairs:
        connection.sendall(b"still here")
        assert read_exactly(app, 10) == b"still here"
    app, connection = pairs.pop()
    app.close()
    connection.close()
    until(lambda: pair.cproxy.running and try_joined(pair, daemon), 5, "a free place")


def try_joined(pair, daemon):
    daemon.settimeout(0.3)
    try:
        app = pair.app()
        app.sendall(b"?")
        daemon.accept()[0].close()
    except OSError:
        return False
    return True


def test_sessions_beyond_the_limit_are_refused(pair, daemon):
    """Goal: beyond --max-sessions a newcomer is refused, with the reason in both logs, and no other session ends."""
    pair.start(sproxy=["--max-sessions", "1"])
    app, connection = pair.joined(daemon)
    second = pair.start_cproxy("--eager", port=CPROXY_PORT + 1)
    assert pair.sproxy.event("refused")["why"]
    assert "reached its limit of" in second.event("dial-failed")["why"]
    connection.sendall(b"untouched")
    assert read_exactly(app, 9) == b"untouched"


def test_json_log_has_one_object_a_line(pair, daemon):
    """Goal: --log-format json: each line is an object with time, level, event; the session's events are there."""
    pair.start_sproxy()
    pair.cproxy = pair.lab.client.start(
        CPROXY, "--log-format", "json", CPROXY_PORT, pair.lab.server_address, SPROXY_PORT)
    pair.cproxy.expect('"event":"listening"', output=pair.cproxy.log)
    app, _ = pair.joined(daemon)
    app.close()
    assert pair.cproxy.stop() == 0
    entries = [json.loads(line) for _, line in pair.cproxy.log.lines]
    assert all({"time", "level", "event"} <= entry.keys() for entry in entries)
    assert {"listening", "connected", "ended", "stopping"} <= {entry["event"] for entry in entries}


def test_whole_session_is_a_handful_of_lines(pair):
    """Goal: at the default level a hundred connections and an address change give a few lines, never payload."""
    pair.echo()
    pair.start(cproxy=("--carrier", "tcp"))
    for _ in range(100):
        app = pair.app()
        app.sendall(b"hello")
        assert read_exactly(app, 5) == b"hello"
        app.close()
    pair.lab.wifi.pull()
    pair.lab.wifi.give(4)
    pair.cproxy.event("resumed")
    assert pair.cproxy.stop() == 0
    pair.sproxy.event("ended")
    for proxy in (pair.cproxy, pair.sproxy):
        assert len(proxy.log.lines) <= 15, str(proxy)
        assert "hello" not in proxy.log.text
    resumed, last = pair.cproxy.event("resumed"), pair.cproxy.event("ended")
    assert re.fullmatch(r"\d+\.\d{3}s", resumed["after"])
    assert resumed["session"] == last["session"]
    assert (last["sent"], last["received"]) == ("500", "500")


@pytest.mark.parametrize("program", [CPROXY, SPROXY], ids=["cproxy", "sproxy"])
def test_program_tells_about_itself(lab, program):
    """Goal: --version and --help answer on stdout with status 0, from any directory and through a symlink."""
    link = lab.client.home / "link"
    os.symlink(program, link)
    version = lab.client.start(link, "--version")
    assert version.wait() == 0
    assert re.fullmatch(rf"{program.name} \d+\.\d+\S*\n", version.out.text)
    usage = lab.client.start(link, "--help")
    assert usage.wait() == 0
    assert "examples:" in usage.out.text
