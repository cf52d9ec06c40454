"""Gives tests that make networks the rights of root, in a user namespace if they were started by somebody else."""

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HOLDER = Path(__file__).parent / "system" / "_holder.py"

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def become_root():
    """Enters a user namespace as its root, unless the run is root's already. OSError where that is forbidden.

    It works only while the process has one thread, so it is done before pytest-xdist starts the processes that run the
    tests; they inherit the namespace.
    """
    if os.geteuid() == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    # A network of its own too: nobody gets back into a namespace that belongs to another user. And mounts of its own,
    # for tests that mount something themselves.
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "user namespaces are not allowed here")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def real_root():
    """True if the uid is root's and not merely called so: sshd needs other users to drop privileges to."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[2] != "1"


def why_no_hosts():
    """Why a host of the lab (tests/system/lab.py) cannot be made here, in one line; None if it can."""
    try:
        become_root()
        with tempfile.TemporaryDirectory() as etc:
            done = subprocess.run(
                ["unshare", "--net", "--mount", "--", sys.executable, "-I", "-S", HOLDER, etc],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        return str(error)
    if done.stdout == "ready\n":
        return None
    return (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
