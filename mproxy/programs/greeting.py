"""sproxy's reception: connections that have not yet shown a valid preamble and HELLO.

Each costs a descriptor and under 1 KiB, for at most PATIENCE_US; when there are too many the oldest gives way, so that
silent connections cannot keep a real cproxy out.
"""

import errno
import os
import socket

from mproxy._wire import CloseCode
from mproxy.errors import PeerError
from mproxy.handshake import Greeter
from mproxy.programs.common import say_address

# Preamble and HELLO leave in one segment; this is time for a few lost packets.
PATIENCE_US = 5_000_000

# How often to try again after descriptors ran out.
PAUSE_US = 500_000

ACCEPTS_A_TURN = 16
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# More than preamble and HELLO; what follows (the RESUME list) is read on.
RECEIVE_BYTES = 65536


class Reception:
    """Accepts on any number of listeners and hands over each guest that says HELLO.

    `admit(socket, hello, leftover)` takes the socket or raises PeerError.
    """

    def __init__(self, loop, log, config, admit):
        self._loop = loop
        self._log = log
        self._most = config.max_unfinished
        self._admit = admit
        self._listeners = {}  # socket -> Watch
        self._guests = {}     # Guest -> None, oldest first
        self._paused = False

    def open(self, listener):
        """Accept on a listening socket."""
        self._listeners[listener] = self._loop.watch(listener.fileno(), lambda _events: self._accept(listener))

    def close(self):
        """Stop accepting and send everybody away."""
        for listener, watch in self._listeners.items():
            watch.close()
            listener.close()
        self._listeners = {}
        for guest in list(self._guests):
            guest.close()

    def _accept(self, listener):
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._pause(error)
                return
            if len(self._guests) >= self._most:
                oldest = next(iter(self._guests))
                self._log.warning("refused", peer=oldest.peer, why="too many unfinished connections, the oldest goes")
                oldest.close()
            sock.setblocking(False)
            self._guests[Guest(self._loop, self, sock, say_address(address))] = None

    def _pause(self, error):
        if not self._paused:
            self._paused = True
            self._log.warning("accept-paused", why=os.strerror(error.errno))
            for watch in self._listeners.values():
                watch.set()
            self._loop.call_later(PAUSE_US, self._try_again)

    def _try_again(self):
        try:
            os.close(os.dup(2))
        except OSError:
            self._loop.call_later(PAUSE_US, self._try_again)
            return
        self._paused = False
        for watch in self._listeners.values():
            watch.set(read=True)
        self._log.info("accept-resumed")

    # ---- told by the guests

    def left(self, guest):
        """The guest is gone."""
        self._guests.pop(guest, None)

    def introduced(self, guest, hello, leftover):
        """The guest has said HELLO."""
        guest.release()
        try:
            self._admit(guest.sock, hello, leftover)
        except PeerError as error:
            self.refuse(guest, error)

    def refuse(self, guest, error):
        """Tell the guest why, and the log."""
        self._log.warning("refused", peer=guest.peer, why=str(error))
        try:
            guest.sock.send(Greeter.farewell(error))
            guest.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it did not wait for the answer
        guest.close()


class Guest:
    """One connection before its HELLO is whole."""

    def __init__(self, loop, reception, sock, peer):
        self.sock = sock
        self.peer = peer
        self._reception = reception
        self._greeter = Greeter()
        self._watch = loop.watch(sock.fileno(), lambda _events: self._on_readable())
        self._timer = loop.call_later(PATIENCE_US, self._time_out)

    def release(self):
        """Stop waiting; the socket is somebody else's now."""
        self._watch.close()
        self._timer.cancel()
        self._reception.left(self)

    def close(self):
        """End the connection."""
        self.release()
        self.sock.close()

    def _time_out(self):
        self._reception.refuse(self, PeerError(CloseCode.STATE_ERROR, "no HELLO within 5s"))

    def _on_readable(self):
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            hello = self._greeter.feed(data)
        except PeerError as error:
            self._reception.refuse(self, error)
            return
        if hello is not None:
            self._reception.introduced(self, hello, self._greeter.leftover)
