"""Real OpenSSH on the lab's hosts: a daemon on the server, and what its clients need."""

import hashlib
import shutil
import subprocess

import pytest
from lab import outage, until

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
