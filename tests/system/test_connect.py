"""mproxy connect, mproxy ssh: a real ssh to a real sshd, on which nobody has set up anything but the programs."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import until
from openssh import COUNTING, NEEDS_SSHD, SSHD_PORT, SshHost, counts_on, make_key
from proxies import SPROXY_PORT, state_dir
from relays import MPROXY

from mproxy import __version__

pytestmark = NEEDS_SSHD

THROUGH_SSH, DIRECT = (None, "process"), ("10.1.0.2", None)


@pytest.fixture
def host(lab):
    return SshHost(lab).start()


def connects(lab):
    """Processes that run mproxy connect."""
    return [pid for pid, line in lab.client.processes().items() if " connect " in line]


def end_waiting(lab):
    """Who goes on waiting for the next ssh ends when it is told to."""
    place = lab.client.home / "runtime" / "mproxy"
    until(lambda: list(place.glob("standby-*")) or not connects(lab), 30, "somebody who waits, or nobody")
    for pid in connects(lab):
        os.kill(pid, signal.SIGTERM)


def test_the_first_call_starts_what_is_needed_and_the_next_goes_straight(host):
    """Goal: status, output and errors are the command's, from the first call on; the second needs no ssh of its own."""
    script = "echo out; echo err >&2; exit 7"
    for number in (1, 2):
        done = host.run("server", script)
        assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n"), number
    # The first session may have gone straight while its ssh ran, and have waited for the second ssh.
    assert host.peers() in ([THROUGH_SSH, DIRECT], [THROUGH_SSH])
    assert re.fullmatch(rf"{SPROXY_PORT} SHA256:\S{{43}} open\n", host.record())


@pytest.mark.parametrize("way", ["first", "next", "ssh"])
def test_survives_an_address_change(host, way):
    """Goal: whether it began through ssh, straight, or has to stay with ssh; status and output come through."""
    lab = host.lab
    if way == "next":
        assert host.run("server", "true").returncode == 0
    if way == "ssh":
        host.block_port()
    ssh = lab.client.start(*host.command("server", COUNTING), stdin=subprocess.PIPE)
    ssh.expect("^number 20$")
    if way == "first":
        until(lambda: host.peers("resumed"), 20, "the session to move to the port")
        assert set(host.peers("resumed")) == {DIRECT}, "over TCP, then perhaps over UDP"
        assert ssh.log.text == ""
    counts_on(lab, ssh)
    # Over UDP it is the same carrier that moves.
    last = (host.peers("moved") or host.peers("resumed"))[-1]
    assert last == (THROUGH_SSH if way == "ssh" else ("10.1.0.33", None))
    if way != "ssh":
        end_waiting(lab)
    until(lambda: not connects(lab), 30, "end of mproxy connect")


def test_where_only_ssh_gets_through_it_stays_with_ssh(host):
    """Goal: the port is blocked; that is found out beside the session, and remembered."""
    host.block_port()
    ssh = host.lab.client.start(*host.command("server", "cat"), stdin=subprocess.PIPE)
    until(lambda: host.record().endswith(" shut\n"), 30, "the port to be given up")
    ssh.process.stdin.write(b"still there\n")
    ssh.process.stdin.flush()
    ssh.expect("^still there$")
    ssh.process.stdin.close()
    assert ssh.wait() == 0
    assert host.peers() == [THROUGH_SSH]


def test_a_port_that_was_open_is_given_up_for_ssh(host):
    """Goal: known and silent, it costs a second, not the session."""
    assert host.run("server", "true").returncode == 0
    for pid in connects(host.lab):
        os.kill(pid, signal.SIGKILL)
    host.block_port()
    assert host.run("server", "exit 3").returncode == 3
    assert host.peers() == [THROUGH_SSH, THROUGH_SSH]


def test_an_sproxy_that_has_a_new_key_is_known_by_ssh(host):
    """Goal: its files were removed; no question, no refusal, and no trust in what the port says."""
    assert host.run("server", "true").returncode == 0
    old = host.record()
    (place,) = state_dir(host.lab.server).glob("started/*/*")
    (socket,) = place.glob("*.sock")
    os.kill(int(socket.stem.rpartition("-")[2]), signal.SIGTERM)
    until(lambda: not socket.exists(), 10, "its end")
    shutil.rmtree(place)
    done = host.run("server", "echo again")
    assert (done.returncode, done.stdout, done.stderr) == (0, "again\n", "")
    assert host.record() != old
    assert host.peers() == [THROUGH_SSH]


def test_an_sshd_that_does_not_listen_on_loopback(lab):
    host = SshHost(lab).start(listens=lab.server_address)
    done = host.run("server", "echo there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "there\n", "")


def test_without_mproxy_there_one_line_says_what_to_do(lab):
    host = SshHost(lab).start(path="/nowhere")
    done = host.run("server", "true")
    assert done.returncode == 255 and done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "mproxy" in line]
    assert f"mproxy is not installed on {lab.server_address}" in line and "ssh -o ProxyCommand=none" in line
    assert f"'mproxy push root@server:{SSHD_PORT}'" in line
    assert "via-says" not in done.stderr, "nor does the shell there say it in its own words"


@pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="what is pushed runs without the sanitizers")
def test_mproxy_is_pushed_there(lab):
    """Goal: one ssh, and the next is mproxy's, with all that it needs; a second push changes nothing for the worse. It
    needs no mproxy there, although ssh_config has ssh go through it."""
    host = SshHost(lab).start(path=Path(sys.executable).resolve().parent)
    assert host.run("--yes", "--config", host.config, "server", program=[MPROXY, "setup-ssh"]).returncode == 0
    for _time in range(2):
        done = host.run("--ssh", f"ssh -F {host.config}", "server", program=[MPROXY, "push"])
        place = lab.server.home / ".local"
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert done.stderr == f"mproxy push: mproxy {__version__} is installed on server, in {place}/bin\n"
    assert len(list((place / "lib" / "mproxy").iterdir())) == 1
    done = host.run("server", "echo there; exit 6")
    assert (done.returncode, done.stdout, done.stderr) == (6, "there\n", "")
    sproxy = next(line for line in lab.server.command_lines() if "--trust-attached" in line)
    assert " sproxy --name started:" in sproxy


def test_a_changed_host_key_is_ssh_s_business(host):
    """Goal: ssh's own message, as without us, and nothing is started."""
    make_key(host.home / "other")
    known = host.home / "known_hosts"
    known.write_text(f"{known.read_text().split()[0]} {(host.home / 'other.pub').read_text()}")
    done = host.run("server", "true")
    assert done.returncode == 255
    assert "Host key verification failed." in done.stderr
    assert not list(state_dir(host.lab.server).glob("started/*/*"))


def test_scp_and_pipes_by_ssh_config(host):
    """Goal: what uses ssh needs nothing but `mproxy setup-ssh`; it is undone without a trace."""
    before = host.config.read_text()
    done = host.run("--yes", "--config", host.config, "server", program=[MPROXY, "setup-ssh"])
    assert done.returncode == 0, done.stderr
    text = host.config.read_text()
    assert text.endswith(before) and f"ProxyCommand {MPROXY} connect %r@%h:%p %n" in text
    host.config.write_text(text.replace(" connect ", f" connect --ssh 'ssh -F {host.config}' "))
    data = os.urandom(3_000_000)
    (host.home / "file").write_bytes(data)
    done = host.run("-q", "-F", host.config, host.home / "file", f"server:{host.lab.server.home}/copy", program=["scp"])
    assert done.returncode == 0, done.stderr
    assert (host.lab.server.home / "copy").read_bytes() == data
    done = subprocess.run(host.lab.client.entering(["ssh", "-F", host.config, "server", "sha256sum"]), input=data,
                          env=host.lab.client.environment(), capture_output=True, timeout=60, check=False)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest(), done.stderr
    assert host.peers() in ([THROUGH_SSH, DIRECT], [THROUGH_SSH]), "the session of the first may wait for the second"
    assert host.run("--undo", "--yes", "--config", host.config, program=[MPROXY, "setup-ssh"]).returncode == 0
    assert host.config.read_text() == before


@pytest.mark.parametrize("how", ["mproxy ssh", "setup-ssh", "by hand"])
def test_ssh_config_says_how_the_host_is_reached(host, how):
    """Goal: by a ProxyJump, for the ssh that starts sproxy as for any other; by our own ProxyCommand it does not go."""
    known, address = host.home / "known_hosts", host.lab.server_address
    known.write_text(known.read_text().replace(
        f"[{address}]:{SSHD_PORT}", f"[{address}]:{SSHD_PORT},[127.0.0.1]:{SSHD_PORT}"))
    behind = f"Host behind\n    HostName 127.0.0.1\n    Port {SSHD_PORT}\n    User root\n    ProxyJump server\n"
    host.config.write_text(behind + host.config.read_text())
    connect = f"ProxyCommand {MPROXY} connect --ssh 'ssh -F {host.config}' %r@%h:%p %n\n"
    program, name, peers = ["ssh", "-F", host.config], "behind", [THROUGH_SSH]
    if how == "mproxy ssh":
        program = [MPROXY, "ssh", "-F", host.config]
    elif how == "setup-ssh":
        # The gate, too: within the other's bootstrap it is reached straight.
        done = host.run("--yes", "--config", host.config, "behind", "server", program=[MPROXY, "setup-ssh"])
        assert done.returncode == 0, done.stderr
        text = host.config.read_text()
        host.config.write_text(text.replace(f"ProxyCommand {MPROXY} connect %r@%h:%p %n\n", connect))
    else:
        name = "server"
        host.config.write_text(f"Host server\n    {connect}" + host.config.read_text())
    done = host.run(name, "echo there; exit 5", program=program)
    assert (done.returncode, done.stdout, done.stderr) == (5, "there\n", "")
    assert host.peers() == peers


# --- mproxy ssh beside ssh, option by option

OPTIONS = {
    "command": ["server", "echo a; echo b >&2; exit 3"],
    "no command found": ["server", "no-such-command"],
    "killed": ["server", "kill -9 $$"],
    "words": ["server", "--", "printf", "%s.", "'a b'", "c"],
    "terminal": ["-tt", "server", "tty | sed 's/[0-9]*$//'; stty size; exit 4"],
    "no terminal": ["-T", "server", "tty"],
    "no input": ["-n", "server", "cat"],
    "user by option": ["-l", "root", "server", "id -un"],
    "port by option": ["-p", str(SSHD_PORT), "server", "echo $SSH_CONNECTION | cut -d' ' -f4"],
    "wrong user": ["-o", "BatchMode=yes", "-l", "nobody", "server", "true"],
    "environment": ["-o", "SetEnv=LC_TEST=1", "server", "echo $LC_TEST"],
    "quiet": ["-q", "-o", "BatchMode=yes", "-l", "nobody", "server", "true"],
    "options after the host": ["server", "-T", "echo after"],
    "joined options": ["-Tp", str(SSHD_PORT), "server", "echo joined"],
    "agent": ["-A", "server", "test -S $SSH_AUTH_SOCK && echo agent"],
    "ciphers": ["-c", "aes256-ctr", "-m", "hmac-sha2-256", "server", "echo ciphers"],
    "settings": ["-G", "server"],
    "version": ["-V"],
    "wrong option": ["-z", "server"],
    "unknown setting": ["-o", "Nonsense=1", "server", "true"],
    "subsystem": ["-s", "server", "no-such-subsystem"],
}


@pytest.mark.parametrize("words", OPTIONS.values(), ids=OPTIONS)
def test_it_is_ssh(host, words):
    """Goal: status, output and errors are those of ssh alone."""
    agent = {"SSH_AUTH_SOCK": str(host.home / "agent")} if "-A" in words else {}
    if agent:
        host.lab.client.start("ssh-agent", "-D", "-a", agent["SSH_AUTH_SOCK"])
        until(lambda: os.path.exists(agent["SSH_AUTH_SOCK"]), 10, "the agent")
    environment = {**host.lab.client.environment(), **agent}
    done = {}
    for program in (["ssh"], [MPROXY, "ssh"]):
        done[program[0]] = subprocess.run(
            host.lab.client.entering([*program, "-F", host.config, *words]), env=environment, timeout=60, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, check=False)
    plain, ours = done["ssh"], done[MPROXY]
    told = "\n".join(line for line in ours.stdout.splitlines() if not line.startswith("proxycommand "))
    assert (ours.returncode, told) == (plain.returncode, plain.stdout.rstrip("\n")), ours.stderr
    if "nobody" not in words:
        assert ours.stderr == plain.stderr


def test_forwards_and_a_master(host):
    """Goal: -L by a master in the background, which a plain ssh shares, and which ends when it is told to."""
    control = host.home / "control"
    with host.lab.server.inside():
        listener = host.lab.server.listen(7000)
    # -f: it goes to the background once it is connected, and keeps our pipes; so its errors go to a file.
    done = subprocess.run(
        host.lab.client.entering(host.command("-M", "-S", control, "-f", "-N", "-L", "7001:127.0.0.1:7000", "server")),
        env=host.lab.client.environment(), timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=False)
    assert done.returncode == 0
    app = host.lab.client.connect(7001)
    daemon, _ = listener.accept()
    daemon.sendall(b"hello")
    assert app.recv(5) == b"hello"
    shared = host.run("-F", host.config, "-S", control, "server", "echo shared", program=["ssh"])
    assert shared.stdout == "shared\n"
    assert host.run("-F", host.config, "-S", control, "-O", "exit", "server", program=["ssh"]).returncode == 0
    end_waiting(host.lab)
    until(lambda: not connects(host.lab), 30, "end of mproxy connect")


def test_a_person_types_one_password_for_the_bootstrap(host):
    """Goal: the ssh that starts sproxy may ask at the terminal, and ssh's own question follows."""
    key = host.home / "key"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True, timeout=30)
    ssh = host.lab.client.start_on_terminal(
        "setsid", "--ctty", "--wait", *host.command("server", "echo hello"))
    for question in (1, 2):
        until(lambda count=question: ssh.out.text.count("Enter passphrase") == count, 30, f"question {question}")
        ssh.type("open sesame\n")
    assert ssh.wait() == 0, str(ssh)
    assert "hello\n" in ssh.out.text and not ssh.logged()
    again = host.lab.client.start_on_terminal(
        "setsid", "--ctty", "--wait", *host.command("server", "echo hello"))
    until(lambda: again.out.text.count("Enter passphrase") == 1, 30, "one question")
    again.type("open sesame\n")
    assert again.wait() == 0 and again.out.text.count("Enter passphrase") == 1 and not again.logged()


def test_a_key_that_an_agent_keeps_takes_one_passphrase(host):
    """Goal: what the first ssh has put there by AddKeysToAgent is there for the second."""
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", host.home / "key"], check=True,
                   timeout=30)
    agent = host.home / "agent"
    host.lab.client.start("ssh-agent", "-D", "-a", agent)
    until(agent.exists, 10, "the agent")
    ssh = host.lab.client.start_on_terminal(
        "setsid", "--ctty", "--wait", *host.command("-o", "AddKeysToAgent=yes", "server", "echo hello"),
        env={"SSH_AUTH_SOCK": str(agent)})
    ssh.expect("Enter passphrase")
    ssh.type("open sesame\n")
    assert ssh.wait() == 0, str(ssh)
    assert "hello\n" in ssh.out.text and ssh.out.text.count("Enter passphrase") == 1


def test_a_person_s_terminal_shows_nothing_of_carriers(host):
    """Goal: the ssh that carries the session dies, another one is run, and no log line gets into somebody's work."""
    host.block_port()
    ssh = host.lab.client.start_on_terminal(
        "setsid", "--ctty", "--wait", *host.command("server", "echo ready; read line; echo got $line"))
    ssh.expect("^ready$")
    (carrying,) = [pid for pid, line in host.lab.client.processes().items() if line.startswith("ssh ")
                   and "--attach" in line and " connect " not in line]
    os.kill(carrying, signal.SIGKILL)
    until(lambda: host.peers("resumed"), 20, "another ssh to carry it")
    ssh.type("this\n")
    assert ssh.wait() == 0, str(ssh)
    assert "got this\n" in ssh.out.text and not ssh.logged()
