"""A crowd of hostile clients, as a program: crowd.py ADDRESS PORT SESSIONS tls|plaintext

Each quarter of them does one thing, as fast as it can, until it is killed:

    stuff    fills the windows of some streams and never reads, and neither does their daemon
    open     opens stream after stream, thousands of them, and never answers a heartbeat
    crumbs   sends DATA of one byte each
    resume   dials again and again and takes its own session over each time

Prints `ready SESSIONS` when all have had a session, and `again N` when the N-th client had to start again.
"""

import os
import resource
import selectors
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from wire_peer import DATA, MIB, OPEN, end_mark, frame

from mproxy.ground.errors import PeerError
from mproxy.handshake import Caller, Hello
from tests import keys

KINDS = ("stuff", "open", "crumbs", "resume")
PORTION = 64 * 1024
IDLE_PART = 4  # as long as it worked, times this, the crowd then rests: processors are not what it is to take away
STUFFED = b"127.0.0.1:7009"  # the daemon of those who stuff


class Crowd:
    """All of them in one loop."""

    def __init__(self, address, port, count, encrypts):
        self.address = address, port
        self.encrypts = encrypts
        self.selector = selectors.DefaultSelector()
        self.welcomed = self.again = 0
        self.count = count
        self.clients = [Client(self, KINDS[number % len(KINDS)]) for number in range(count)]

    def run(self):
        """Never ends."""
        for number, client in enumerate(self.clients):
            client.dial()
            if number % 20 == 0:
                self.turn(0.01)
        while True:
            began = time.process_time()
            self.turn(1)
            if self.welcomed == self.count:
                time.sleep((time.process_time() - began) * IDLE_PART)

    def turn(self, wait):
        for key, events in self.selector.select(wait):
            if key.data.connection is key.fileobj:
                key.data.on_ready(events)

    def tell_welcomed(self):
        self.welcomed += 1
        if self.welcomed == self.count:
            print("ready", self.count, flush=True)


class Client:
    """One hostile session."""

    def __init__(self, crowd, kind):
        self.crowd, self.kind = crowd, kind
        self.connection = None
        self.instance = os.urandom(16)
        self.session_id = self.secret = b""  # what a resume needs
        self.epoch = time.time_ns() // 1000
        self.known = False

    def dial(self):
        """Opens a new connection and drops the one before."""
        self.drop()
        self.connection = socket.socket()
        # What waits here to be sent would lie on other hosts; that of the test has one memory for all.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PORTION // 4)
        self.connection.setblocking(False)
        self.connection.connect_ex(self.crowd.address)
        self.epoch += 1
        hello = Hello(self.session_id, self.instance, os.urandom(16), self.epoch, 64 * MIB, 4 * MIB)
        self.tls = keys.client() if self.crowd.encrypts else None
        self.caller = Caller(lambda: (hello, end_mark(1), self.secret), self.tls)
        self.out = b""
        self.welcomed = False
        self.script = getattr(self, self.kind)()
        self.crowd.selector.register(self.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def drop(self):
        if self.connection is not None:
            self.crowd.selector.unregister(self.connection)
            self.connection.close()
            self.connection = None

    def on_ready(self, events):
        try:
            if events & selectors.EVENT_READ and not self.welcomed:
                self.read_welcome()
            if events & selectors.EVENT_WRITE and self.connection is not None:
                self.write()
        except BlockingIOError:
            pass
        except (OSError, PeerError):
            self.begin_anew()

    def read_welcome(self):
        data = self.connection.recv(PORTION)
        if not data:
            raise ConnectionResetError
        welcome = self.caller.feed(data)
        if welcome is None:
            self.crowd.selector.modify(self.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
            return
        self.welcomed = True
        if not self.known:
            self.known = True
            self.crowd.tell_welcomed()
        if not self.session_id:
            self.session_id, self.secret = welcome.session_id, welcome.secret
        if self.kind == "resume":
            self.dial()
        else:  # from now on nothing is read any more
            self.crowd.selector.modify(self.connection, selectors.EVENT_WRITE, self)

    def write(self):
        if not self.out:
            self.out, self.caller.outgoing = self.caller.outgoing, b""
        if not self.out:
            if not self.welcomed:
                self.crowd.selector.modify(self.connection, selectors.EVENT_READ, self)
                return
            words = next(self.script)
            self.out = self.tls.seal(words) if self.tls is not None else words
        self.out = self.out[self.connection.send(self.out):]

    def begin_anew(self):
        """sproxy ended the session: start another one."""
        self.crowd.again += 1
        print("again", self.crowd.again, flush=True)
        self.session_id = self.secret = b""
        self.dial()

    # what each kind sends after its WELCOME

    def stuff(self):
        for stream in range(1, 5):
            yield frame(OPEN, stream=stream, payload=STUFFED)
        offset = 0
        while True:
            for stream in range(1, 5):
                yield frame(DATA, stream=stream, seq=offset, payload=bytes(PORTION))
            offset += PORTION

    def open(self):
        stream = 0
        while True:
            yield b"".join(frame(OPEN, stream=stream + n) + frame(DATA, stream=stream + n, payload=b"hello")
                           for n in range(1, 51))
            stream += 50

    def crumbs(self):
        yield frame(OPEN, stream=1)
        offset = 0
        while True:
            yield b"".join(frame(DATA, stream=1, seq=offset + n, payload=b"x") for n in range(1000))
            offset += 1000

    def resume(self):
        yield b""


def main(address, port, count, carriers):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Crowd(address, int(port), int(count), carriers == "tls").run()


if __name__ == "__main__":
    main(*sys.argv[1:])
