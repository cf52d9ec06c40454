"""Real OpenSSH: it checks every byte, since any change ends it with a MAC error."""

import hashlib
import os
import shutil
import subprocess

import pytest
from lab import outage, until
from proxies import CPROXY, CPROXY_PORT, SPROXY_PORT

from tests.root import real_root

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
SSHD_PORT = 2222
COPY_BYTES = 300_000_000

pytestmark = [
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


def options(lab, *more):
    return ["-F", "none", "-i", lab.client.home / "key", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={lab.client.home}/known_hosts", "-o", "LogLevel=ERROR", *more]


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def both_grow(*paths):
    before = [size(path) for path in paths]
    until(lambda: all(size(path) > old + 2_000_000 for path, old in zip(paths, before, strict=True)), 20,
          "both copies going on")


@pytest.mark.long
def test_copy_both_ways_through_ten_address_changes(pair, sshd):
    """Goal: 300 MB up and 300 MB down at the same time, the client's address changes ten times in the middle, and
    both files are what they were."""
    lab = pair.lab
    pair.start(daemon=f"127.0.0.1:{SSHD_PORT}")
    lab.wifi.shape("250mbit")  # so that the copies last longer than the ten changes
    there, here = lab.server.home / "there", lab.client.home / "here"
    source = lab.client.home / "source"
    source.write_bytes(os.urandom(COPY_BYTES))
    scp = ["scp", "-q", *options(lab, "-P", CPROXY_PORT)]
    up = lab.client.start(*scp, source, f"root@127.0.0.1:{there}")
    down = lab.client.start(*scp, f"root@127.0.0.1:{source}", here)
    for change in range(10):
        both_grow(there, here)
        lab.wifi.pull()
        outage(0.3)
        assert all((up.running, down.running)), f"a copy ended before change {change}"
        lab.wifi.give(10 + change)
    assert up.wait(60) == 0, str(up)
    assert down.wait(60) == 0, str(down)
    digest = sha256(source)
    assert sha256(there) == digest
    assert sha256(here) == digest
    for path in (source, there, here):
        path.unlink()
    assert len(pair.cproxy.events("resumed")) >= 10
    assert not pair.cproxy.events("ended")


def test_proxy_command_survives_an_address_change(pair, sshd, carrier_options):
    """Goal: with `cproxy --stdio` as ssh's ProxyCommand, the session survives an address change, its exit status and
    last output come through, and cproxy ends when ssh ends."""
    lab = pair.lab
    pair.start_sproxy(daemon=f"127.0.0.1:{SSHD_PORT}")
    command = f"ProxyCommand={CPROXY} {' '.join(carrier_options)} --stdio {lab.server_address} {SPROXY_PORT}"
    script = "for i in $(seq 100); do echo number $i; sleep 0.05; done; read line; echo got $line; exit 7"
    ssh = lab.client.start("ssh", *options(lab, "-o", command), "root@somewhere", script, stdin=subprocess.PIPE)
    ssh.expect("^number 20$")
    lab.wifi.pull()
    outage(1.5)
    lab.wifi.give(33)
    ssh.expect("^number 100$")
    ssh.process.stdin.write(b"this\n")
    ssh.process.stdin.flush()
    assert ssh.wait() == 7, str(ssh)
    assert ssh.out.text == "".join(f"number {n}\n" for n in range(1, 101)) + "got this\n"
    assert pair.sproxy.event("ended")
    until(lambda: not any("--stdio" in line for line in lab.client.command_lines()), 5, "end of cproxy")


def test_half_closed_input_reaches_the_command(pair, sshd):
    """Goal: as in `tar | ssh cat`, the end of ssh's input ends the command's input, and all its output arrives."""
    lab = pair.lab
    pair.start(daemon=f"127.0.0.1:{SSHD_PORT}")
    ssh = lab.client.start("ssh", *options(lab, "-p", CPROXY_PORT), "root@127.0.0.1", "sha256sum",
                           stdin=subprocess.PIPE)
    data = os.urandom(5_000_000)
    ssh.process.stdin.write(data)
    ssh.process.stdin.close()
    assert ssh.wait(20) == 0
    assert ssh.out.text.split() == [hashlib.sha256(data).hexdigest(), "-"]
