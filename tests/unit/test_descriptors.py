"""Descriptors that a process began with, and those that came since."""

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from mproxy.io.descriptors import Inherited

# In a process of its own, as it closes whatever it finds.
CLOSE = """\
import os
from mproxy.io.descriptors import close_others
os.dup2(1, 9)
os.dup2(1, 11)
os.dup2(1, 2000)
close_others({1, 9, 4000})
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
print(*filter(is_open, range(5000)))
"""


@pytest.fixture
def pipe():
    """The two ends of a pipe; a test may close them."""
    fds = os.pipe()
    yield fds
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_what_came_later_is_a_stranger(pipe):
    inherited = Inherited()
    assert inherited.strangers() == []
    with socket.socket() as late, socket.socket() as later:
        assert inherited.strangers() == sorted((late.fileno(), later.fileno()))
    assert all(map(inherited.has, pipe))


def test_another_file_with_the_number_of_one_that_was_closed_is_a_stranger(pipe):
    with socket.socket() as first:
        inherited = Inherited()
        number = first.fileno()
        with socket.socket() as second:
            os.dup2(second.fileno(), number)
        assert inherited.strangers() == [number] and not inherited.has(number)


def test_what_was_closed_is_not_there(pipe):
    inherited = Inherited()
    os.close(pipe[0])
    assert not inherited.has(pipe[0]) and inherited.has(pipe[1])
    assert inherited.strangers() == []


def test_the_others_are_closed():
    done = subprocess.run([sys.executable, "-c", CLOSE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "2", "9"]


def test_what_leads_nowhere_any_more_is_a_stranger_all_the_same():
    """Goal: a worker that died while it looked which descriptors there are has left one that stat(2) fails for."""
    inherited = Inherited()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        late = os.open(f"/proc/{process.pid}/fd", os.O_RDONLY)
    try:
        assert inherited.strangers() == [late]
    finally:
        os.close(late)
