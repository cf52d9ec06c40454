"""A program that is killed again and again behind its system calls: cproxy's and sproxy's endpoints, joined.

    dying_worker.py LISTENER DAEMON-PORT SEED       run by test_adopting.py with dying.c preloaded

Applications connect to the listening descriptor; every stream goes to the daemon. Each time it is killed, another
process goes on with the states of sessions and streams, their rings, and the descriptors, and nothing else. On standard
output: a byte for each life, "!" when an application was lost. It ends when its standard input does.
"""

import ctypes
import os
import random
import socket
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.drivers._outlive import claimed, succeed, take_on

from mproxy._session import Session
from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.endpoint._app_listener import AppListener
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import SessionConfig
from mproxy.io._accept import AcceptGate
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.accept_observer import AcceptObserver

PR_SET_CHILD_SUBREAPER = 36
MOST_CALLS = 60  # in a life
ID, SECRET = bytes(range(16)), bytes(32)
CONFIG = SessionConfig(heartbeat_us=1_000_000, window_bytes=65536, session_budget_bytes=1 << 20)


class Worker:
    """All its lives; what a process would know besides is made anew in `live`."""

    def __init__(self, listener, daemon_port, seed):
        self.listener = socket.socket(fileno=listener)
        self.daemon = Target("daemon", [(socket.AF_INET, ("127.0.0.1", daemon_port))])
        self.chance = random.Random(f"{seed} deaths")
        self.ends = []       # [client's endpoint, server's]
        self.former = []     # what must not be let go: the states are in use
        self.epoch = 0
        self.next = ctypes.CFUNCTYPE(None)(self.live)
        self.libc = ctypes.CDLL(None)
        self.own = descriptors()

    def live(self):
        """From the first instruction to the last; does not return."""
        try:
            self.run()
        except BaseException:
            traceback.print_exc()
        os._exit(1)

    def run(self):
        accepted = self.close_unclaimed()
        loop = Loop()
        loop.on_error = lambda error: os._exit(2)
        lost = self.begin(loop) if not self.ends else self.go_on(loop)
        client, server = self.ends
        server.default_target = self.daemon
        listener = AppListener(AcceptGate(loop, AcceptObserver()), self.listener.fileno(), client)
        watch = loop.watch(0, lambda _events: os._exit(0))
        for fd in accepted:
            take_on(client, fd)
        os.write(1, b"!" if lost else b".")
        self.libc.die_behind(self.chance.randint(1, MOST_CALLS), self.next)
        self.attach(loop)
        self.former.append((loop, listener, watch))
        loop.run()

    def begin(self, loop):
        for is_server in (False, True):
            session = Session(CONFIG, is_server=is_server, session_id=ID, secret=SECRET)
            self.ends.append(Endpoint(loop, session, EndpointObserver()))
        return 0

    def go_on(self, loop):
        """Returns how many applications were lost."""
        successors = [succeed(end, loop, CONFIG, EndpointObserver()) for end in self.ends]
        self.former.append(self.ends)
        self.ends = [end for end, _ in successors]
        return sum(lost for _, lost in successors)

    def attach(self, loop):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.socket()  # create_connection would import, and who dies meanwhile leaves half a module
            one.connect(listener.getsockname())
            other, _ = listener.accept()
        self.epoch += 1
        firsts = [end.session.streams.resume_list() for end in self.ends]
        for end, sock, first in zip(self.ends, (one, other), firsts, strict=True):
            sock.setblocking(False)
            end.attach(TcpCarrier(loop, sock.detach()), self.epoch, CONFIG.window_bytes, CONFIG.session_budget_bytes,
                       first, b"")

    def close_unclaimed(self):
        """What another process would not know; returns applications that were accepted and not noted."""
        known = self.own.union(*(claimed(end) for end in self.ends))
        accepted = []
        for fd in descriptors() - known:
            try:
                with socket.socket(fileno=os.dup(fd)) as sock:
                    ours = sock.getsockname() == self.listener.getsockname() and not sock.getsockopt(
                        socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            except OSError:
                ours = False
            if ours:
                accepted.append(fd)
            else:
                os.close(fd)
        return accepted


def descriptors():
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    return {fd for fd in found if os.path.lexists(f"/proc/self/fd/{fd}")}  # not the one that listed them


def main():
    """This process makes the worker and gathers the dead; none of them does any work here."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.setrecursionlimit(1_000_000)
    if os.fork() == 0:
        Worker(*map(int, sys.argv[1:])).live()
    status = 0
    while True:
        try:
            _, status = os.wait()
        except ChildProcessError:
            sys.exit(os.waitstatus_to_exitcode(status))


main()
