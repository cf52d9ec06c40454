"""Messages between the supervisor and one worker, with descriptors, over a pair of SOCK_SEQPACKET sockets.

Neither side ever waits for the other: what the socket does not take is queued, and the loop sends it on. A message
is a tuple that begins with its name. Both ends are one program and its own fork, and nobody else has the sockets, so
pickle is as good as the code itself.
"""

import array
import errno
import pickle
import socket
from collections import deque

# Descriptors of one message: the kernel's SCM_MAX_FD is 253.
MOST_FDS = 250

# Bytes of one message: below half of the default net.core.wmem_max (212,992), as the kernel adds its own bookkeeping.
MOST_BYTES = 65_536

_LATER = {errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM}


class Channel:
    """One end. `received(message, fds)` is called for each message, `ended()` once when the other end is gone."""

    def __init__(self, loop, sock, received, ended):
        self._loop = loop
        self._socket = sock
        self._received = received
        self._ended = ended
        self._queue: deque[tuple] = deque()  # (data, fds, owner of the fds, kept alive until they are sent)
        self._watch = loop.watch(sock.fileno(), self._ready)

    @property
    def queued(self):
        """Messages that the other end has not taken yet."""
        return len(self._queue)

    def send(self, *message, fds=(), owner=None):
        """Send a message, now or later. `owner` closes the descriptors when it is freed, not before."""
        data = pickle.dumps(message)
        assert len(data) <= MOST_BYTES and len(fds) <= MOST_FDS, (message[0], len(data), len(fds))
        if self._socket is None:
            return
        if self._queue or not self._try(data, fds):
            self._queue.append((data, fds, owner))
            self._watch.set(read=True, write=True)

    def close(self):
        """End it; the other side sees that."""
        if self._socket is not None:
            self._watch.close()
            self._socket.close()
            self._socket = None
            self._queue.clear()

    def _try(self, data, fds):
        """Whether the message is dealt with: sent, or pointless because nobody is there."""
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], control, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # ETOOMANYREFS, ENOBUFS, ENOMEM: later. Otherwise the end shows when reading.
            return error.errno not in _LATER
        return True

    def _ready(self, _events):
        while self._queue and self._try(*self._queue[0][:2]):
            self._queue.popleft()
        if self._socket is not None and not self._queue:
            self._watch.set(read=True)
        self.read()

    def read(self):
        """Take what has arrived, now."""
        while self._socket is not None:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, MOST_BYTES, MOST_FDS, socket.MSG_DONTWAIT
                                                  | socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.close()
                self._ended()
                return
            self._received(pickle.loads(data), fds)


def pair():
    """Two connected sockets, non-blocking, for one Channel each."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    return one, other

