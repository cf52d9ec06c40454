"""sproxy's reception: connections that have not yet shown a valid preamble, their key and HELLO.

Each costs a descriptor and, once it has begun to encrypt, some 20 KiB, for at most PATIENCE_US; when there are too many
the oldest gives way, so that silent connections cannot keep a real cproxy out. One source (mproxy.policy.sources) may
have a part of them only, and is not heard for a while after too many failures. All that is done for guests is slow work
of the loop: however many there are, sessions come first.
"""

import errno
import os
import socket

from mproxy._wire import CloseCode
from mproxy.errors import PeerError
from mproxy.handshake import Greeter
from mproxy.policy.sources import Sources, source_of
from mproxy.programs.common import say_address

# A few packets in each direction; this is time for some of them to be lost. Who has proved to hold a session has as
# much again after each piece of its list.
PATIENCE_US = 5_000_000

# How often to try again after descriptors ran out.
PAUSE_US = 500_000

ACCEPTS_A_TURN = 4
OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# A refusal that says nothing against whoever asked.
NOT_ITS_FAULT = {CloseCode.UNKNOWN_SESSION, CloseCode.STALE_EPOCH, CloseCode.TOO_MANY}

# More than preamble and HELLO; what follows (the RESUME list) is read on.
RECEIVE_BYTES = 65536


class Reception:
    """Accepts on any number of listeners and hands over each guest that says HELLO.

    `host` is asked for `make_tls()` (None: no encryption), `judge(spki, address)` when a guest's key is proven, and
    `check(guest, hello, channel)` when its HELLO is there; both raise PeerError to refuse. `admit(guest, hello)` takes
    the guest's socket, `greeter` and what is left in that, or raises PeerError.
    """

    def __init__(self, loop, log, config, host):
        self._loop = loop
        self._log = log
        self._most = config.max_unfinished
        self._sources = Sources(self._most)
        self.host = host
        self._listeners = {}  # socket -> Watch
        self._guests = {}     # Guest -> None, oldest first
        self._paused = False

    def open(self, listener):
        """Accept on a listening socket."""
        def ready(_events):
            self._listeners[listener].set()
            self._loop.call_slow(lambda: self._accept(listener))
        self._listeners[listener] = self._loop.watch(listener.fileno(), ready)

    def close(self):
        """Stop accepting and send everybody away."""
        for listener, watch in self._listeners.items():
            watch.close()
            listener.close()
        self._listeners = {}
        for guest in list(self._guests):
            guest.close()

    def _accept(self, listener):
        if listener not in self._listeners:
            return
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock, address = listener.accept()
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    self._pause(error)
                break
            self._receive(sock, address)
        if not self._paused:
            self._listeners[listener].set(read=True)

    def _receive(self, sock, address):
        """Make a guest of a connection, unless its source has failed too often; the oldest may have to go for it."""
        source = source_of(address[0])
        if self._sources.blocked(source, self._loop.now()):
            sock.close()
            return
        if len(self._guests) >= self._most:
            self._dismiss(next(iter(self._guests)), "too many unfinished connections, the oldest goes")
        sock.setblocking(False)
        guest = Guest(self._loop, self, sock, address)
        self._guests[guest] = None
        oldest = self._sources.arrived(source, guest)
        if oldest is not None:
            self._dismiss(oldest, "too many unfinished connections from one source, its oldest goes")

    def _dismiss(self, guest, why):
        self._log.warning("refused", peer=guest.peer, why=why)
        guest.close()

    def _note_failure(self, guest):
        source = source_of(guest.address)
        if self._sources.failed(source, self._loop.now()):
            self._log.warning("source-blocked", source=source, why="too many failed attempts, not heard for a while")

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
        self._sources.left(source_of(guest.address), guest)

    def gave_up(self, guest):
        """The guest has left before its HELLO was whole."""
        if guest.begun:
            self._note_failure(guest)
        guest.close()

    def introduced(self, guest, hello):
        """The guest has said HELLO, and proven it."""
        guest.release()
        try:
            self.host.admit(guest, hello)
        except PeerError as error:
            self.refuse(guest, error)

    def refuse(self, guest, error):
        """Tell the guest why, and the log."""
        self._log.warning("refused", peer=guest.peer, why=str(error))
        if error.code not in NOT_ITS_FAULT:
            self._note_failure(guest)
        try:
            guest.sock.send(guest.greeter.farewell(error))
            guest.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it did not wait for the answer
        guest.close()


class Guest:
    """One connection before its HELLO is whole."""

    def __init__(self, loop, reception, sock, address):
        self.sock = sock
        self.address = address[0]
        self.peer = say_address(address)
        self.spki = b""  # its key, proven; empty without encryption
        self._loop = loop
        self._reception = reception
        self.greeter = Greeter(self._check, reception.host.make_tls(), self._judge)
        self.begun = False   # it has sent something
        self._left = False
        self._watch = loop.watch(sock.fileno(), lambda _events: self._queue())
        self._timer = loop.call_later(PATIENCE_US, self._time_out)

    def release(self):
        """Stop waiting; the socket is somebody else's now."""
        self._left = True
        self._watch.close()
        self._timer.cancel()
        self._reception.left(self)

    def close(self):
        """End the connection."""
        self.release()
        self.sock.close()

    def _judge(self, spki):
        self._reception.host.judge(spki, self.address)
        self.spki = spki

    def _check(self, hello, channel):
        self._reception.host.check(self, hello, channel)
        self._wait_anew()

    def _wait_anew(self):
        self._timer.cancel()
        self._timer = self._loop.call_later(PATIENCE_US, self._time_out)

    def _time_out(self):
        self._reception.refuse(self, PeerError(CloseCode.STATE_ERROR, "no HELLO within 5s"))

    def _queue(self):
        self._watch.set()
        self._loop.call_slow(self._on_turn)

    def _on_turn(self):
        if not self._left:
            self._on_ready()

    def _on_ready(self):
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self._reception.gave_up(self)
            return
        self.begun |= data is not None
        try:
            hello = self.greeter.feed(data) if data else None
            self._send()
        except PeerError as error:
            self._reception.refuse(self, error)
        except OSError:
            self._reception.gave_up(self)
        else:
            if hello is not None:
                self._reception.introduced(self, hello)
            elif data and self.greeter.proven:
                self._wait_anew()

    def _send(self):
        """Send what the handshake has to say; the socket's buffer is empty and takes it, but nobody promises that."""
        greeter = self.greeter
        if greeter.outgoing:
            try:
                greeter.outgoing = greeter.outgoing[self.sock.send(greeter.outgoing):]
            except BlockingIOError:
                pass
        self._watch.set(read=True, write=bool(greeter.outgoing))
