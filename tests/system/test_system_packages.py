""".ci/system-packages, which installs what `make` needs of the system; here with an apt-get that installs nothing."""

import os
import shutil
import signal

import pytest
from lab import until

from tests.meta.sources import ROOT

SCRIPT = ROOT / ".ci" / "system-packages"
TOOLS = ("bash", "sh", "cat", "chmod", "comm", "cut", "find", "flock", "gcc", "grep", "id", "mv", "rm", "sed", "sleep",
         "sort", "tr", "uname")
ASKED = "/usr/sbin/policy-rc.d ssh start; echo $? >> {home}/answers"

# What a package does that brings a daemon: ask whether it may start, and be there at the next boot.
APT_GET = """\
#!/bin/sh
{asked}
echo $$ > {home}/installing
[ ! -e {home}/hang ] || exec sleep 60
"""


@pytest.fixture
def system(host):
    """A host with none of the programs that tests need, and with its own /usr/sbin and apt-get."""
    tools = host.home / "tools"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool))
    apt_get = tools / "apt-get"
    apt_get.write_text(APT_GET.format(asked=ASKED.format(home=host.home), home=host.home))
    apt_get.chmod(0o755)
    host.run("mount", "-t", "tmpfs", "tmpfs", "/usr/sbin")
    return host


def start(system, **variables):
    settings = [f"{name}={value}" for name, value in {"PATH": system.home / "tools", **variables}.items()]
    return system.start("env", *settings, "bash", SCRIPT, "test")


def answers(system):
    return (system.home / "answers").read_text().split()


def asks_again(system):
    """Another package asks later whether daemons may start."""
    system.run("sh", "-c", ASKED.format(home=system.home))
    return answers(system)[-1]


def test_no_daemon_starts_while_packages_are_installed(system):
    """Goal: it first says what it will install; no daemon is started; nothing is left behind."""
    program = start(system)
    assert program.wait() == 2  # this apt-get brings nothing
    assert "telnetd" in program.log.text.split("lacks")[0]
    assert set(answers(system)) == {"101"}
    assert asks_again(system) == "127"  # no such file


def test_killed_half_way(system):
    """Goal: after kill -9 in the middle no daemon starts while apt-get goes on; later the system is as before."""
    (system.home / "hang").touch()
    program = start(system)
    until((system.home / "installing").exists, 20, "apt-get was started")
    program.signal(signal.SIGKILL)
    program.wait()
    assert asks_again(system) == "101"
    os.kill(int((system.home / "installing").read_text()), signal.SIGKILL)
    until(lambda: asks_again(system) == "0", 10, "daemons may start again")
    assert asks_again(system) == "127"


def test_no_means_no(system):
    """Goal: with SYSTEM=no nothing is installed, as root or not, and it says what is missing."""
    program = start(system, MPROXY_SYSTEM="no")
    assert program.wait() == 2
    assert "apt-get install" in program.log.text and "telnet" in program.log.text
    assert not (system.home / "installing").exists()
