"""sproxy --authorized-keys-command with real cproxies: who waits for its answer, and who does not."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from lab import until
from proxies import state_dir
from traffic import read_exactly

from mproxy.policy.keys import public_line
from tests import keys
from tests.root import real_root

NOBODY = ["--authorized-keys-command-user", "nobody"]

pytestmark = pytest.mark.skipif(not real_root(), reason="only the real root can become another user")


@pytest.fixture
def asking(pair):
    """sproxy asks a program, which the test writes: `asking.says(script)`. Without a list in a file."""
    directory = Path(tempfile.mkdtemp())  # where nobody may go, too
    directory.chmod(0o755)
    program = directory / "who"

    def says(script):
        new = program.with_suffix(".new")
        new.write_text(f"#!/bin/sh\n{script}\n")
        new.chmod(0o755)
        new.rename(program)
    pair.says = says
    pair.ask = lambda *options: pair.start_sproxy(
        "--authorized-keys-command", f"{program} %t %k %u", *NOBODY, *options)
    says("id -un >&2; echo 'target=\"127.0.0.1:7007\" '\"$1 $2\" of $3")
    pair.echo()
    yield pair
    shutil.rmtree(directory)


def echoed(pair):
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    return app


def is_echoed(pair):
    try:
        return bool(echoed(pair))
    except (ConnectionError, EOFError):
        return False


@pytest.mark.parametrize("carrier", ["tcp", "datagram"])
def test_a_key_in_no_file_is_asked_about(asking, carrier):
    asking.ask("--udp")
    asking.start_cproxy("--carrier", carrier)
    echoed(asking)
    assert asking.sproxy.event("connected")["comment"] == "of root"


def test_it_runs_as_that_user_and_its_failure_lets_nobody_in(asking):
    asking.says("id -un >&2; exit 7")
    asking.ask()
    asking.start_cproxy()
    assert asking.app_is_reset()
    assert asking.sproxy.event("authorized-keys-command")["why"] == "exit status 7: nobody"
    assert "--authorized-keys-command has failed" in asking.cproxy.event("dial-failed")["why"]


def test_who_is_in_a_file_does_not_wait(asking):
    """Goal: nor do living sessions while a stranger's key is being asked about; a resume needs no new answer."""
    list_file = state_dir(asking.lab.server) / "authorized_keys"
    list_file.write_text(public_line(keys.context(2, True).spki))
    list_file.chmod(0o600)
    asking.says("sleep 30")
    asking.ask()
    asking.start_cproxy()
    echoed(asking)
    assert asking.sproxy.events("authorized-keys-command") == []


def test_a_session_goes_on_while_the_program_fails_or_hangs(asking):
    """Goal: it resumes by the last answer, also when the answer is lost with its worker."""
    asking.ask("--keeper")
    asking.start_cproxy("--carrier", "tcp")
    app = echoed(asking)
    asking.says("exit 1")
    asking.lab.wifi.pull()
    asking.lab.wifi.give(9)
    asking.cproxy.event("resumed")
    app.sendall(b"on")
    assert read_exactly(app, 2) == b"on"
    asking.says("sleep 0.3; echo \"$1 $2\"")
    subprocess.run(["kill", "-9", str(asking.sproxy.worker_pid)], check=True)
    asking.cproxy.event("resumed", count=2)
    app.sendall(b"and on")
    assert read_exactly(app, 6) == b"and on"
    until(lambda: is_echoed(asking), 15, "a new connection is let in")  # nothing new before it has answered
    assert not asking.sproxy.events("ended")


def test_a_key_that_it_takes_away_loses_its_session(asking):
    asking.ask()
    asking.start_cproxy()
    echoed(asking)
    asking.says("exit 0")
    asking.sproxy.process.send_signal(1)
    assert "not in authorized_keys" in asking.sproxy.event("ended")["why"]
    assert asking.app_is_reset()
