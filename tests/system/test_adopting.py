"""Applications go on when the process between them is killed: their connections, in another process.

A real kill behind system calls, in both sessions at once (dying_worker.py); every byte is checked, both ways.
"""

import os
import select
import socket
import subprocess
import sys

import pytest
from conversations import PATIENCE_S, Meeting
from lab import HERE

DEATHS = 100
AT_ONCE = 3


class Worker:
    """The program that dies, and what is at its two sides."""

    def __init__(self, directory, seed):
        library = directory / "dying.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "dying.c", "-ldl"], check=True)
        daemon = socket.create_server(("127.0.0.1", 0))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        address = listener.getsockname()
        self.meeting = Meeting(lambda: socket.create_connection(address, timeout=PATIENCE_S), daemon)
        self.lives = b""
        os.set_inheritable(listener.fileno(), True)
        self.process = subprocess.Popen(
            [sys.executable, HERE / "dying_worker.py", str(listener.fileno()), str(daemon.getsockname()[1]),
             str(seed)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"LD_PRELOAD": str(library)},
            pass_fds=[listener.fileno()])
        listener.close()

    def count_lives(self):
        while select.select([self.process.stdout], [], [], 0)[0]:
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            assert more, "the worker has ended"
            self.lives += more
        return len(self.lives)

    def close(self):
        self.process.stdin.close()
        try:
            assert self.process.wait(PATIENCE_S) == 0
        finally:
            self.process.kill()
            self.meeting.daemon.close()


@pytest.fixture
def worker(tmp_path, seed):
    one = Worker(tmp_path, seed)
    yield one
    one.close()


def test_no_byte_is_lost_or_repeated(worker, seed):
    """Goal: killed behind any system call, again and again, both ends of the session at once: all that the applications
    and the daemons wrote arrives, each end and each reset behind it."""
    number, under_way = 0, []
    while worker.count_lives() < DEATHS or under_way:
        while worker.lives.count(b".") < DEATHS and len(under_way) < AT_ONCE:
            number += 1
            under_way.append(worker.meeting.converse(f"{seed} {number}"))
        under_way.pop(0).join()
    assert b"!" not in worker.lives
