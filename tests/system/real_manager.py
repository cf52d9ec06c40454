"""A systemd of the test's own, as the first process of namespaces, with nothing but the units of contrib/."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from lab import until
from proxies import ROOT
from relays import MPROXY

from tests.root import real_root

SYSTEMD = Path("/lib/systemd/systemd")
NEEDS_SYSTEMD = pytest.mark.skipif(
    not (SYSTEMD.exists() and shutil.which("systemctl") and real_root()), reason="no systemd, or not the real root")

# Everything that it would find of this host, or leave here, is covered, but for the test's directory ($3). The units
# are put in their place by the test.
BEGIN = """
mount --make-rprivate / && mount -t proc proc /proc && umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 9
mount --bind "$1" /etc/systemd/system
exec 9< "$3"
for place in /run /tmp /var/tmp /var/lib /var/log /var/cache; do mount -t tmpfs tmpfs $place || exit 9; done
mkdir -p "$3" && mount --no-canonicalize --bind /proc/self/fd/9 "$3" && exec 9<&- || exit 9
exec env -i container=test PATH="$PATH" "$2" --system --unit=idle.target --log-target=console --show-status=no
"""
IDLE = "[Unit]\nDefaultDependencies=no\n"

# What a system starts with, and what empties places.
NEVER = ("sysinit.target", "rescue.target", "emergency.target", "systemd-tmpfiles-setup.service",
         "systemd-tmpfiles-clean.service")

# What the units rely on and a checkout does not have: a place outside of /home, files that any user may read, a
# journal.
DROP_IN = """[Unit]
DefaultDependencies=no
[Service]
User=root
DynamicUser=no
ProtectHome=no
StandardError=append:{log}
"""


class RealManager:
    """On `host`, where its services run, too. OSError where namespaces or cgroups of one's own are not allowed."""

    def __init__(self, host, directory):
        self.host = host
        self.directory = directory
        self.cgroup = own_cgroup() / f"mproxy-test-{os.getpid()}"
        self.cgroup.mkdir()
        self.units = directory / "units"
        self.units.mkdir()
        (self.units / "idle.target").write_text(IDLE)
        for name in NEVER:
            (self.units / name).symlink_to("/dev/null")
        enter = f'echo $$ > {self.cgroup}/cgroup.procs && exec "$@"'
        self.program = host.start(
            "sh", "-c", enter, "enter", "unshare", "--pid", "--mount", "--cgroup", "--ipc", "--fork", "--kill-child",
            "sh", "-c", BEGIN, "begin", self.units, SYSTEMD, directory)
        until(lambda: not self.program.running or self.ask("is-system-running", check=False).strip() == "running",
              30, f"systemd is up: {self.program}")
        if not self.program.running:
            self.close()
            raise PermissionError(str(self.program))

    @property
    def pid(self):
        """Of systemd, as this host counts."""
        children = Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children").read_text().split()
        return children[0] if children else "0"

    def ask(self, *words, check=True):
        """What systemctl says."""
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", "--pid", "--mount", "--cgroup", "--ipc", "systemctl", "--no-pager",
             *words],
            text=True, timeout=60, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert not check or done.returncode == 0, f"systemctl {words}: {done.stdout}\n{self.program}"
        return done.stdout

    def show(self, unit, name):
        return self.ask("show", "--value", f"--property={name}", unit).strip()

    def install(self, name, arguments, program):
        """The unit of contrib/, as NAME@test."""
        settings = self.directory / f"{name}-test"
        settings.write_text(f"ARGUMENTS={arguments}\n")
        log = self.directory / f"{name}.log"
        log.touch()
        unit = (ROOT / "contrib" / f"{name}@.service").read_text()
        unit = unit.replace(f"/usr/local/bin/{name}", str(program)).replace("/usr/local/bin/mproxy", str(MPROXY))
        unit = unit.replace("/etc/mproxy", str(self.directory))
        (self.units / f"{name}@.service").write_text(unit)
        (self.units / f"{name}@.service.d").mkdir(exist_ok=True)
        (self.units / f"{name}@.service.d" / "test.conf").write_text(DROP_IN.format(log=log))
        self.ask("daemon-reload")
        self.ask("start", f"{name}@test")
        return log

    def close(self):
        self.program.process.kill()
        self.program.process.wait()
        end = time.monotonic() + 30
        while (self.cgroup / "cgroup.procs").exists():
            for place, _directories, _files in os.walk(self.cgroup, topdown=False):
                try:
                    os.rmdir(place)
                except OSError:
                    assert time.monotonic() < end, f"something is left in {place}"
                    time.sleep(0.01)


def own_cgroup():
    """Where this process is in the second hierarchy of cgroups, as a directory."""
    inside = next(line[3:].strip() for line in Path("/proc/self/cgroup").read_text().splitlines()
                  if line.startswith("0::"))
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[words.index("-") + 1] == "cgroup2":
            return Path(words[4]) / inside.lstrip("/")
    raise PermissionError("there is no cgroup2")
