"""What packages are made of: scripts that a shell understands, the licence, and what is named is there."""

import re
import subprocess

import pytest

from tests.meta.sources import ROOT

PACKAGING = ROOT / "contrib" / "packaging"
DEB = PACKAGING / "deb"


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_understood(name):
    text = (DEB / name).read_text()
    assert text.startswith("#!/bin/sh\n") and "\nset -e\n" in text
    done = subprocess.run(["sh", "-n", DEB / name], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_upgrade_keeps_connections():
    """Goal: programs that run are never stopped by an upgrade; the next version takes over."""
    assert "mproxy upgrade" in (DEB / "postinst").read_text()
    assert re.search(r'if \[ "\$1" = remove \]; then\n(?: .*\n)* *systemctl stop', (DEB / "prerm").read_text())


def test_the_licence_is_the_same():
    def words(text):
        return [word for word in text.split() if word != "."]
    assert words((DEB / "copyright").read_text())[-150:] == words((ROOT / "LICENSE").read_text())[-150:]


def test_the_image_has_no_root():
    recipe = (PACKAGING / "Dockerfile").read_text()
    assert "\nFROM scratch\n" in recipe
    (user,) = re.findall(r"^USER (\d+):\d+$", recipe, re.MULTILINE)
    assert f"\nUSER = {user}\n" in (PACKAGING / "make-root").read_text()
    assert '\nENTRYPOINT ["/usr/bin/tini", ' in recipe  # reaps
