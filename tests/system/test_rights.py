"""What the programs may do, and what others may do to them."""

import os
import pwd
import sys
from pathlib import Path

import pytest
from lab import as_nobody
from proxies import CPROXY, CPROXY_PORT, SPROXY, SPROXY_PORT
from test_start_up import fails

from tests.root import real_root

NOBODY = pwd.getpwnam("nobody")


def status_of(program):
    """/proc/PID/status as a dictionary."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{program.pid}/status").read_text().splitlines())


COMMANDS = pytest.mark.parametrize("command", [[CPROXY, CPROXY_PORT, "server", 1], [SPROXY, SPROXY_PORT]],
                                   ids=["cproxy", "sproxy"])


@COMMANDS
def test_no_core_dump(lab, command):
    """Goal: no core file, which would hold keys."""
    program = lab.client.start(*command)
    program.event("listening")
    limits = Path(f"/proc/{program.pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")] == [["0", "0"]]


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
@COMMANDS
def test_no_debugger(lab, command, tmp_path):
    """Goal: files in /proc of a program of nobody's are root's (which is how the system shows that its user may neither
    trace it nor read its memory); those of another program of his are his."""
    os.chown(tmp_path, NOBODY.pw_uid, NOBODY.pw_gid)
    for directory in tmp_path.parents[:2]:
        directory.chmod(0o711)
    program = lab.client.start(*as_nobody(), *command, "--state-dir", tmp_path)
    program.event("listening")
    other = lab.client.start(*as_nobody(), sys.executable, "-c",
                             "import signal; print('ready', flush=True); signal.pause()")
    other.expect("^ready$")
    owners = [Path(f"/proc/{pid}/environ").stat().st_uid for pid in (program.pid, other.pid)]
    assert owners == [0, NOBODY.pw_uid]


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_sproxy_gives_up_the_rights_of_root(pair, lab):
    """Goal: a port below 1024 and then another user for good: all four ids, no groups, no capabilities, and relaying
    goes on."""
    lab.server.home.joinpath("state").mkdir(exist_ok=True)
    pair.echo()
    pair.start(sproxy=("--user", "nobody"))
    with pair.app() as app:
        app.sendall(b"hello")
        assert app.recv(5) == b"hello"
    status = status_of(pair.sproxy)
    assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
    assert set(status["Groups"].split()) <= {str(NOBODY.pw_gid)}
    assert {status[name] for name in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}
    assert Path(f"/proc/{pair.sproxy.pid}/environ").stat().st_uid == 0, "not dumpable, by nobody either"


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_file_that_will_be_out_of_reach_is_told(lab):
    """Goal: authorized_keys that nobody may not read: said at the start, not at its next change."""
    state = lab.server.home / "state" / "mproxy"
    state.mkdir(parents=True, mode=0o700)
    (state / "authorized_keys").touch(0o600)
    sproxy = lab.server.start(SPROXY, "--user", "nobody", SPROXY_PORT)
    assert sproxy.event("file-out-of-reach")["file"] == str(state / "authorized_keys")


def test_user_that_does_not_exist(lab):
    """Goal: one line before anything is done."""
    assert "no-such-user" in fails(lab.server.start(SPROXY, "--user", "no-such-user", SPROXY_PORT), "sproxy")


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_another_user_without_root(lab):
    """Goal: --user by somebody who is not root: one line."""
    program = lab.server.start(*as_nobody(), SPROXY, "--user", "daemon", SPROXY_PORT,
                               env={"HOME": os.fspath(lab.server.home)})
    assert "root" in fails(program, "sproxy")
