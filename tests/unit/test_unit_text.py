"""Units that `mproxy service` writes: systemd understands them, they take away what is not needed, and those in
contrib/ take away the same."""

import re
import shutil
import subprocess

import pytest

from mproxy.ground.errors import UsageError
from mproxy.programs.entries import read_entries
from mproxy.programs.unit_text import LOW_PORTS, SANDBOX, SURVIVAL, SYSTEM_SANDBOX, unit_name, unit_text
from tests.meta.sources import ROOT

MOST_EXPOSED = 2.0

ENTRIES = """\
[cproxy.office]
arguments = "5200 server 6200"

[sproxy.ssh]
arguments = "6200 127.0.0.1:22"
drain = "1m"
log-file = "/var/log/mproxy/ssh.log"

[relay.web]
arguments = "80 192.0.2.1 8080"

[relay.rules]
config = "relay.conf"

[recv.inbox]
arguments = 7000
open = true
output = "/srv/in/"
user = "daemon"
"""


@pytest.fixture
def entries(tmp_path):
    (tmp_path / "relay.conf").write_text("8000 -> b:80\n")
    (tmp_path / "config.toml").write_text(ENTRIES)
    return read_entries([str(tmp_path / "config.toml")])


def lines_of(entry, is_system):
    return unit_text(entry, ["/bin/true"], is_system).splitlines()


def systemd_analyze(*words):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60)


def exposure(unit):
    done = systemd_analyze("security", "--offline=true", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    if found is None and "offline" in done.stderr:
        pytest.skip("this systemd-analyze asks a running systemd")
    assert found, done
    return float(found[1])


@pytest.mark.parametrize("name", ["office", "ssh", "web", "rules", "inbox"])
def test_systemd_understands_them(tmp_path, entries, name):
    for is_system in (True, False):
        unit = tmp_path / unit_name(entries[name])
        unit.write_text(unit_text(entries[name], ["/bin/true"], is_system))
        done = systemd_analyze(*([] if is_system else ["--user"]), "verify", "--man=no", unit)
        told = [line for line in done.stderr.splitlines() if unit.name in line]
        assert not told, done.stderr


@pytest.mark.parametrize("name", ["office", "ssh", "web", "rules", "inbox"])
def test_they_are_exposed_to_little(tmp_path, entries, name):
    unit = tmp_path / unit_name(entries[name])
    unit.write_text(unit_text(entries[name], ["/bin/true"], True))
    assert exposure(unit) <= MOST_EXPOSED


@pytest.mark.parametrize("name", ["cproxy@", "sproxy@", "mproxy-relay", "mproxy-recv@"])
def test_those_that_ship_are_exposed_to_little(name):
    assert exposure(ROOT / "contrib" / f"{name}.service") <= MOST_EXPOSED


@pytest.mark.parametrize("name", ["cproxy@", "sproxy@", "mproxy-relay", "mproxy-recv@"])
def test_those_that_ship_are_sandboxed_alike(name):
    shipped = set((ROOT / "contrib" / f"{name}.service").read_text().splitlines())
    missing = set(f"{SYSTEM_SANDBOX}\n{SANDBOX}".splitlines()) - shipped
    assert all(line.startswith("RestrictAddressFamilies=") for line in missing)  # the relay needs fewer


def test_a_service_of_the_system(entries):
    lines = lines_of(entries["ssh"], True)
    log = "/var/log/mproxy/ssh.log"
    assert f"ExecStart=/bin/true sproxy --survive --name ssh --drain 1m --log-file {log} 6200 127.0.0.1:22" in lines
    for line in ("ExecReload=/bin/true upgrade $MAINPID", "TimeoutStopSec=70s", "DynamicUser=yes", "User=mproxy",
                 "RuntimeDirectory=mproxy-ssh", "CapabilityBoundingSet=", "ProtectHome=yes",
                 "ReadWritePaths=/var/log/mproxy", "WantedBy=multi-user.target"):
        assert line in lines, line


@pytest.mark.parametrize("name", ["cproxy@", "sproxy@"])
def test_connections_outlive_a_restart(tmp_path, entries, name):
    shipped = (ROOT / "contrib" / f"{name}.service").read_text().splitlines()
    assert set(SURVIVAL) <= {*shipped} and set(SURVIVAL) <= {*lines_of(entries["office"], True)}
    for setting, survives in (("keeper = false", False), ("workers = 2", True)):
        (tmp_path / "config.toml").write_text(f"[sproxy.a]\narguments = 6200\n{setting}\n")
        (entry,) = read_entries([str(tmp_path / "config.toml")]).values()
        lines = lines_of(entry, True)
        assert (set(SURVIVAL) <= {*lines}) == survives == any("--survive" in line for line in lines)


def test_a_service_of_a_user(entries):
    lines = lines_of(entries["office"], False)
    assert "WantedBy=default.target" in lines and "NoNewPrivileges=yes" in lines
    assert not [line for line in lines if re.match("User|Dynamic|Protect|Capab|RuntimeDir|StateDir", line)]


def test_low_ports_need_a_capability(entries):
    for name, needed in (("office", False), ("web", True), ("rules", True)):
        lines = lines_of(entries[name], True)
        assert (f"AmbientCapabilities={LOW_PORTS}" in lines) == needed
        assert (f"CapabilityBoundingSet={LOW_PORTS if needed else ''}" in lines)


def test_whoever_owns_files(entries):
    """Goal: systemd makes it that user, instead of the program."""
    lines = lines_of(entries["inbox"], True)
    assert "User=daemon" in lines and "DynamicUser=yes" not in lines and "ReadWritePaths=/srv/in/" in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert "--user" not in start
    del entries["inbox"].given["user"]
    with pytest.raises(UsageError, match=r"config.toml:\d+: .* expected user = NAME"):
        lines_of(entries["inbox"], True)
    assert not [line for line in lines_of(entries["inbox"], False) if line.startswith("User=")]


def test_words_are_quoted(tmp_path):
    (tmp_path / "config.toml").write_text("[cproxy.a]\narguments = 5200\nvia = 'ssh -T \"b c\" \\ 100% $HOME'\n")
    (entry,) = read_entries([str(tmp_path / "config.toml")]).values()
    (start,) = [line for line in lines_of(entry, False) if line.startswith("ExecStart=")]
    assert start == (
        r'ExecStart=/bin/true cproxy --survive --name a --via "ssh -T \"b c\" \\ 100%% $$HOME" 5200')
