"""Real OpenSSH: it checks every byte, since any change ends it with a MAC error."""

import hashlib
import os
import subprocess

import pytest
from lab import outage, until
from openssh import COUNTING, NEEDS_SSHD, SSHD_PORT, counts_on, sha256, ssh_options
from proxies import CPROXY, CPROXY_PORT, SPROXY_PORT

COPY_BYTES = 300_000_000

pytestmark = NEEDS_SSHD


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
    scp = ["scp", "-q", *ssh_options(lab, "-P", CPROXY_PORT)]
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
    assert len(pair.cproxy.events("resumed") + pair.sproxy.events("moved")) >= 10
    assert not pair.cproxy.events("ended")


def test_proxy_command_survives_an_address_change(pair, sshd, carrier_options):
    """Goal: with `cproxy --stdio` as ssh's ProxyCommand, the session survives an address change, its exit status and
    last output come through, and cproxy ends when ssh ends."""
    lab = pair.lab
    pair.start_sproxy(daemon=f"127.0.0.1:{SSHD_PORT}")
    command = f"ProxyCommand={CPROXY} {' '.join(carrier_options)} --stdio {lab.server_address} {SPROXY_PORT}"
    ssh = lab.client.start("ssh", *ssh_options(lab, "-o", command), "root@somewhere", COUNTING, stdin=subprocess.PIPE)
    ssh.expect("^number 20$")
    counts_on(lab, ssh)
    assert pair.sproxy.event("ended")
    until(lambda: not any("--stdio" in line for line in lab.client.command_lines()), 5, "end of cproxy")


def test_half_closed_input_reaches_the_command(pair, sshd):
    """Goal: as in `tar | ssh cat`, the end of ssh's input ends the command's input, and all its output arrives."""
    lab = pair.lab
    pair.start(daemon=f"127.0.0.1:{SSHD_PORT}")
    ssh = lab.client.start("ssh", *ssh_options(lab, "-p", CPROXY_PORT), "root@127.0.0.1", "sha256sum",
                           stdin=subprocess.PIPE)
    data = os.urandom(5_000_000)
    ssh.process.stdin.write(data)
    ssh.process.stdin.close()
    assert ssh.wait(20) == 0
    assert ssh.out.text.split() == [hashlib.sha256(data).hexdigest(), "-"]
