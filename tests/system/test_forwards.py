"""cproxy -L and -D: many forwards in one session, unix sockets on either end, and SOCKS, with real programs."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading

import pytest
from lab import until
from mortal import kill_worker
from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY_PORT, state_dir
from traffic import ends_by_reset, is_turned_away, read_exactly, read_pattern, read_to_end, send_pattern

from mproxy.policy.keys import public_line
from tests import keys

OTHER_PORT, SOCKS_PORT, WEB_PORT = 8001, 1080, 8080


def authorize(lab, options=""):
    """The client's key is in sproxy's list."""
    file = state_dir(lab.server) / "authorized_keys"
    file.touch(mode=0o600)
    file.write_text(f"{options}{public_line(keys.context(2, True).spki)}\n")


def start(pair, *options, listening=1, **popen):
    """A cproxy with forwards, and no port of its own."""
    pair.cproxy = pair.lab.client.start(CPROXY, *pair.options, *options, pair.lab.server_address, SPROXY_PORT, **popen)
    pair.started.append(pair.cproxy)
    pair.cproxy.event("listening", listening)
    return pair.cproxy


def echoed(connection, text=b"hello"):
    connection.sendall(text)
    return read_exactly(connection, len(text)) == text


def at_path(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(15)
    connection.connect(str(path))
    return connection


def through_socks(host, target, port, more=b""):
    """A connection to `target`, a name, through the SOCKS port; `more` is sent without waiting for an answer."""
    connection = host.connect(SOCKS_PORT)
    name = target.encode()
    connection.sendall(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2) + more)
    assert read_exactly(connection, 12) == b"\x05\x00\x05\x00\x00\x01" + bytes(6)
    return connection


def web(lab, name="page.html", size=300_000):
    """A web server on the server's own address, reached by others as `intranet`."""
    place = lab.server.home / "www"
    place.mkdir()
    (place / name).write_bytes(os.urandom(size))
    lab.server.knows(intranet=lab.server_address)
    server = lab.server.start(sys.executable, "-m", "http.server", "--bind", lab.server_address, "--directory", place,
                              WEB_PORT)
    until(lambda: answers(lab.server, WEB_PORT, lab.server_address), 20, "the web server listens")
    return server, (place / name).read_bytes()


def answers(host, port, address):
    try:
        host.connect(port, address).close()
    except OSError:
        return False
    return True


def curl(host, *arguments):
    """What curl fetched, and its exit status."""
    done = subprocess.run(host.entering(["curl", "-sS", "--max-time", 30, *arguments]), env=host.environment(),
                          capture_output=True, timeout=60, check=False)
    return done.stdout, done.returncode


# ---- -L

def test_many_forwards_in_one_session(pair, lab, tmp_path):
    """Goal: ports and paths, each with its own daemon, beside the port of the present form, all in one session."""
    pair.echo()
    pair.peer("count", OTHER_PORT, 0.05)
    pair.start_sproxy("--allow", f"127.0.0.1:{OTHER_PORT}")
    path = tmp_path / "forward.sock"
    start(pair, "-L", f"7001:127.0.0.1:{OTHER_PORT}", "-L", f"{path}:127.0.0.1:{DAEMON_PORT}", CPROXY_PORT, listening=4)
    assert echoed(pair.app())
    assert read_exactly(lab.client.connect(7001), 4) == b"0\n1\n"
    assert echoed(at_path(path))
    assert len(pair.sproxy.events("connected")) == 1
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert pair.cproxy.stop() == 0
    assert not path.exists()


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(pair, tmp_path):
    path = tmp_path / "forward.sock"
    pair.echo()
    pair.start_sproxy()
    forward = f"{path}:127.0.0.1:{DAEMON_PORT}"
    first = start(pair, "--no-keeper", "-L", forward)
    second = pair.lab.client.start(CPROXY, *pair.options, "-L", forward, pair.lab.server_address, SPROXY_PORT)
    assert second.process.wait(timeout=20) == 1
    assert f"cannot listen on {path}" in second.log.text
    first.stop(signal.SIGKILL)
    assert path.exists()
    start(pair, "-L", forward)
    assert echoed(at_path(path))
    path.unlink()
    path.write_text("somebody else's")
    pair.cproxy.stop()
    assert path.read_text() == "somebody else's"


def test_a_daemon_at_a_path(pair, lab, tmp_path):
    """Goal: every byte both ways, and both ends; a path that is not allowed, or where nobody listens, is a reset."""
    path, absent = tmp_path / "daemon.sock", tmp_path / "absent.sock"
    pair.start_sproxy("--allow", path, "--allow", absent)
    start(pair, "-L", f"7001:{path}", "-L", f"7002:{absent}", "-L", f"7003:{tmp_path}/else", listening=6)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(15)
        app = lab.client.connect(7001)
        app.sendall(b"?")
        daemon, _ = listener.accept()
        daemon.settimeout(15)
        assert read_exactly(daemon, 1) == b"?"
        sender = threading.Thread(target=send_pattern, args=(daemon, 1_000_000))
        sender.start()
        read_pattern(app, 1_000_000)
        sender.join()
        daemon.shutdown(socket.SHUT_WR)
        assert read_to_end(app) == b""
        app.sendall(b"last words")
        app.shutdown(socket.SHUT_WR)
        assert read_to_end(daemon) == b"last words"
    assert is_turned_away(lab.client, 7002)
    assert pair.sproxy.event("daemon-unreachable")["why"] == "No such file or directory"
    assert is_turned_away(lab.client, 7003)
    assert pair.sproxy.event("refused")["why"] == "target is not allowed"


def test_only_real_users_of_a_path(pair, lab, tmp_path):
    """Goal: socat from a unix socket through a port to a unix socket."""
    here, there = tmp_path / "here.sock", tmp_path / "there.sock"
    lab.server.start("socat", f"UNIX-LISTEN:{there},fork", "EXEC:cat")
    until(there.exists, 10, "socat listens")
    pair.start_sproxy("--allow", there)
    start(pair, "-L", f"{here}:{there}")
    assert lab.client.run("socat", "-t10", "-", f"UNIX-CONNECT:{here}", input="over and back") == "over and back"


# ---- -D

@pytest.mark.parametrize("way", ["socks5h", "socks4a"])
def test_curl_through_socks(pair, lab, way):
    """Goal: names are known to sproxy's host alone; the page arrives whole."""
    authorize(lab)
    _server, page = web(lab)
    pair.start_sproxy("--allow", f"*:{WEB_PORT}")
    start(pair, "-D", SOCKS_PORT, listening=2)
    assert curl(lab.client, "--proxy", f"{way}://127.0.0.1:{SOCKS_PORT}",
                f"http://intranet:{WEB_PORT}/page.html") == (page, 0)
    assert curl(lab.client, "--proxy", f"{way}://127.0.0.1:{SOCKS_PORT}",
                f"http://intranet:{WEB_PORT}/page.html", "-H", "X: y") == (page, 0)
    assert len(pair.sproxy.events("connected")) == 1


def test_a_star_counts_for_listed_keys_and_hosts_elsewhere(pair, lab):
    """Goal: without authorized_keys it is no open proxy; with them this host's own daemons need a name in --allow."""
    pair.echo()
    pair.echo(OTHER_PORT)
    pair.start_sproxy("--allow", "*:*", "--allow", f"localhost:{OTHER_PORT}")
    start(pair, "-D", SOCKS_PORT, listening=2)
    assert ends_by_reset(through_socks(lab.client, lab.server_address, WEB_PORT))
    assert "only for keys in authorized_keys" in pair.sproxy.event("refused")["why"]
    assert echoed(through_socks(lab.client, "localhost", OTHER_PORT))
    pair.cproxy.stop()
    pair.sproxy.stop()
    authorize(lab)
    web(lab)
    pair.start_sproxy("--allow", "*:*", "--allow", f"localhost:{OTHER_PORT}")
    start(pair, "-D", SOCKS_PORT, listening=2)
    assert echoed(through_socks(lab.client, "localhost", OTHER_PORT))
    for host in ("127.0.0.1", "127.1", "localhost", "169.254.169.254", "0.0.0.0", "::1", "::ffff:127.0.0.1"):
        assert ends_by_reset(through_socks(lab.client, host, OTHER_PORT + 1)), host
    assert "must be named by --allow" in pair.sproxy.event("daemon-unreachable")["why"]
    connection = through_socks(lab.client, "intranet", WEB_PORT, b"HEAD / HTTP/1.0\r\n\r\n")
    assert read_to_end(connection).startswith(b"HTTP/1.0 200")


def test_hostile_greetings_cost_their_own_connection_only(pair, lab):
    """Goal: whoever talks nonsense, or says nothing, in whatever number, is no harm to others."""
    pair.echo()
    pair.start_sproxy()
    start(pair, "-D", SOCKS_PORT, listening=2)
    served = through_socks(lab.client, "127.0.0.1", DAEMON_PORT, b"early")
    assert read_exactly(served, 5) == b"early"
    silent = [lab.client.connect(SOCKS_PORT) for _ in range(600)]
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x05\x01\x00\x05\x02\x00\x01" + bytes(6), b"\x04" + b"x" * 5000,
                  b"\x05\xff" + b"\x00" * 255 + b"\x05\x01\x00\x03\xff" + b"\xff" * 255 + b"\x00\x50", b"\x05", b""):
        hostile = lab.client.connect(SOCKS_PORT)
        hostile.sendall(words)
        hostile.shutdown(socket.SHUT_WR)
        hostile.settimeout(15)
        try:
            read_to_end(hostile)
        except ConnectionResetError:
            pass
    assert read_to_end(silent[0]) == b"", "it gave way"
    assert echoed(served) and echoed(through_socks(lab.client, "127.0.0.1", DAEMON_PORT))
    assert pair.cproxy.event("socks-refused")


# ---- deaths

@pytest.fixture
def both_kept(pair, lab):
    """cproxy with a port, a forward and SOCKS, sproxy with a daemon; both have keepers."""
    pair.echo()
    pair.start_sproxy("--keeper")
    start(pair, "--keeper", "-D", SOCKS_PORT, "-L", f"7001:127.0.0.1:{DAEMON_PORT}", listening=4)
    return pair


def test_forwards_outlive_the_worker(both_kept, lab):
    """Goal: connections that came in through -L and -D go on, as does one that nobody had greeted yet."""
    forwarded, named = lab.client.connect(7001), through_socks(lab.client, "127.0.0.1", DAEMON_PORT)
    assert echoed(forwarded) and echoed(named)
    silent = lab.client.connect(SOCKS_PORT)
    for _ in range(5):
        kill_worker(both_kept.cproxy)
        assert echoed(named, b"again" * 1000) and echoed(forwarded)
        kill_worker(both_kept.sproxy)
        assert echoed(named) and echoed(forwarded, b"again" * 1000)
    silent.sendall(b"\x04\x01" + DAEMON_PORT.to_bytes(2) + bytes([127, 0, 0, 1, 0]))
    assert read_exactly(silent, 8) == b"\x00\x5a" + bytes(6)
    assert echoed(silent)
    kill_worker(both_kept.cproxy)
    assert echoed(silent)
    for connection in (forwarded, named, silent):
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b"bye"
    assert not [event for event in both_kept.cproxy.events("taken-over") if "lost" in event.fields]


def test_what_does_not_outlive_the_worker(both_kept, lab):
    """Goal: an application in the middle of its greeting is reset, and can come again."""
    connection = lab.client.connect(SOCKS_PORT)
    connection.sendall(b"\x05\x01\x00")
    assert read_exactly(connection, 2) == b"\x05\x00"
    kill_worker(both_kept.cproxy)
    assert ends_by_reset(connection)
    assert echoed(through_socks(lab.client, "127.0.0.1", DAEMON_PORT))


# ---- sproxy --send-proxy

def read_line(connection):
    line = b""
    while not line.endswith(b"\r\n"):
        line += read_exactly(connection, 1)
    return line


def carrier_of(pair):
    """The line that version 1 has for the newest carrier of the newest session."""
    fields = pair.sproxy.events("connected")[-1]
    (client, client_port), (here, port) = (fields[name].rsplit(":", 1) for name in ("peer", "local"))
    return f"PROXY TCP4 {client} {here} {client_port} {port}\r\n".encode()


@pytest.mark.parametrize("options", [[], ["--source-per-key"]])
def test_a_daemon_is_told_where_the_client_comes_from(pair, lab, options):
    """Goal: before the application's first byte, also one that was there before the daemon answered; once a stream."""
    with lab.server.listen(DAEMON_PORT) as listener:
        pair.start(sproxy=["--send-proxy", "v1", *options])
        for _ in range(3):
            app = pair.app()
            app.sendall(b"words")
            daemon, address = listener.accept()
            daemon.settimeout(15)
            assert read_line(daemon) == carrier_of(pair)
            assert read_exactly(daemon, 5) == b"words"
            assert (address[0] != "127.0.0.1") == bool(options)


def test_told_daemons_outlive_the_worker(pair, lab):
    """Goal: what a daemon is told counts for no stream, whoever goes on with it; version 2."""
    with lab.server.listen(DAEMON_PORT) as listener:
        pair.start_sproxy("--keeper", "--send-proxy", "v2")
        pair.start_cproxy()
        app = pair.app()
        app.sendall(b"?")
        daemon, _ = listener.accept()
        daemon.settimeout(15)
        assert read_exactly(daemon, 28).startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c")
        assert read_exactly(daemon, 1) == b"?"
        for _ in range(5):
            kill_worker(pair.sproxy)
            app.sendall(b"to the daemon")
            assert read_exactly(daemon, 13) == b"to the daemon"
            daemon.sendall(b"to the application")
            assert read_exactly(app, 18) == b"to the application"
        daemon.close()
        assert read_to_end(app) == b""
    assert not [event for event in pair.sproxy.events("taken-over") if "lost" in event.fields]
