"""Another build takes over from a program that has given up root's rights: it has them no more either."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from builds import Build
from conversations import PATIENCE_S, Meeting, still_joined
from lab import until
from proxies import CPROXY_PORT, DAEMON_PORT, ROOT, SPROXY
from test_upgrade import children_of

from tests.root import real_root

pytestmark = pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
LOW_PORT = 620


class Lowered:
    """sproxy as nobody, at a port below 1024, with a key that root alone can read; cproxy as ever."""

    def __init__(self, pair, lab, directory, listener, *options):
        self.build = Build(lab.server, SPROXY)
        temporary = Path(tempfile.gettempdir())
        above = (place for place in directory.parents if temporary in place.parents)
        for place in (directory, *above, lab.server.home, self.build.path.parent):
            place.chmod(0o711)
        self.sproxy = lab.server.start(
            self.build.path, "--keeper", *options, "--user", "nobody", LOW_PORT, f"127.0.0.1:{DAEMON_PORT}")
        pair.started.append(self.sproxy)
        self.sproxy.event("listening")
        pair.start_cproxy(server_port=LOW_PORT)
        self.meeting = Meeting(lambda: lab.client.connect(CPROXY_PORT, timeout=PATIENCE_S), listener)

    def upgrade(self):
        self.sproxy.process.send_signal(signal.SIGUSR2)


@pytest.fixture
def lowered(pair, lab, tmp_path):
    with lab.server.listen(DAEMON_PORT) as listener:
        yield Lowered(pair, lab, tmp_path, listener)


def python_of_nobody():
    """An interpreter that this user can start, and that has our modules; None if there is none."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            done = subprocess.run([python, "-IS", "-c", f"import sys; sys.path[0:0] = ['{ROOT}']; import mproxy._dump"],
                                  cwd="/", user=65534, group=65534, extra_groups=[], capture_output=True, check=False)
            if done.returncode == 0:
                return python
    return None


@pytest.mark.parametrize("options", [[], ["--workers", 2]], ids=["one worker", "two"])
def test_what_root_alone_may_open_is_handed_over(pair, lab, tmp_path, options):
    """Goal: port and key go along, again and again."""
    python = python_of_nobody()
    if python is None:
        pytest.skip("nobody cannot read this checkout, or no Python for it")
    with lab.server.listen(DAEMON_PORT) as listener:
        lowered = Lowered(pair, lab, tmp_path, listener, *options)
        lowered.build.run_by(python)
        app, daemon = lowered.meeting.joined()
        for count in range(1, 4):
            lowered.upgrade()
            lowered.sproxy.event("upgraded", count)
            assert still_joined(app, daemon)
        assert still_joined(*lowered.meeting.joined())


def test_a_build_out_of_the_users_reach(lowered):
    """Goal: one line, and the one that runs goes on."""
    app, daemon = lowered.meeting.joined()
    lowered.build.path.parent.chmod(0o700)
    for count in range(1, 3):
        lowered.upgrade()
        assert "Permission denied" in lowered.sproxy.event("upgrade-failed", count)["why"]
        assert still_joined(app, daemon)
        until(lambda: len(children_of(lowered.sproxy.pid)) == 1, 10, "only the worker is left")
    assert not lowered.sproxy.events("worker-died")
