"""The units for systemd in contrib/: what they start exists, and can be enabled."""

import re

import pytest

from tests.meta.sources import ROOT

UNITS = sorted([*ROOT.glob("contrib/*.service"), *ROOT.glob("contrib/*.socket")])
PROGRAMS = {"cproxy", "sproxy", "mproxy"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_can_be_enabled_where_it_is_installed(unit):
    """Goal: `make install` puts the programs into PREFIX/bin and replaces /usr/local/bin in units; no other path."""
    text = unit.read_text()
    assert "\n[Install]\nWantedBy=" in text
    for command in re.findall(r"^Exec\w+=(\S+)", text, re.MULTILINE):
        directory, _, program = command.rpartition("/")
        assert (directory == "/usr/local/bin" and program in PROGRAMS) or command == "kill"


def test_sandboxed():
    """Goal: a service that talks to strangers has only the rights it needs."""
    for unit in UNITS:
        if unit.suffix == ".service":
            for setting in ("NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "CapabilityBoundingSet=",
                            "SystemCallFilter=@system-service", "MemoryDenyWriteExecute=yes"):
                assert f"\n{setting}" in unit.read_text(), f"{unit.name}: {setting}"


def test_what_is_kept_over_a_restart():
    """Goal: the program learns from every systemd how much that is; and a restart is not a stop."""
    for name in ("cproxy", "sproxy"):
        text = (ROOT / "contrib" / f"{name}@.service").read_text()
        room = re.search(r"^FileDescriptorStoreMax=(\d+)$", text, re.MULTILINE)[1]
        for setting in (f"Environment=FDSTORE={room}", "RestartKillSignal=SIGUSR1", "NotifyAccess=main",
                        f"ExecStart=/usr/local/bin/{name} --survive $ARGUMENTS"):
            assert f"\n{setting}\n" in text, setting


def test_services_that_share_a_state_directory_share_a_user():
    """Goal: systemd gives the directory to the user of whichever is started last; the others could not read their keys.
    The name of a dynamic user is made of the unit's, unless User= says another one."""
    for unit in UNITS:
        text = unit.read_text()
        if "\nDynamicUser=yes" in text and "\nStateDirectory=mproxy" in text:
            assert "\nUser=mproxy\n" in text, unit.name
