"""The part of a service manager that keeps descriptors over a restart, played by the test (sd_notify(3), FDSTORE=1)."""

import os
import socket
import threading

from proxies import PYTHON

# Becomes a program that has descriptors from 3 on, as a service manager starts it.
LAUNCH = """
import os, sys
given, names = sys.argv[1], sys.argv[2]
fds = [int(fd) for fd in given.split(",") if fd]
beyond = max(fds, default=3) + len(fds) + 3
high = [os.dup2(fd, beyond + at) for at, fd in enumerate(fds)]
os.closerange(3, beyond)
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.closerange(beyond, beyond + len(high))
if fds:
    os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Manager:
    """Of one service, which runs on `host`; `store` is [(name, descriptor), ...]."""

    def __init__(self, host, directory, room=4096):
        self.host, self.room = host, room
        self.store = []
        self.program = None
        self.address = str(directory / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            text, fds, _flags, _address = socket.recv_fds(self._socket, 4096, 253)
            if not text:
                return
            lines = text.decode().split("\n")
            fields = dict(line.split("=", 1) for line in lines)
            if fields.get("FDSTORE") == "1":
                assert fields["FDPOLL"] == "0", "it would forget connections that have ended"
                for fd in fds:
                    self._keep(fields["FDNAME"], fd)
            elif fields.get("FDSTOREREMOVE") == "1":
                self._drop_named(fields["FDNAME"])
            else:  # BARRIER=1
                for fd in fds:
                    os.close(fd)

    def _keep(self, name, fd):
        if len(self.store) < self.room:
            self.store.append((name, fd))
        else:
            os.close(fd)

    def _drop_named(self, gone):
        self.drop(lambda name, _number: name == gone)

    def drop(self, which):
        """Forget descriptors: `which(name, number)`."""
        gone = [entry for number, entry in enumerate(self.store) if which(entry[0], number)]
        self.store = [entry for entry in self.store if entry not in gone]
        for _name, fd in gone:
            os.close(fd)

    def names(self):
        return [name for name, _fd in self.store]

    def start(self, *argv, env=None):
        """The service, with what is in the store, in no order that it was left in."""
        given = list(reversed(self.store))
        self.program = self.host.start(
            PYTHON, "-I", "-S", "-c", LAUNCH, ",".join(str(fd) for _name, fd in given),
            ":".join(name for name, _fd in given), *argv, pass_fds=[fd for _name, fd in given],
            env={"NOTIFY_SOCKET": self.address, "FDSTORE": str(self.room), **(env or {})})
        return self.program

    def close(self):
        self.drop(lambda _name, _number: True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(self.address)
            sock.send(b"")
        self._thread.join()
        self._socket.close()
