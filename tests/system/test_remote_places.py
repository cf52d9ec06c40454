"""cproxy -R: sproxy listens, and what connects there reaches a target beside cproxy, whatever happens in between."""

import os
import random
import signal
import socket
import subprocess
import sys

import pytest
from builds import Build
from conversations import PATIENCE_S, Meeting, MixedLoad, still_joined
from lab import until
from mortal import Reaper, kill_worker
from openssh import NEEDS_SSHD, SSHD, SSHD_PORT, ssh_options
from proxies import CPROXY, CPROXY_PORT, PEERS, SPROXY, SPROXY_PORT
from relays import MPROXY
from test_forwards import authorize, echoed
from test_sproxy_outlives import KEPT
from traffic import ends_by_reset, is_turned_away, read_exactly, read_pattern, read_to_end, send_pattern

PLACE, TARGET_PORT = 9000, 3000


def start(pair, *options, prefix=(), **popen):
    """A cproxy with places at sproxy, and no port of its own."""
    pair.cproxy = pair.lab.client.start(*prefix, CPROXY, *pair.options, *options, pair.lab.server_address, SPROXY_PORT,
                                        **popen)
    pair.started.append(pair.cproxy)
    return pair.cproxy


def echo(lab, port=TARGET_PORT):
    """A target beside cproxy."""
    daemon = lab.client.start(sys.executable, "-S", PEERS, "echo", port)
    daemon.expect("^ready$")


def listens_at(lab, port):
    """The server's addresses with a listener on that port."""
    lines = lab.server.run("ss", "-Hltn", f"sport = :{port}").splitlines()
    return sorted(line.split()[3].rpartition(":")[0] for line in lines)


def accepts(path):
    """Whether somebody listens at that path."""
    with socket.socket(socket.AF_UNIX) as visitor:
        return visitor.connect_ex(str(path)) == 0


@pytest.fixture
def served(pair, lab):
    """A place at sproxy that leads to an echo beside cproxy."""
    echo(lab)
    pair.start_sproxy("--allow-listen", PLACE)
    start(pair, "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}").event("remote-listening")
    return pair


# ---- what it does

def test_who_connects_at_sproxy_reaches_a_target_beside_cproxy(served, lab):
    connections = [lab.server.connect(PLACE) for _ in range(20)] + [lab.server.connect(PLACE, "::1")]
    for connection in connections:
        assert echoed(connection)
    for connection in connections:
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""
    event = served.cproxy.event("remote-listening")
    assert (event["at"], event["target"]) == (f"127.0.0.1:{PLACE} and [::1]:{PLACE}", f"127.0.0.1:{TARGET_PORT}")
    assert len(served.sproxy.events("connected")) == 1


def test_every_byte_both_ways_and_both_ends(pair, lab):
    pair.start_sproxy("--allow-listen", PLACE)
    with lab.client.listen(TARGET_PORT) as target:
        start(pair, "-R", f"{PLACE}:localhost:{TARGET_PORT}").event("remote-listening")
        visitor = lab.server.connect(PLACE)
        visitor.sendall(b"first words")
        daemon, _ = target.accept()
        daemon.settimeout(15)
        assert read_exactly(daemon, 11) == b"first words"
        send_pattern(daemon, 1_000_000)
        daemon.shutdown(socket.SHUT_WR)
        read_pattern(visitor, 1_000_000)
        assert read_to_end(visitor) == b""
        visitor.sendall(b"last words")
        visitor.shutdown(socket.SHUT_WR)
        assert read_to_end(daemon) == b"last words"
    assert is_turned_away(lab.server, PLACE), "nobody listens beside cproxy any more"
    assert pair.cproxy.event("target-unreachable")["why"] == "Connection refused"


def test_paths_on_either_side(pair, lab, tmp_path):
    here, there = tmp_path / "here.sock", tmp_path / "there.sock"
    echo(lab)
    pair.start_sproxy("--allow-listen", there, "--allow-listen", PLACE)
    lab.client.start("socat", f"UNIX-LISTEN:{here},fork", "EXEC:cat")
    until(lambda: accepts(here), 10, "socat listens")
    start(pair, "-R", f"{there}:127.0.0.1:{TARGET_PORT}", "-R", f"{PLACE}:{here}").event("remote-listening", 2)
    assert echoed(lab.server.connect(PLACE))
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.settimeout(15)
        visitor.connect(str(there))
        assert echoed(visitor)
    assert pair.cproxy.stop() == 0
    until(lambda: not there.exists(), 10, "the socket's file is removed")


def test_beside_other_forwards_and_a_port(pair, lab):
    pair.echo()
    echo(lab)
    pair.start_sproxy("--allow-listen", "*:*")
    start(pair, "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}", "-D", 1080, CPROXY_PORT)
    refused = pair.cproxy.event("remote-refused")
    assert "does not allow" in refused["why"], "a * is for keys that are listed"
    assert echoed(pair.app())
    assert pair.sproxy.event("remote-refused")["at"] == f"localhost:{PLACE}"


# ---- bind addresses, as ssh has them

SSH_PLACE = PLACE + 1


BINDS = pytest.mark.parametrize("bind, expected", [
    ("", ["127.0.0.1", "[::1]"]), ("localhost:", ["127.0.0.1", "[::1]"]), ("127.0.0.1:", ["127.0.0.1"]),
    ("[::1]:", ["[::1]"]), ("*:", ["0.0.0.0", "[::]"]), (":", ["0.0.0.0", "[::]"]), ("0.0.0.0:", ["0.0.0.0"]),
])


@BINDS
def test_addresses(pair, lab, bind, expected):
    authorize(lab)
    pair.start_sproxy("--allow-listen", "*:*")
    start(pair, "-R", f"{bind}{PLACE}:127.0.0.1:{TARGET_PORT}").event("remote-listening")
    assert listens_at(lab, PLACE) == expected


class TestSshd:
    """Of a real sshd that lets its clients choose, since the addresses above are what it takes."""

    pytestmark = NEEDS_SSHD

    @BINDS
    @pytest.mark.usefixtures("sshd")
    def test_addresses_are_those_of_ssh(self, lab, bind, expected):
        with (lab.server.home / "sshd_config").open("a") as config:
            config.write("GatewayPorts clientspecified\n")
        lab.server.start(SSHD, "-D", "-e", "-p", SSHD_PORT + 1, "-f", lab.server.home / "sshd_config")
        until(lambda: listens_at(lab, SSHD_PORT + 1), 10, "sshd listens")
        lab.server.start("ssh", *ssh_options(lab), "-N", "-R", f"{bind}{SSH_PLACE}:127.0.0.1:1", "-p", SSHD_PORT + 1,
                         "root@127.0.0.1")
        until(lambda: listens_at(lab, SSH_PLACE) == expected, 20, f"sshd listens at {expected} for ssh -R")


def test_port_0_is_chosen_and_told(pair, lab):
    """Goal: one port for both families, another one for each place; the same one after a resume."""
    echo(lab)
    authorize(lab)
    pair.start_sproxy("--allow-listen", "*")
    start(pair, *["-R", f"0:127.0.0.1:{TARGET_PORT}"] * 2).event("remote-listening", 2)
    ports = [event["at"].rpartition(":")[2] for event in pair.cproxy.events("remote-listening")]
    assert len(set(ports)) == 2
    for port in ports:
        assert listens_at(lab, port) == ["127.0.0.1", "[::1]"]
        assert echoed(lab.server.connect(int(port)))
    kill_worker(pair.cproxy)
    pair.cproxy.event("remote-listening", 4)
    assert [event["at"].rpartition(":")[2] for event in pair.cproxy.events("remote-listening")] == ports * 2


# ---- who may

@pytest.mark.parametrize("allowed, listed, asked, works", [
    ((), None, "9000", False), (("9000",), None, "9000", True), (("9000",), None, "9001", False),
    (("9000",), None, "*:9000", False), (("127.0.0.1:9000",), None, "9000", False),
    (("127.0.0.1:9000",), None, "127.0.0.1:9000", True), (("9000",), None, "127.0.0.1:9000", True),
    (("*",), None, "9000", False), (("*",), "", "9000", True), (("*",), "", "*:9000", False),
    (("*:9000",), "", "*:9000", True), (("*",), "", "80", False), (("80",), "", "80", True),
    (("*",), 'listen="9000" ', "9000", True), (("*",), 'listen="9001" ', "9000", False),
    (("9000",), 'listen="*:*" ', "9000", True), ((), 'listen="9000" ', "9000", False),
])
def test_who_may_listen_where(pair, lab, allowed, listed, asked, works):
    if listed is not None:
        authorize(lab, listed)
    pair.start_sproxy(*[word for each in allowed for word in ("--allow-listen", each)])
    start(pair, "-R", f"{asked}:127.0.0.1:{TARGET_PORT}")
    if works:
        pair.cproxy.event("remote-listening")
        return
    for program in (pair.cproxy, pair.sproxy):
        assert "does not allow listening there" in program.event("remote-refused")["why"]
    assert not listens_at(lab, asked.rpartition(":")[2])


def test_a_port_in_use_is_told_at_both_ends(pair, lab):
    pair.start_sproxy("--allow-listen", PLACE)
    with lab.server.listen(PLACE):
        start(pair, "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}")
        for program in (pair.cproxy, pair.sproxy):
            assert "the port is in use" in program.event("remote-refused")["why"]


def test_rights_that_are_taken_away(pair, lab):
    """Goal: the place is closed, connections go on; both ends say so."""
    echo(lab)
    authorize(lab)
    pair.start_sproxy("--allow-listen", PLACE)
    start(pair, "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}").event("remote-listening")
    visitor = lab.server.connect(PLACE)
    assert echoed(visitor)
    authorize(lab, 'listen="9001" ')
    pair.sproxy.process.send_signal(signal.SIGHUP)
    pair.sproxy.event("remote-closed")
    assert "does not allow" in pair.cproxy.event("remote-refused")["why"]
    assert not listens_at(lab, PLACE)
    assert echoed(visitor)


def test_a_key_has_so_many_streams(pair, lab):
    echo(lab)
    authorize(lab, "max-streams=2 ")
    pair.start_sproxy("--allow-listen", PLACE)
    start(pair, "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}").event("remote-listening")
    served = [lab.server.connect(PLACE) for _ in range(2)]
    assert all(echoed(each) for each in served)
    assert is_turned_away(lab.server, PLACE)
    assert "limit of 2 streams" in pair.sproxy.event("refused")["why"]
    served.pop().close()
    until(lambda: not ends_at_once(lab.server.connect(PLACE)), 15, "there is room again")


def ends_at_once(connection):
    try:
        return not echoed(connection)
    except (ConnectionError, AssertionError):
        return True


# ---- the network goes, processes die

def test_across_an_outage(served, lab):
    """Goal: who connects during the outage is served after it, and who was connected goes on."""
    before = lab.server.connect(PLACE)
    assert echoed(before)
    lab.wifi.cut()
    served.cproxy.event("lost")
    during = lab.server.connect(PLACE)
    during.sendall(b"meanwhile")
    before.sendall(b"as well")
    lab.wifi.mend()
    assert read_exactly(during, 9) == b"meanwhile"
    assert read_exactly(before, 7) == b"as well"
    assert echoed(lab.server.connect(PLACE))


@pytest.fixture
def kept(pair, lab):
    """Both proxies with keepers, and where visitors of the server meet targets beside cproxy."""
    with lab.client.listen(TARGET_PORT) as listener:
        pair.start_sproxy("--keeper", "--allow-listen", PLACE, prefix=KEPT)
        start(pair, "--keeper", "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}", prefix=KEPT).event("remote-listening")
        yield Meeting(lambda: lab.server.connect(PLACE, timeout=PATIENCE_S), listener)


def test_deaths_cut_nothing(pair, kept, seed):
    """Goal: bulk, ping-pong, opens, ends and resets while both workers die: every byte once, and no visitor refused."""
    load = MixedLoad(kept, seed)
    Reaper([pair.sproxy], 10, random.Random(f"{seed} sproxy"), 0.5).join()
    Reaper([pair.cproxy], 10, random.Random(f"{seed} cproxy"), 0.5).join()
    load.stop()
    for program in (pair.sproxy, pair.cproxy):
        assert not [event for event in program.events("taken-over") if "lost" in event.fields]
        assert not program.events("session-damaged") and not program.events("ended")
    assert len(pair.sproxy.events("remote-listening")) == 1, "it has listened all the time"


def test_who_had_just_come_in_is_served_by_the_next_worker(pair, kept, lab):
    """Goal: a connection that was accepted, or waits to be, when the worker dies."""
    os.kill(pair.sproxy.worker_pid, signal.SIGSTOP)
    visitors = [lab.server.connect(PLACE) for _ in range(5)]
    kill_worker(pair.sproxy)
    for visitor in visitors:
        visitor.sendall(b"?")
        daemon, _ = kept.daemon.accept()
        daemon.settimeout(15)
        assert read_exactly(daemon, 1) == b"?"
        visitor.close()
        assert read_to_end(daemon) == b""


def test_an_upgrade_keeps_places(pair, lab):
    with lab.client.listen(TARGET_PORT) as listener:
        build = Build(lab.server, SPROXY)
        pair.sproxy = lab.server.start(build.path, "--keeper", *pair.options, "--allow-listen", PLACE, SPROXY_PORT)
        pair.started.append(pair.sproxy)
        pair.sproxy.event("listening")
        start(pair, "--keeper", "-R", f"{PLACE}:127.0.0.1:{TARGET_PORT}").event("remote-listening")
        meeting = Meeting(lambda: lab.server.connect(PLACE, timeout=PATIENCE_S), listener)
        visitor, daemon = meeting.joined()
        for count in range(1, 4):
            pair.sproxy.process.send_signal(signal.SIGUSR2)
            pair.sproxy.event("upgraded", count)
            assert still_joined(visitor, daemon)
            assert still_joined(*meeting.joined())
        assert listens_at(lab, PLACE) == ["127.0.0.1", "[::1]"]
        kill_worker(pair.sproxy)
        assert still_joined(visitor, daemon)
        assert still_joined(*meeting.joined())
        assert not pair.sproxy.events("worker-died")[1:] and not pair.sproxy.events("remote-closed")


# ---- the end

@pytest.mark.parametrize("how", ["stop", "kill"])
def test_places_close_with_the_session(served, lab, how):
    visitor = lab.server.connect(PLACE)
    assert echoed(visitor)
    if how == "stop":
        assert served.cproxy.stop() == 0
    else:
        lab.server.run(MPROXY, "kill", served.sproxy.event("connected")["session"])
    until(lambda: not listens_at(lab, PLACE) or how == "kill", 10, "nobody listens any more")
    assert ends_by_reset(visitor)
    if how == "kill":  # cproxy has a new session, and asks again
        until(lambda: len(served.cproxy.events("remote-listening")) == 2, 15, "it has asked again")
        assert echoed(lab.server.connect(PLACE))


def test_too_many_places(pair, lab):
    """Goal: one key has so many, in all its sessions."""
    authorize(lab)
    pair.start_sproxy("--allow-listen", "*")
    start(pair, *["-R", "0:127.0.0.1:1"] * 32).event("remote-listening", 32)
    other = lab.client.start(CPROXY, *pair.options, "--name", "other", "-R", "0:127.0.0.1:1", lab.server_address,
                             SPROXY_PORT)
    pair.started.append(other)
    assert "32 places" in other.event("remote-refused")["why"]


def test_options_that_make_no_sense(lab):
    for arguments, words in [
            (["-R", "nonsense", "h", "1"], "-R nonsense: not [ADDRESS:]PORT:HOST:PORT"),
            (["-R", "9000:a:1", "--stdio", "h", "1"], "--stdio and --remote cannot be used together"),
            ([*["-R", "0:a:1"] * 33, "h", "1"], "-R can be given 32 times")]:
        done = subprocess.run([CPROXY, *arguments], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, words in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
