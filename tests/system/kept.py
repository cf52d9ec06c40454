"""A program under a keeper, to be killed: an echo server that also does what it is told in lines.

    python kept.py [--young MS] [--most N] [--start WHAT] [--reaper] [--job]

A line it knows is done and answered, any other one comes back. Its connections outlive its workers. `--start`: each
worker first does WHAT. `--reaper`: orphans come to it, as to the first process of a container. `--job`: run it as a
shell does, on the terminal that is its standard input.
"""

import argparse
import ctypes
import fcntl
import mmap
import os
import random
import signal
import socket
import ssl
import struct
import sys
import termios
import threading
import time

from mproxy.io._loop import Loop
from mproxy.keeper.deaths import INTERNAL_ERROR, Deaths
from mproxy.keeper.keeper import Keeper
from mproxy.keeper.main_process import main_pid
from mproxy.keeper.signals import passed_on
from mproxy.service.log import Log
from mproxy.service.signal_handlers import install_signals

TURN = struct.Struct("q")


class Echo:
    """One worker: it serves the connections that the one before has left, and new ones."""

    def __init__(self, keeper, loop, log, listener, page, left):
        self.keeper, self.loop, self.log, self.page = keeper, loop, log, page
        self.listener, self.left, self.status = listener, left, 0

    def run(self, start):
        if start:
            self.do(start)
        install_signals(self.loop, self.stop, self.reload, orders=self.keeper.orders)
        self.keeper.let_signals_through()
        for sock in self.left:
            self.serve(sock)
        self.loop.watch(self.listener.fileno(), lambda _events: self.serve(self.listener.accept()[0]))
        self.log.info("serving", pid=os.getpid(), keeper=os.getppid(), main=main_pid(), group=os.getpgrp(),
                      condemned=",".join(map(str, sorted(self.keeper.condemned))))
        self.loop.run()
        return self.status

    def stop(self, name):
        self.log.info("stopping", signal=name)
        if not self.page[TURN.size]:  # it hangs
            self.loop.stop()

    def reload(self):
        self.log.info("reloaded")
        if self.page[TURN.size + 1]:
            self.do("kill SIGABRT")
        return True

    def serve(self, sock):
        watch = self.loop.watch(sock.fileno(), lambda _events: self.answer(sock, watch))

    def answer(self, sock, watch):
        lines = sock.recv(65536).decode()
        if not lines:
            watch.close()
            sock.close()
        for line in lines.splitlines():
            answer = self.do(line)
            sock.sendall(f"{line if answer is None else answer}\n".encode())

    def do(self, line):
        """The answer to a line; None if it is not one to be done."""
        word, _, rest = line.partition(" ")
        command = getattr(self, f"do_{word}", None)
        return command(rest) if command else None

    def do_kill(self, name):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(10)  # nothing follows

    def do_pid(self, _rest):
        return os.getpid()

    def do_exit(self, status):
        self.status = int(status)
        self.loop.stop()

    def do_raise(self, text):
        raise SystemError(text)

    def do_hang(self, _rest):
        self.page[TURN.size] = 1
        return "hangs"

    def do_stumble(self, _rest):
        """Die of the next reload."""
        self.page[TURN.size + 1] = 1
        return "stumbles"

    def do_unhandle(self, _rest):
        """Be as the interpreter is at its end."""
        signal.signal(passed_on(signal.SIGTERM), signal.SIG_DFL)
        return "unhandled"

    def do_turn(self, session):
        TURN.pack_into(self.page, 0, int(session))
        return "turn"

    def do_fds(self, _rest):
        return " ".join(sorted(os.listdir("/proc/self/fd"), key=int)[:-1])

    def do_chance(self, _rest):
        return f"{ssl.RAND_bytes(8).hex()} {random.getrandbits(64):x} {os.urandom(8).hex()}"

    def do_identity(self, _rest):
        """What libraries believe about process and thread."""
        thread = threading.Thread(target=lambda: found.append(threading.get_native_id()))
        found = []
        thread.start()
        thread.join()
        own = os.getpid() == threading.get_native_id()
        clock = time.pthread_getcpuclockid(threading.get_ident())  # made of the number that the C library has kept
        return f"{own} {clock == ~os.getpid() << 3 | 6} {found[0] != os.getpid()}"

    def do_orphan(self, _rest):
        """Leave a process behind."""
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.05)
            os._exit(0)
        os.wait()
        return "left"


def keep(options):
    ssl.RAND_bytes(1)  # so that its state is there to be copied
    log, loop, left, page = Log(), Loop(), [], mmap.mmap(-1, mmap.PAGESIZE)
    listener = socket.create_server(("127.0.0.1", 0))

    def claim(fds):
        left[:] = filter(None, map(connection, fds))
        return {sock.fileno() for sock in left}

    keeper = Keeper(loop, log, Deaths(options.young * 1000, options.most), claim, lambda: TURN.unpack_from(page)[0])
    log.info("listening", port=listener.getsockname()[1], pid=os.getpid())
    keeper.hold_signals()
    return keeper.run(lambda: Echo(keeper, loop, log, listener, page, left).run(options.start))


def connection(fd):
    """A socket for a descriptor that is a connection to us; None for another one."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return None
    try:
        if sock.family == socket.AF_INET and sock.getpeername():
            return sock
    except OSError:
        pass
    sock.detach()
    return None


def run_as_job(argv):
    """Run a program in the foreground of this terminal, and say how it fares."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    attributes = termios.tcgetattr(0)
    attributes[3] |= termios.ISIG
    termios.tcsetattr(0, termios.TCSANOW, attributes)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, *argv])
    while True:
        _, status = os.waitpid(job, os.WUNTRACED | os.WCONTINUED)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        print("job stopped" if os.WIFSTOPPED(status) else "job continued", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--young", type=int, default=1000)
    parser.add_argument("--most", type=int, default=10)
    parser.add_argument("--start")
    parser.add_argument("--reaper", action="store_true")
    parser.add_argument("--job", action="store_true")
    options = parser.parse_args()
    if options.job:
        return run_as_job([word for word in sys.argv if word != "--job"])
    if options.reaper:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    try:
        return keep(options)
    except SystemError:
        return INTERNAL_ERROR
    except Exception as error:
        print(f"kept: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
