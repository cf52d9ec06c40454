"""Real OpenSSH on the lab's hosts: a daemon on the server, and what its clients need."""

import hashlib
import re
import shutil
import subprocess

import pytest
from lab import outage, until
from proxies import ROOT, SPROXY_PORT, state_dir
from relays import MPROXY

from tests.root import real_root

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SSHD_PORT = 2222

NEEDS_SSHD = [
    pytest.mark.skipif(not (shutil.which("ssh") and shutil.which(SSHD)), reason="no openssh-client and -server"),
    pytest.mark.skipif(not real_root(), reason="sshd gives up privileges only as the real root"),
]

SSHD_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/authorized_keys
PidFile none
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
LogLevel ERROR
Subsystem sftp internal-sftp
"""


def make_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=30)


@pytest.fixture
def sshd(lab):
    """An OpenSSH daemon on the server, with keys of its own; the client's key is in its home."""
    home = lab.server.home
    make_key(home / "host_key")
    make_key(lab.client.home / "key")
    shutil.copy(lab.client.home / "key.pub", home / "authorized_keys")
    (home / "sshd_config").write_text(SSHD_CONFIG.format(port=SSHD_PORT, home=home))
    daemon = lab.server.start(SSHD, "-D", "-e", "-f", home / "sshd_config")
    with lab.server.inside():
        until(lambda: daemon.running and listening(SSHD_PORT), 10, "sshd listening")
    return daemon


def listening(port):
    done = subprocess.run(["ss", "-Hltn", f"sport = :{port}"], stdout=subprocess.PIPE, check=True, timeout=10)
    return bool(done.stdout)


def ssh_options(lab, *more):
    return ["-F", "none", "-i", lab.client.home / "key", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={lab.client.home}/known_hosts", "-o", "LogLevel=ERROR", *more]


# For a remote shell: output of five seconds, then a line of input, and a status.
COUNTING = "for i in $(seq 100); do echo number $i; sleep 0.05; done; read line; echo got $line; exit 7"


def numbers(first, last):
    return "".join(f"number {n}\n" for n in range(first, last + 1))


def counts_on(lab, ssh):
    """The client's address changes while `ssh` is COUNTING: output, input and status come through."""
    lab.wifi.pull()
    outage(1.5)
    lab.wifi.give(33)
    ssh.expect("^number 100$")
    ssh.process.stdin.write(b"this\n")
    ssh.process.stdin.flush()
    assert ssh.wait() == 7, str(ssh)
    assert ssh.out.text == numbers(1, 100) + "got this\n"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


CLIENT_CONFIG = """
Host server
    HostName {address}
    Port {port}
    User root
Host *
    IdentityFile {home}/key
    IdentitiesOnly yes
    UserKnownHostsFile {home}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
"""


class SshHost:
    """An sshd on the server of a lab, and ssh on its client."""

    def __init__(self, lab):
        self.lab = lab
        self.home = lab.client.home
        self.config = self.home / "config"
        server = lab.server
        make_key(server.home / "host_key")
        make_key(self.home / "key")
        shutil.copy(self.home / "key.pub", server.home / "authorized_keys")
        address = lab.server_address
        (self.home / "known_hosts").write_text(
            f"[{address}]:{SSHD_PORT} {(server.home / 'host_key.pub').read_text()}")
        self.config.write_text(CLIENT_CONFIG.format(address=address, port=SSHD_PORT, home=self.home))
        self.daemon = None

    def start(self, path=ROOT, listens="0.0.0.0"):
        """sshd, whose commands find programs in `path`, and everything of theirs in the server's home."""
        server = self.lab.server
        there = {"PATH": f"{path}:/usr/bin:/bin", **{name: server.environment()[name] for name in (
            "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HOME")}}
        config = SSHD_CONFIG.format(port=SSHD_PORT, home=server.home).replace("127.0.0.1", listens)
        config += f"SetEnv {' '.join(f'{name}={value}' for name, value in there.items())}\n"
        (server.home / "sshd_config").write_text(config)
        self.daemon = server.start(SSHD, "-D", "-e", "-f", server.home / "sshd_config")
        with server.inside():
            until(lambda: self.daemon.running and listening(SSHD_PORT), 10, "sshd listening")
        return self

    def command(self, *words):
        """`mproxy ssh` with the client's settings."""
        return [MPROXY, "ssh", "-F", self.config, *words]

    def run(self, *words, program=None, **options):
        """To its end: status, output, errors."""
        argv = self.command(*words) if program is None else [*program, *words]
        return subprocess.run(self.lab.client.entering(argv), env=self.lab.client.environment(), timeout=60, text=True,
                              stdin=options.pop("stdin", subprocess.DEVNULL), capture_output=True, check=False,
                              **options)

    def log(self):
        """What the started sproxy has logged."""
        (log,) = state_dir(self.lab.server).glob("started/*/*/log")
        return log.read_text()

    def peers(self, event="connected"):
        """Where the carriers of its sessions came from: an address, or `process`."""
        return [re.search(r'(?:peer=([\d.]+):|through="(process) )', line).group(1, 2)
                for line in self.log().splitlines() if f" {event} " in line]

    def record(self):
        return "".join(record.read_text() for record in state_dir(self.lab.client).glob("hosts/*"))

    def block_port(self, what=f"meta l4proto {{ tcp, udp }} th dport {SPROXY_PORT}"):
        """A firewall between both, through which only ssh gets."""
        self.lab.router.run("nft", "add table ip wall;"
                            " add chain ip wall forward { type filter hook forward priority 0; };"
                            f" add rule ip wall forward {what} drop")
