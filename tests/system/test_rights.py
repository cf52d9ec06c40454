"""The rights that the programs have, and what other users can do to them."""

import os
import pwd
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from lab import as_nobody
from proxies import CPROXY, CPROXY_PORT, ROOT, SPROXY, SPROXY_PORT, state_dir
from test_start_up import fails

from mproxy.policy.keys import find_spki, public_line
from tests import keys
from tests.root import real_root

NOBODY = pwd.getpwnam("nobody")
MPROXY = [sys.executable, "-m", "mproxy.programs.main"]
HERE = {"PYTHONPATH": os.fspath(ROOT)}
only_root = pytest.mark.skipif(not real_root(), reason="only the real root can become another user")


def line_of(number):
    """The key of client `number` as authorized_keys has it."""
    return public_line(find_spki(keys.pem(number), "test"))


def is_nobody(program):
    """Whether every thread of a program has only the rights of nobody, and cannot get others."""
    threads = list(Path(f"/proc/{program.pid}/task").iterdir())
    for thread in threads:
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
        assert status["Gid"].split() == [str(NOBODY.pw_gid)] * 4
        assert set(status["Groups"].split()) <= {str(NOBODY.pw_gid)}
        assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
    assert Path(f"/proc/{program.pid}/environ").stat().st_uid == 0, "not dumpable, by nobody either"
    return len(threads)


COMMANDS = pytest.mark.parametrize("command", [[CPROXY, CPROXY_PORT, "server", 1], [SPROXY, SPROXY_PORT]],
                                   ids=["cproxy", "sproxy"])


@COMMANDS
def test_no_core_dump(lab, command):
    """Goal: no core file, which would hold keys."""
    program = lab.client.start(*command)
    program.event("listening")
    limits = Path(f"/proc/{program.pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")] == [["0", "0"]]


@only_root
@COMMANDS
def test_no_debugger(lab, command, tmp_path):
    """Goal: the /proc files of a program that runs as nobody belong to root (which is how the system shows that its
    user may neither trace it nor read its memory); those of another program of nobody's belong to nobody."""
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


@only_root
def test_sproxy_gives_up_the_rights_of_root(pair, lab):
    """Goal: a port below 1024, then another user for good: all four ids, no groups, no capabilities; relaying works."""
    lab.server.home.joinpath("state").mkdir(exist_ok=True)
    pair.echo()
    pair.start(sproxy=("--user", "nobody"))
    with pair.app() as app:
        app.sendall(b"hello")
        assert app.recv(5) == b"hello"
    is_nobody(pair.sproxy)


@only_root
def test_keys_that_the_user_cannot_reach_stay_in_force(pair, lab):
    """Goal: if authorized_keys is in root's directory, as without --state-dir, the keys that were read at the start
    count, although the user cannot even look whether the file has changed."""
    directory = state_dir(lab.server)
    directory.joinpath("authorized_keys").write_text(line_of(2) + "\n")
    directory.parent.chmod(0o700)
    pair.echo()
    pair.start(sproxy=("--user", "nobody"))
    assert "restart" in pair.sproxy.event("file-out-of-reach")["why"]
    os.kill(pair.sproxy.pid, signal.SIGHUP)  # it looks at the file
    assert pair.sproxy.event("reloaded")["keys"] == "1"
    with pair.app() as app:
        app.sendall(b"hello")
        assert app.recv(5) == b"hello"
    assert "nobody may connect" not in pair.sproxy.log.text


@only_root
def test_file_that_will_be_out_of_reach_is_told(lab):
    """Goal: an authorized_keys file that the user may not read is reported at the start, not at its next change."""
    state = lab.server.home / "state" / "mproxy"
    state.mkdir(parents=True, mode=0o700)
    (state / "authorized_keys").touch(0o600)
    sproxy = lab.server.start(SPROXY, "--user", "nobody", SPROXY_PORT)
    assert sproxy.event("file-out-of-reach")["file"] == str(state / "authorized_keys")


def test_user_that_does_not_exist(lab):
    """Goal: one line, before anything is done."""
    assert "no-such-user" in fails(lab.server.start(SPROXY, "--user", "no-such-user", SPROXY_PORT), "sproxy")


@only_root
def test_another_user_without_root(lab):
    """Goal: --user by somebody who is not root: one line."""
    program = lab.server.start(*as_nobody(), SPROXY, "--user", "daemon", SPROXY_PORT,
                               env={"HOME": os.fspath(lab.server.home)})
    assert "root" in fails(program, "sproxy")


# ---- recv

def secret_of(host):
    """A secret that only root can read, in a directory that only root can enter."""
    directory = host.home / "root"
    directory.mkdir(mode=0o700)
    path = directory / "secret"
    path.write_bytes(bytes(range(200, 232)))
    path.chmod(0o600)
    return path


@pytest.fixture
def incoming():
    """A directory that belongs to nobody and can be reached: not below those of pytest, which are private."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "incoming"
        path.mkdir()
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        yield path


def sends(host, port, *options):
    """Send a file to the receiver on this host; returns how it ended."""
    (host.home / "f").write_bytes(b"data")
    sender = host.start(*MPROXY, "send", *options, host.home / "f", "127.0.0.1", port, env=HERE)
    return sender.wait()


@only_root
@pytest.mark.parametrize("where", ["incoming/", "incoming/made here/", "incoming/name"])
def test_recv_gives_up_the_rights_of_root(lab, incoming, where):
    """Goal: a port below 1024 and root's secret, then another user for good, before there is a second thread; new files
    and directories belong to that user."""
    host, key = lab.server, secret_of(lab.server)
    host.run("sysctl", "-q", "net.ipv4.ip_unprivileged_port_start=1024")
    output = f"{incoming.parent}/{where}"
    receiver = host.start(*MPROXY, "recv", "--user", "nobody", "--key", key, "-o", output, 705, env=HERE)
    receiver.event("listening")
    assert is_nobody(receiver) > 1
    assert sends(host, 705, "--key", key) == 0
    file = Path(output) / "f" if where.endswith("/") else Path(output)
    assert file.read_bytes() == b"data"
    assert {path.stat().st_uid for path in (file, file.parent)} == {NOBODY.pw_uid}


@only_root
def test_recv_knows_its_senders_by_a_file_of_root(lab, incoming):
    """Goal: keys in the state directory, which the user can neither read nor reach, are read before and are in
    force."""
    host, directory = lab.server, state_dir(lab.server)
    directory.mkdir(mode=0o700, parents=True)
    for name, number in (("host-key.pem", 1), ("client-key.pem", 2)):
        (directory / name).touch(0o600)
        (directory / name).write_bytes(keys.pem(number))
    (directory / "authorized_keys").write_text(line_of(2) + "\n")
    receiver = host.start(*MPROXY, "recv", "--user", "nobody", "--own-key", "-o", incoming, 7000, env=HERE)
    assert receiver.event("file-out-of-reach")["file"] == str(directory / "authorized_keys")
    receiver.event("listening")
    assert sends(host, 7000, "--own-key") == 0
    assert (incoming / "f").read_bytes() == b"data"


@only_root
@pytest.mark.parametrize("where, says", [
    ("", "-o {}: cannot write to this directory as nobody"),
    ("new/", "-o {}: cannot create this directory as nobody: Permission denied"),
    ("name", "-o {}: cannot write to its directory as nobody"),
])
def test_recv_where_the_user_may_not_write(lab, incoming, where, says):
    """Goal: a directory that belongs to root is reported at the start, not to each sender; nothing is made as root."""
    os.chown(incoming, 0, 0)
    output = f"{incoming}/{where}"
    program = lab.server.start(*MPROXY, "recv", "--user", "nobody", "--open", "-o", output, 7000, env=HERE)
    assert says.format(output) in fails(program, "mproxy recv")
    assert list(incoming.iterdir()) == []


@pytest.mark.parametrize("who, says", [
    ("no-such-user", "there is no such user"), ("daemon", "only when started as root")])
def test_recv_with_a_wrong_user(lab, who, says):
    """Goal: one line, and no directory is made."""
    prefix = as_nobody() if who == "daemon" else []
    if prefix and not real_root():
        pytest.skip("only the real root can become another user")
    new = lab.server.home / "new"
    program = lab.server.start(*prefix, *MPROXY, "recv", "--user", who, "--open", "-o", f"{new}/", 7000, env=HERE)
    assert says in fails(program, "mproxy recv")
    assert not new.exists()
