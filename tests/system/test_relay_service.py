"""mproxy relay as a service: workers that die, rules that change, shutdown, running in the background."""

import contextlib
import os
import shlex
import signal
import socket
import stat
import time

import pytest
from lab import outage, until
from relays import (
    ECHO_PORT,
    MPROXY,
    RELAY,
    RELAY6,
    SERVER,
    SERVER6,
    Callers,
    echoes,
    exchange,
    is_served,
    start_echo,
    udp_client,
    udp_socket,
)
from traffic import ends_by_reset

from mproxy.keeper.signals import ONE_WISH_NS

RULE = f"7005 -> {SERVER}:{ECHO_PORT}"


@pytest.fixture
def echo(lab):
    return start_echo(lab.server)


def connect(lab, port=7005, address=RELAY):
    return lab.client.connect(port, address)


# ---- starting

@pytest.mark.parametrize("address", [RELAY, RELAY6])
@pytest.mark.parametrize("server", [SERVER, SERVER6])
def test_one_rule_of_the_command_line(lab, relay, echo, address, server):
    """Goal: PORT HOST HOST_PORT relays, from IPv4 and IPv6 to IPv4 and IPv6."""
    relay.start_with("7005", server, ECHO_PORT)
    assert is_served(lab.client, 7005, address)


def test_listening_address(lab, relay, echo):
    """Goal: a rule for one address is not reachable on another; a port chosen by the system is reported."""
    program = relay.start_with(f"{RELAY}:0", SERVER, ECHO_PORT)
    port = int(program.event("listening")["port"])
    assert is_served(lab.client, port)
    assert not is_served(lab.router, port, "127.0.0.1")


def test_wrong_lines_start_nothing(lab, relay, echo):
    """Goal: every wrong line is named, and none of the right ones is served."""
    program = relay.start(RULE, "7006 -> ", "sctp 1 -> a:1", ready=False)
    assert program.wait() == 2
    assert f"{relay.file}:2: nothing follows '->'; expected " in program.log.text
    assert f"{relay.file}:3: not a valid protocol: sctp; expected tcp, udp or tcp+udp" in program.log.text
    assert not is_served(lab.client, 7005)


def test_a_port_in_use_starts_nothing(lab, relay, echo):
    """Goal: the line whose port is taken is named; no other port stays open."""
    with lab.router.listen(7006, "0.0.0.0"):
        program = relay.start(RULE, f"7006 -> {SERVER}:1", ready=False)
        assert program.wait() == 1
    assert f"{relay.file}:2: cannot listen on tcp 7006: the port is in use" in program.log.text
    assert not is_served(lab.client, 7005)


def test_two_relays_on_one_port(lab, relay, echo):
    """Goal: a second relay cannot share a port by accident, in spite of SO_REUSEPORT, neither with TCP nor UDP."""
    relay.start_with("7005", SERVER, ECHO_PORT)
    relay.start_with("--udp", "7005", SERVER, ECHO_PORT)
    for words in ([], ["--udp"]):
        second = relay.start_with(*words, "7005", SERVER, ECHO_PORT, ready=False)
        assert second.wait() == 1
        assert "the port is in use" in second.log.text


def test_low_port_without_the_right(relay):
    """Goal: for a port below 1024 without root, the error says what is missing."""
    relay.host.run("sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024")
    program = relay.start_with(
        "80", SERVER, ECHO_PORT, ready=False,
        prefix=["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"])
    assert program.wait() == 1
    assert "ports below 1024 need root or CAP_NET_BIND_SERVICE" in program.log.text


def test_check(relay):
    """Goal: `check` says what is wrong, and starts nothing."""
    relay.write(RULE, "udp 53 -> 10.0.0.2:53")
    assert relay.command("check", relay.file) == (0, f"{relay.file}: 2 rules\n")
    relay.write(RULE, "7005 -> b:2")
    status, text = relay.command("check", relay.file)
    assert status == 2
    assert f"{relay.file}:2: tcp 7005 is already used on line 1" in text


def test_names_that_come_later(lab, relay, echo):
    """Goal: a name that does not resolve does not stop other rules, and is used as soon as it does; a changed address
    is followed."""
    program = relay.start(f"7006 -> backend.example:{ECHO_PORT}", RULE)
    assert program.event("not-resolved")["name"] == "backend.example"
    assert is_served(lab.client, 7005)
    assert not is_served(lab.client, 7006)
    assert "backend.example" in relay.status()["unresolved"]
    lab.router.knows(**{"backend.example": SERVER})
    program.event("resolved", within=60)
    until(lambda: is_served(lab.client, 7006), 10, "a worker that was told the address")


# ---- workers

def test_a_dead_worker_is_replaced(lab, relay, echo):
    """Goal: every connection goes on, counters are kept, callers are served by the successor."""
    program = relay.start(RULE, options=["--workers", "2"])
    connections = [connect(lab) for _ in range(20)]
    assert all(echoes(connection) for connection in connections)
    before = relay.status()
    busy = [worker for worker in before["workers"] if worker["connections"]]
    victim = busy[0]
    os.kill(victim["pid"], signal.SIGKILL)
    program.event("worker-died")
    assert all(echoes(connection) for connection in connections)
    assert program.event("taken-over")["connections"] == str(victim["connections"])
    assert is_served(lab.client, 7005)
    after = relay.status()
    assert after["totals"]["tcp"]["total"] == 21
    assert after["totals"]["tcp"]["connections"] == 20
    assert after["workers"][victim["worker"]]["deaths"] == 1
    assert after["workers"][victim["worker"]]["pid"] != victim["pid"]


@pytest.mark.parametrize("option", ["--ignore-signal=CHLD", "--block-signal"])
def test_what_the_caller_does_to_signals_is_its_own(lab, relay, echo, option):
    """Goal: a worker's death is noticed, and SIGTERM ends the relay, whatever signals its caller ignores or blocks."""
    program = relay.start(RULE, prefix=["env", option])
    os.kill(relay.workers()[0], signal.SIGKILL)
    program.event("worker-died")
    until(lambda: is_served(lab.client, 7005), 10, "the successor serves")
    assert program.stop() == 0


def let_in(lab, callers):
    """Opens so many connections; returns those that are relayed."""
    served = []
    for _ in range(callers):
        with contextlib.suppress(ConnectionError):  # reset before connect(2) returned
            connection = connect(lab)
            if echoes(connection):
                served.append(connection)
    return served


def test_a_limit_of_a_rule_holds_for_all_workers(lab, relay, echo):
    """Goal: `max=` admits exactly so many, whichever workers they meet, also after one of them has died."""
    program = relay.start(f"{RULE} max=5", options=["--workers", "3"])
    served = let_in(lab, 12)
    assert len(served) == 5
    busy = [worker for worker in relay.status()["workers"] if worker["connections"]]
    os.kill(busy[0]["pid"], signal.SIGKILL)
    program.event("worker-died")
    assert all(echoes(connection) for connection in served)
    served.pop().close()
    until(lambda: relay.status()["totals"]["tcp"]["connections"] == 4, 20, "one has ended")
    assert len(let_in(lab, 12)) == 1


def test_the_limit_of_the_relay_holds_for_all_workers(lab, relay, echo):
    """Goal: --max-connections admits exactly so many, over all rules and workers; later callers are not refused but
    wait, and are served as soon as others have gone, also after a worker has died."""
    rules = [RULE, f"7006 -> {SERVER}:{ECHO_PORT}"]
    program = relay.start(*rules, options=["--workers", "4", "--max-connections", "3"])
    served = [connect(lab, 7005 + number % 2) for number in range(3)]
    assert all(echoes(connection) for connection in served)
    waiting = [connect(lab, 7005 + number % 2) for number in range(4)]
    program.event("accept-paused")
    outage(1)  # more than one attempt to accept
    facts = relay.status()
    assert facts["totals"]["tcp"] | {"connections": 3, "total": 3, "refused": 0} == facts["totals"]["tcp"]
    served.pop().close()
    served.pop().close()
    until(lambda: relay.status()["totals"]["tcp"]["total"] == 5, 20, "two of those who wait are served")
    busy = [worker for worker in relay.status()["workers"] if worker["connections"]]
    os.kill(busy[0]["pid"], signal.SIGKILL)
    program.event("taken-over")
    assert relay.status()["totals"]["tcp"]["connections"] == 3
    for connection in served:
        connection.close()
    assert sum(echoes(connection) for connection in waiting) >= 3  # two ports: nobody knows which of the four


def test_a_worker_that_dies_young_again_and_again(lab, relay, echo):
    """Goal: the successor of a short-lived worker starts later each time, and callers are served all the same."""
    program = relay.start(RULE)
    for deaths in range(1, 5):
        os.kill(until(lambda: relay.workers()[0], 20, "a worker"), signal.SIGKILL)
        program.event("worker-died", count=deaths)
    delays = [event["restart"] for event in program.events("worker-died")]
    assert delays == ["now", "now", "0.1s", "0.2s"]
    until(lambda: is_served(lab.client, 7005), 20, "served again")


def test_callers_do_not_notice_a_death(lab, relay, echo):
    """Goal: a caller that comes while there is no worker waits in the listener's queue, and the successor serves it."""
    program = relay.start(RULE)
    [pid] = relay.workers()
    os.kill(pid, signal.SIGSTOP)
    connections = [connect(lab) for _ in range(20)]
    os.kill(pid, signal.SIGKILL)
    program.event("worker-died")
    assert all(echoes(connection) for connection in connections)


def test_a_lost_supervisor_frees_the_port(lab, relay, echo):
    """Goal: the workers of a killed supervisor release the port, so that the next relay can start."""
    program = relay.start(RULE, options=["--workers", "2"])
    connection = connect(lab)
    assert echoes(connection)
    program.signal(signal.SIGKILL)
    program.event("supervisor-lost", count=2)
    assert echoes(connection)
    relay.start(RULE)
    assert is_served(lab.client, 7005)


# ---- reload

def test_reload_under_load(lab, relay, echo):
    """Goal: no caller fails while rules are added, changed and removed, their own included, and connections go on."""
    relay.start(RULE, options=["--workers", "2"])
    connection = connect(lab)
    callers = Callers(lab.client, 7005)
    for turn in range(10):
        done = relay.reload(f"{7100 + turn} -> {SERVER}:{ECHO_PORT}", f"{RULE} max={1000 + turn}")
        assert done.startswith("2 rules: 1 added, 1 changed")
        callers.serve_more(20)
        assert is_served(lab.client, 7100 + turn)
    callers.finish()
    assert echoes(connection)
    assert not is_served(lab.client, 7100)
    assert relay.status()["reloads"] == 10


def test_reload_moves_a_port_to_other_addresses(lab, relay, echo):
    """Goal: the same port moves to one address, to one for each family, to every address: connections go on, and
    callers of each address are served when the command returns."""
    relay.start(RULE)
    connection = connect(lab)
    for rules, six in (([f"{RELAY}:{RULE}"], False), ([f"0.0.0.0:{RULE}", f"[::]:{RULE}"], True), ([RULE], True)):
        relay.reload(*rules)
        assert is_served(lab.client, 7005)
        assert is_served(lab.client, 7005, RELAY6) == six
        assert echoes(connection)


def test_a_removed_rule_keeps_its_connections(lab, relay, echo):
    """Goal: connections go on after their rule is removed; no new ones are accepted; its counters stay in the
    totals."""
    relay.start(RULE, f"7006 -> {SERVER}:{ECHO_PORT}")
    connection = connect(lab)
    assert echoes(connection)
    relay.reload(f"7006 -> {SERVER}:{ECHO_PORT}")
    assert not is_served(lab.client, 7005)
    assert echoes(connection)
    totals = relay.status()["totals"]["tcp"]
    assert (totals["total"], totals["connections"]) == (1, 1)


def test_reload_is_done_when_the_workers_are(lab, relay, echo):
    """Goal: when `reload` has returned, or the log says `reloaded`, only the new rules are in force."""
    program = relay.start(RULE)
    [worker] = relay.workers()
    relay.write(f"7006 -> {SERVER}:{ECHO_PORT}")
    os.kill(worker, signal.SIGSTOP)
    reloading = relay.host.start(MPROXY, "relay", "reload", "--pidfile", relay.pidfile, env=relay.environment)
    program.expect(" closed ", output=program.log)
    outage(0.5)
    assert reloading.running and not program.events("reloaded")
    os.kill(worker, signal.SIGCONT)
    assert reloading.wait() == 0
    assert not is_served(lab.client, 7005) and is_served(lab.client, 7006)


def test_a_changed_target_is_for_new_connections(lab, relay, echo):
    """Goal: after a reload new connections go to the new target, old ones stay with the old."""
    with lab.server.listen(8006, "0.0.0.0") as other:
        relay.start(RULE)
        connection = connect(lab)
        assert echoes(connection)
        relay.reload(f"7005 -> {SERVER}:8006")
        new = connect(lab)
        accepted, _ = other.accept()
        accepted.close()
        new.close()
        assert echoes(connection)


@pytest.mark.parametrize("bad, says", [
    ("7006 -> b", ":2: not a valid target: b; expected HOST:PORT"),
    ("192.0.2.1:7006 -> b:1", ":2: cannot listen on tcp 192.0.2.1:7006: this host has no such address"),
])
def test_a_bad_file_changes_nothing(lab, relay, echo, bad, says):
    """Goal: reloading a wrong file fails and names the line, and the former rules stay in force."""
    program = relay.start(RULE)
    relay.write(f"7007 -> {SERVER}:{ECHO_PORT}", bad)
    status, text = relay.command("reload", "--pidfile", relay.pidfile)
    assert status == 1
    assert says in text
    assert says in program.event("reload-failed")["why"]
    assert is_served(lab.client, 7005)
    assert not is_served(lab.client, 7007)
    assert says in relay.status()["last_reload_errors"][0]


def test_sighup_is_a_reload(lab, relay, echo):
    """Goal: SIGHUP does what reload does, and reopens the log file for logrotate."""
    log = relay.host.home / "relay.log"
    program = relay.start(RULE, options=["--log-file", log], ready=False)
    until(lambda: log.exists() and " ready " in log.read_text(), 20, "ready")
    log.rename(relay.host.home / "relay.log.1")
    relay.write(RULE, f"7006 -> {SERVER}:{ECHO_PORT}")
    program.signal(signal.SIGHUP)
    until(lambda: log.exists() and " reloaded " in log.read_text(), 20, "reloaded")
    assert is_served(lab.client, 7006)


# ---- the end

def test_stop_drains(lab, relay, echo):
    """Goal: after `stop` no new caller is served, open connections are finished, then the process ends with status
    0."""
    program = relay.start(RULE, options=["--workers", "2", "--drain-timeout", "60s"])
    connection = connect(lab)
    assert echoes(connection)
    program.signal(signal.SIGTERM)
    program.event("stopping")
    until(lambda: not is_served(lab.client, 7005), 10, "nobody new is served")
    assert echoes(connection)
    connection.close()
    assert program.wait(within=20) == 0
    assert not relay.pidfile.exists()
    assert list((relay.runtime / "mproxy").glob("relay-*")) == []


def test_drain_has_a_limit(lab, relay, echo):
    """Goal: a connection that never ends is cut after --drain-timeout, and the log says so."""
    program = relay.start(RULE, options=["--drain-timeout", "500ms"])
    connection = connect(lab)
    assert echoes(connection)
    status, text = relay.command("stop", "--pidfile", relay.pidfile)
    assert (status, text) == (0, "")
    assert ends_by_reset(connection)
    assert program.wait() == 0
    assert program.event("connections-cut")["connections"] == "1"


def test_second_signal_ends_at_once(lab, relay, echo):
    """Goal: a second signal ends the wait, but not one that came with the first."""
    program = relay.start(RULE, options=["--drain-timeout", "1h"])
    connection = connect(lab)
    assert echoes(connection)
    program.signal_at_once(signal.SIGTERM, signal.SIGINT)
    program.event("stopping")
    outage(ONE_WISH_NS / 1e9)
    assert echoes(connection)
    program.signal(signal.SIGTERM)
    assert program.wait() == 1
    assert not echoes(connection)


def test_a_successor_starts_while_its_predecessor_ends(lab, relay, echo):
    """Goal: while a relay stops, its port and pidfile are free at once, whatever connections it has left, and `status`
    finds the successor."""
    rules = RULE, f"udp {RULE}"
    former = relay.start(*rules, options=["--drain-timeout", "60s"])
    connection = connect(lab)
    assert echoes(connection)
    with udp_socket(lab.server, SERVER) as silent:
        silent.bind((SERVER, ECHO_PORT))
        udp_client(lab).send(b"unanswered: its flow keeps the port for a second")
        assert silent.recv(100)
    former.signal(signal.SIGTERM)
    former.event("stopping")
    until(lambda: not relay.pidfile.exists(), 10, "the pidfile is free")
    relay.start(*rules)
    assert is_served(lab.client, 7005) and echoes(connection)
    assert f"process {relay.started[-1].pid}, running" in relay.command("status")[1]
    connection.close()
    assert former.wait(within=20) == 0
    assert relay.status()["pid"] == relay.started[-1].pid


# ---- the background

def test_daemon(lab, relay, echo):
    """Goal: --daemon returns when it serves; its pidfile leads to it; a second one with the pidfile is refused; `stop`
    ends it."""
    relay.write(RULE)
    words = ["--config", relay.file, "--daemon", "--pidfile", relay.pidfile]
    assert relay.command(*words)[0] == 0
    assert is_served(lab.client, 7005)
    pid = int(relay.pidfile.read_text())
    assert relay.status()["pid"] == pid
    assert os.getpgid(pid) != os.getpgid(0)
    status, text = relay.command(*words)
    assert status == 1
    assert f"already running as process {pid}" in text
    assert relay.command("stop", "--pidfile", relay.pidfile) == (0, "")
    assert not is_served(lab.client, 7005)
    status, text = relay.command("status", "--pidfile", relay.pidfile)
    assert status == 1
    assert "is the relay running?" in text


def test_daemon_with_relative_paths(lab, relay, echo):
    """Goal: relative paths refer to the directory where the command was given, though the daemon leaves it."""
    relay.write(RULE)
    home = relay.host.home
    done = relay.host.start("env", "-C", home, MPROXY, "relay", "--config", relay.file.name, "--daemon", "--pidfile",
                            relay.pidfile.name, "--log-file", "relay.log", env=relay.environment)
    assert done.wait() == 0
    assert " ready " in (home / "relay.log").read_text()
    assert is_served(lab.client, 7005)
    relay.reload(RULE, f"7006 -> {SERVER}:{ECHO_PORT}")
    assert is_served(lab.client, 7006)
    assert relay.command("stop", "--pidfile", relay.pidfile) == (0, "")


@pytest.mark.parametrize("words", ["", "--log-file relay.log", "--workers 2"])
@pytest.mark.parametrize("errors", ["2>&1", "2>errors"])
def test_daemon_keeps_nothing_of_its_caller(lab, relay, echo, words, errors):
    """Goal: `$(...)` returns, the caller's lock is released, and no process holds the caller's files; a log that is
    redirected to a file still goes there."""
    relay.write(RULE)
    home = relay.host.home
    program = shlex.quote(str(MPROXY))
    run = f"{program} relay --config {relay.file} --daemon --pidfile {relay.pidfile} {words} {errors}"
    script = f"exec 9>lock 8</dev/zero; flock 9; out=$({run}); echo status $?; exec 9>&-; flock -n lock echo free"
    done = relay.host.start("env", "-C", home, "bash", "-c", script, env=relay.environment)
    assert done.wait(within=15) == 0
    assert done.out.text.split("\n") == ["status 0", "free", ""]
    assert is_served(lab.client, 7005)
    for pid in [int(relay.pidfile.read_text()), *relay.workers()]:
        names = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert not [name for name in names.values() if name.startswith("pipe:") or name.endswith(("lock", "zero"))]
        assert names["0"] == names["1"] == "/dev/null"
        to = "relay.log" if "log" in words else "errors" if errors == "2>errors" else "null"
        assert names["2"].endswith(to), names
    assert relay.command("stop", "--pidfile", relay.pidfile) == (0, "")


def test_daemon_that_cannot_start(lab, relay):
    """Goal: the caller sees the reason and a non-zero status."""
    relay.write(RULE)
    with lab.router.listen(7005, "0.0.0.0"):
        status, text = relay.command("--config", relay.file, "--daemon", "--pidfile", relay.pidfile)
    assert status == 1
    assert "the port is in use" in text
    assert not relay.pidfile.exists()


def test_stale_pidfile(lab, relay, echo):
    """Goal: the pidfile of a killed relay is recognised, even if its number is that of another process: commands say
    so, and a new relay takes it over."""
    program = relay.start(RULE)
    program.signal(signal.SIGKILL)
    program.wait()
    status, text = relay.command("status", "--pidfile", relay.host.home)
    assert status == 1
    assert "Is a directory" in text
    relay.pidfile.write_text(f"{os.getpid()}\n")
    for command in ("status", "reload", "stop"):
        status, text = relay.command(command, "--pidfile", relay.pidfile)
        assert status == 1
        assert "is stale" in text
    relay.start(RULE)
    assert is_served(lab.client, 7005)


# ---- the control socket

def test_control_socket_is_private(relay):
    """Goal: the socket is in a directory of mode 0700 in the runtime directory."""
    program = relay.start(RULE)
    directory = relay.runtime / "mproxy"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_ISSOCK((directory / f"relay-{program.pid}.sock").stat().st_mode)


def test_strange_requests(relay):
    """Goal: nonsense on the control socket ends only its own connection."""
    program = relay.start(RULE)
    path = str(relay.runtime / "mproxy" / f"relay-{program.pid}.sock")
    for request in (b"\n", b"[]\n", b'{"command": 3}\n', b"x" * 10_000, b""):
        with socket.socket(socket.AF_UNIX) as sock:
            fd = os.open(os.path.dirname(path), os.O_PATH)
            sock.connect(f"/proc/self/fd/{fd}/{os.path.basename(path)}")
            os.close(fd)
            sock.settimeout(15)
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            try:
                answer = sock.recv(4096)
            except ConnectionResetError:
                answer = b""
            assert answer == b"" or b"unknown command" in answer or b"not a request" in answer
    assert relay.status()["state"] == "running"


# ---- many

def test_ten_thousand_rules(lab, relay, echo):
    """Goal: ten thousand rules are served within seconds, with one descriptor each, and reloading them all is quick."""
    rules = [f"{port} -> {SERVER}:{ECHO_PORT}" for port in range(10_001, 20_001)]
    started = time.monotonic()
    relay.start(*rules)
    assert time.monotonic() - started < 20
    assert is_served(lab.client, 10_001)
    assert is_served(lab.client, 20_000)
    assert len(relay.status()["rules"]) == 10_000
    assert relay.reload(*rules[:5000], RULE).startswith("5001 rules: 1 added, 0 changed, 5000 removed")
    assert is_served(lab.client, 7005)
    assert not is_served(lab.client, 20_000)


def test_no_descriptors_left(lab, relay, echo):
    """Goal: without descriptors accepting pauses, with one log line; callers are served as soon as others have gone."""
    program = relay.start(RULE, prefix=["prlimit", "--nofile=100"])
    connections = []
    while not program.events("accept-paused"):
        connections.append(connect(lab))
        outage(0.01)
        assert len(connections) < 200
    waiting = [connect(lab) for _ in range(5)]
    outage(1.5)  # more than one attempt to accept
    assert len(program.events("accept-paused")) == 1
    for connection in connections:
        connection.close()
    assert all(echoes(connection) for connection in waiting)
    program.event("accept-resumed")


# ---- UDP

@pytest.fixture
def udp_server(lab):
    with udp_socket(lab.server, SERVER) as sock:
        sock.bind((SERVER, ECHO_PORT))
        yield sock


def test_udp_sessions_go_on_over_a_reload(lab, relay, udp_server):
    """Goal: with several workers each client keeps its flow through reloads, and through the death of a worker."""
    program = relay.start(f"udp {RULE}", options=["--workers", "2"])
    clients = [udp_client(lab) for _ in range(20)]
    seen = [exchange(client, udp_server) for client in clients]
    assert len(set(seen)) == 20
    relay.reload(f"udp {RULE} timeout=2m", f"udp 7006 -> {SERVER}:{ECHO_PORT}")
    assert [exchange(client, udp_server) for client in clients] == seen
    facts = relay.status()
    assert facts["rules"][0]["counters"]["sessions"] == 20
    sessions = [worker["sessions"] for worker in facts["workers"]]
    assert sum(sessions) == 20
    assert min(sessions) > 0
    os.kill(facts["workers"][0]["pid"], signal.SIGKILL)
    program.event("worker-died")
    assert [exchange(client, udp_server) for client in clients] == seen
    facts = relay.status()
    assert facts["rules"][0]["counters"]["sessions"] == 20
    assert facts["rules"][0]["counters"]["total"] == 20


def test_silent_clients_of_the_control_socket_block_nobody(lab, relay, echo):
    """Goal: `status` and `reload` answer even if there are more silent clients than places."""
    program = relay.start(RULE)
    silent = []
    for _ in range(40):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(relay.runtime / "mproxy" / f"relay-{program.pid}.sock"))
        silent.append(sock)
    assert relay.status()["state"] == "running"
    relay.reload(RULE, f"7006 -> {SERVER}:{ECHO_PORT}")
    for sock in silent:
        sock.close()
