"""cproxy --via and sproxy --attach: a session over a command's standard input and output, whatever the command does."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from asking import session_of
from doctoring import Doctor
from lab import as_nobody, until
from proxies import CPROXY, CPROXY_PORT, SPROXY, SPROXY_PORT
from traffic import Traffic, read_exactly

from mproxy.policy.keys import find_spki, public_line
from tests import keys
from tests.root import real_root


def entering(host, *argv):
    """A shell command for `argv` in `host`, as ssh, nsenter or docker exec would run it there."""
    environment = {name: value for name, value in host.environment().items() if name in (
        "HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "MPROXY_KEEPER")}
    return shlex.join(host.entering(["env", *(f"{name}={value}" for name, value in environment.items()), *argv]))


@pytest.fixture
def attaching(pair):
    """The command that leads from anywhere to the server's sproxy, which runs, beside an echo daemon."""
    pair.echo()
    pair.start_sproxy()
    return entering(pair.lab.server, SPROXY, "--attach")


def start(pair, command, *options):
    """A cproxy on the client that has no other way than `command`."""
    pair.lab.client.ip("route flush default", "link set wifi down")
    pair.cproxy = pair.lab.client.start(CPROXY, *pair.options, *options, "--via", command, CPROXY_PORT)
    pair.started.append(pair.cproxy)
    pair.cproxy.event("listening")
    return pair.cproxy


def children(program):
    """{process: its state} of all children of the process that does the work."""
    found = {}
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    state, parent = stat.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == program.worker_pid:
                found[int(pid)] = state
    return found


def runs(pid):
    """Whether a process has not ended. One whose parent has died may stay a zombie: not every container reaps them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def in_session(leader):
    """Processes that run in the session that `leader` began."""
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(leader)], capture_output=True, text=True, check=False)
    return [pid for pid in found.stdout.split() if runs(pid)]


def echoed(pair, text=b"hello"):
    app = pair.app()
    app.sendall(text)
    assert read_exactly(app, len(text)) == text
    return app


def test_bulk_survives_commands_that_are_killed(pair, attaching):
    """Goal: traffic both ways, the command killed ten times in it; no byte is lost, and no zombie is left."""
    start(pair, attaching, "--heartbeat", "100ms")
    going = Traffic([pair.app() for _ in range(3)])
    going.goes_on(more=1000)
    for number in range(10):
        (command,) = children(pair.cproxy)
        os.killpg(command, signal.SIGKILL)
        pair.cproxy.event("resumed", count=number + 1)
        going.goes_on(more=100_000)
    going.finish()
    until(lambda: len(children(pair.cproxy)) == 1, 10, "one command")
    assert "Z" not in children(pair.cproxy).values()
    assert pair.cproxy.event("via-ended")["why"] == "SIGKILL"
    assert re.fullmatch(r"process \d+", pair.sproxy.event("connected")["through"])


def test_a_command_ends_with_its_cproxy(pair, attaching):
    start(pair, attaching)
    echoed(pair)
    (command,) = children(pair.cproxy)
    assert pair.cproxy.stop() == 0
    assert not os.path.exists(f"/proc/{command}")
    assert "cproxy ends" in pair.sproxy.event("ended")["why"]


def test_what_a_command_prints_first_is_skipped(pair, attaching):
    """Goal: up to 64 KiB, said once, also when commands follow each other."""
    start(pair, f"echo 'Welcome to server'; head -c 65000 /dev/zero | tr '\\0' x; {attaching}", "--heartbeat", "100ms")
    app = echoed(pair)
    (command,) = children(pair.cproxy)
    os.killpg(command, signal.SIGKILL)
    pair.cproxy.event("resumed")
    app.sendall(b"more")
    assert read_exactly(app, 4) == b"more"
    (banner,) = pair.cproxy.events("banner")
    assert banner["text"].startswith("Welcome to server xxx") and int(banner["bytes"]) == 65018


def test_a_command_that_prints_too_much_is_refused(pair):
    start(pair, "yes")
    assert pair.app_is_reset()
    assert "more than 64 KiB" in pair.cproxy.event("dial-failed")["why"]
    until(lambda: not children(pair.cproxy), 10, "the command to be killed")


def test_a_command_that_ends_at_once_says_why(pair):
    """Goal: exit status and last words, and the application is reset as by a refused connection."""
    start(pair, "echo first >&2; echo Permission denied >&2; exit 255")
    assert pair.app_is_reset()
    why = pair.cproxy.event("dial-failed")["why"]
    assert why == "the command ended without an answer from sproxy: exit status 255: Permission denied"
    assert [event["line"] for event in pair.cproxy.events("via-says")][:2] == ["first", "Permission denied"]


def test_an_sproxy_that_is_not_on_the_path_there(pair):
    """Goal: who has it from pipx or mproxy push, where ssh's commands do not look, is told what to write."""
    start(pair, "no-such-sproxy --attach")
    assert pair.app_is_reset()
    why = pair.cproxy.event("dial-failed")["why"]
    assert "exit status 127" in why and why.endswith("name it by its path, such as .local/bin/sproxy")


def test_pauses_between_commands_grow(pair, tmp_path):
    marks = tmp_path / "marks"
    start(pair, f"date +%s.%N >> {marks}; false", "--eager")
    until(lambda: marks.exists() and len(marks.read_text().split()) >= 9, 30, "nine commands")
    at = [float(mark) for mark in marks.read_text().split()]
    assert at[8] - at[7] > 0.4  # half of the longest pause in a new outage


def test_a_hung_command_is_replaced(pair, attaching, tmp_path):
    """Goal: one that says nothing is ended, with its children, and the next one gets through."""
    hung = tmp_path / "hung"
    start(pair, f"test -e {hung} || {{ echo $$ > {hung}; trap '' TERM; sleep 1000; sleep 1000; }}; {attaching}",
          "--connect-timeout", "1s", "--eager")
    pair.cproxy.event("connected")
    why = pair.cproxy.event("dial-failed")["why"]
    assert why == "the command brought no answer from sproxy within 1s"
    until(lambda: not in_session(hung.read_text().strip()), 10, "the hung command's session to be empty")
    echoed(pair)


def test_a_command_that_falls_silent_is_replaced(pair, attaching):
    """Goal: heartbeats alone notice it, and the old one is killed when the next carries."""
    start(pair, attaching, "--heartbeat", "100ms")
    app = echoed(pair)
    (command,) = children(pair.cproxy)
    os.killpg(command, signal.SIGSTOP)
    pair.cproxy.event("resumed")
    app.sendall(b"more")
    assert read_exactly(app, 4) == b"more"
    until(lambda: command not in children(pair.cproxy), 10, "the stopped command to be ended")


def test_stdio_over_a_command(pair, attaching):
    command = attaching
    client = pair.lab.client.start(CPROXY, "--stdio", *pair.options, "--via", command, stdin=subprocess.PIPE)
    client.process.stdin.write(b"through two pipes\n")
    client.process.stdin.flush()
    client.expect("^through two pipes$")
    client.process.stdin.close()
    assert client.wait() == 0


@pytest.mark.parametrize("carrier_options", [["--plaintext"], ["--keeper"]], ids=["plaintext", "keeper"])
def test_other_options_over_a_command(pair, carrier_options):
    """Goal: without encryption, and with workers that die; each leaves its command without input, and so ended."""
    pair.echo()
    pair.start_sproxy(*carrier_options)
    start(pair, entering(pair.lab.server, SPROXY, "--attach"), "--heartbeat", "100ms")
    app = echoed(pair)
    if carrier_options == ["--keeper"]:
        for program in (pair.cproxy, pair.sproxy):
            (command,) = children(pair.cproxy)
            os.kill(program.worker_pid, signal.SIGKILL)
            program.event("taken-over")
            until(lambda gone=command: not runs(gone), 10, "the command to end")
            app.sendall(b"more")
            assert read_exactly(app, 4) == b"more"


def test_the_name_is_remembered_with_the_key(pair, attaching):
    start(pair, attaching, "--name", "my server")
    echoed(pair)
    assert pair.cproxy.event("host-remembered")["sproxy"] == "my server"
    known = (pair.lab.client.home / "state" / "mproxy" / "known_hosts").read_text()
    assert known.startswith("via=my%20server mproxy-ed25519 ")


def test_status_shows_the_command(pair, attaching):
    start(pair, attaching)
    echoed(pair)
    shown = pair.lab.client.run(CPROXY.parent / "bin" / "mproxy", "status", "cproxy")
    assert f"command+tls {attaching}" in shown
    assert session_of(pair.lab.client, "cproxy")["carrier"] == {"kind": "command+tls", "through": attaching}
    at_server = session_of(pair.lab.server, "sproxy")["carrier"]
    assert at_server["kind"] == "attached+tls" and at_server["through"].startswith("process ")


# --- sproxy --attach

def attach(host, *words, check=False, **options):
    return subprocess.run(host.entering([SPROXY, "--attach", *words]), env=host.environment(), timeout=30, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, check=check, **options)


def test_attach_without_an_sproxy_says_so(lab):
    done = attach(lab.server)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "", "sproxy: cannot attach: no sproxy of this user is running on this host\n")
    done = attach(lab.server, "6200")
    assert done.stderr == (
        "sproxy: cannot attach: no sproxy of this user that listens on port 6200 is running on this host\n")


def test_attach_of_several_has_to_be_told_which(pair):
    pair.echo()
    pair.start_sproxy()
    pair.start_sproxy("--state-dir", pair.lab.server.home / "other", port=6300)
    done = attach(pair.lab.server)
    assert (done.returncode, done.stderr) == (1, (
        "sproxy: cannot attach: 2 sproxies of this user are running here; choose one by its port (sproxy --attach"
        " PORT): 6200, 6300\n"))
    start(pair, entering(pair.lab.server, SPROXY, "--attach", str(SPROXY_PORT)))
    echoed(pair)


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_another_user_cannot_attach(pair):
    """Goal: neither sees the socket, nor is heard on it where the directory is open to all."""
    pair.echo()
    pair.start_sproxy()
    server = pair.lab.server
    done = subprocess.run(server.entering([*as_nobody(), SPROXY, "--attach"]), env=server.environment(), timeout=30,
                          text=True, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1 and "cannot attach: no sproxy of this user" in done.stderr
    done = subprocess.run(server.entering([*as_nobody(), SPROXY, "--attach", SPROXY_PORT]), env=server.environment(),
                          timeout=30, text=True, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1 and "cannot attach: no sproxy of this user" in done.stderr
    assert not pair.sproxy.events("connected")


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_the_kernel_says_who_attaches(pair):
    """Goal: the directory's mode keeps others out; where that was changed they are not heard either."""
    pair.start_sproxy("--no-keeper")
    assert attach(pair.lab.server).returncode == 0
    (control,) = (pair.lab.server.home / "runtime" / "mproxy").glob("sproxy-*.sock")
    control.chmod(0o666)  # and as_nobody() can enter every directory
    ask = (f"import os, socket; os.chdir({str(control.parent)!r})\n"  # the whole path may be too long for an address
           f"s = socket.socket(socket.AF_UNIX); s.connect({control.name!r})\n"
           "try:\n    s.sendall(b'{\"command\": \"attach\"}\\n'); print(s.recv(13))\n"
           "except (BrokenPipeError, ConnectionResetError):\n    print(b'')")
    for prefix, answer in (([], "b'{\"ok\": true, '\n"), (as_nobody(), "b''\n")):
        done = subprocess.run(pair.lab.server.entering([*prefix, sys.executable, "-c", ask]), timeout=30, text=True,
                              capture_output=True, check=False)
        assert done.stdout == answer, done


@pytest.mark.parametrize("allowed", [True, False], ids=["terminal", "none"])
def test_a_command_may_ask_at_the_terminal_if_allowed(pair, attaching, allowed):
    """Goal: what is typed reaches it, and it reads nothing that is not for it."""
    pair.lab.client.ip("route flush default", "link set wifi down")
    script = f"printf 'Password: ' > /dev/tty && read word < /dev/tty && test $word = sesame && exec {attaching}"
    options = ["--via-terminal"] if allowed else []
    cproxy = pair.lab.client.start_on_terminal(
        "setsid", "--ctty", "--wait", CPROXY, *options, "--no-keeper", "--eager", "--via", script, CPROXY_PORT)
    if allowed:
        cproxy.out.wait(lambda: "Password: " in cproxy.out.text, 30)
        cproxy.type("sesame\n")
        until(lambda: " connected " in cproxy.out.text, 30, "the session")
        echoed(pair)
    else:
        until(lambda: "dial-failed" in cproxy.out.text, 30, "the command's failure")
        assert "cannot create /dev/tty" in cproxy.out.text


def test_an_attached_stranger_is_bounded(pair):
    """Goal: what says nothing on an attached connection is turned away like any other guest, and leaves no trace."""
    pair.start_sproxy("--no-keeper")
    server = pair.lab.server
    assert attach(server).returncode == 0  # from here on there is a control socket; its input had ended
    before = pair.sproxy.open_fds()
    silent = [server.start(SPROXY, "--attach", stdin=subprocess.PIPE) for _ in range(5)]
    until(lambda: pair.sproxy.open_fds() >= before + 4, 10, "the connections")
    for each in silent:
        assert each.wait(within=20) == 0
    assert "no preamble within 5s" in pair.sproxy.event("refused", count=5)["why"]
    until(lambda: pair.sproxy.open_fds() <= before, 10, "their descriptors to be closed")


# --- mproxy doctor --via

@pytest.fixture
def doctor(lab):
    return Doctor(lab)


def test_the_doctor_goes_by_the_command(pair, attaching, doctor):
    """Goal: what it prints first is shown, a session begins by it, and it ends with the doctor."""
    pair.lab.client.ip("route flush default", "link set wifi down")
    verdict = doctor("--session", "--via", f"echo Welcome; {attaching}", status=0, patience="10s", named=False)
    assert verdict.checks == {"command", "answer", "trust", "key", "session", "daemon"}
    assert "Welcome" in verdict.of("command")["text"] and verdict.of("command")["took_s"] > 0
    assert verdict.facts["via"].endswith("--attach") and verdict.facts["port"] is None
    assert doctor("--via", attaching, status=0, patience="10s").facts["port"] == SPROXY_PORT  # it may have a place, too


@pytest.mark.parametrize(("command", "text"), [
    ("echo Permission denied >&2; exit 255", "exit status 255; its last words: Permission denied"),
    ("echo 'This account is closed.'; exit 1", "it printed: This account is closed."),
    ("sleep 1000", "no answer from sproxy for 1 s"),
    ("exec 1>&- 0>&-; sleep 1000", "closes its output, but is still running"),
    ("yes", "more than 64 KiB"),
    ("nothing-of-that-name", "not found")])
def test_the_doctor_says_what_is_wrong_with_a_command(pair, doctor, command, text):
    """Goal: and nothing of it goes on running."""
    verdict = doctor("--via", f"{command} # {os.getpid()}-by-the-doctor", named=False)
    assert verdict.faults == ["command"] and text in verdict.of("command")["text"]
    assert "BatchMode" in verdict.of("command")["advice"]
    found = subprocess.run(["pgrep", "-f", f"{os.getpid()}-by-the-doctor"], capture_output=True, text=True, check=False)
    assert not [pid for pid in found.stdout.split() if runs(pid)]


def test_the_doctor_knows_the_name_of_a_command(pair, attaching, doctor):
    """Goal: the key that cproxy remembered under its --name is known, and another one is not taken for it."""
    start(pair, attaching, "--name", "my server")
    echoed(pair)
    trust = doctor("--via", attaching, "--name", "my server", status=0, patience="10s", named=False).of("trust")
    assert trust["verdict"] == "ok"
    known = pair.lab.client.home / "state" / "mproxy" / "known_hosts"
    words = known.read_text().split()
    known.write_text(f"{words[0]} {words[1]} {public_line(find_spki(keys.pem(3), 'test')).split()[1]}\n")
    verdict = doctor("--via", attaching, "--name", "my server", patience="10s", named=False)
    assert verdict.faults == ["trust"]
