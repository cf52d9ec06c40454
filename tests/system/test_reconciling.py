"""What the kernel says was read from and written to a connection, in every state a TCP connection can be in.

Whoever reads and writes here notes what it has done, as a test; the kernel is asked, and must say the same.
"""

import os
import random
import socket
import struct

import pytest
from lab import until
from tests.drivers._outlive import ask, settle

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Connection:
    """A connection over loopback: `ours`, which is asked about, and `theirs`; and what was done with ours."""

    def __init__(self, family, dialled):
        self.dialled = dialled
        self.read = self.written = 0
        self.ended = False
        with socket.create_server((LOOPBACK[family], 0), family=family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # inherited
            for queue in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                listener.setsockopt(socket.SOL_SOCKET, queue, 65536)
            dialler = socket.socket(family)
            dialler.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            dialler.connect(listener.getsockname())
            accepted, _ = listener.accept()
        self.ours, self.theirs = (dialler, accepted) if dialled else (accepted, dialler)
        for sock in (self.ours, self.theirs):
            sock.setblocking(False)

    def close(self):
        self.ours.close()
        self.theirs.close()

    def take(self, most=1 << 20):
        """Read; returns the bytes."""
        got = self.ours.recv(most)
        self.read += len(got)
        return got

    def give(self, count):
        """Write, as many as are taken."""
        try:
            self.written += self.ours.send(bytes(count))
        except BlockingIOError:
            return False
        return True

    def fill(self):
        """Write until no more is taken: the other end's window is shut."""
        until(lambda: not self.give(65536) and ask(self.ours.fileno())["unacked"] > 0, 10, "a shut window")

    def they_have_all(self):
        """Whether the other end has read up to our end; reads."""
        try:
            return self.theirs.recv(1 << 20) == b""
        except BlockingIOError:
            return False

    def end(self):
        """Our end, noted first."""
        self.ended = True
        self.ours.shutdown(socket.SHUT_WR)

    def reset(self):
        """By the other end."""
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.theirs.close()

    def is_in(self, state):
        until(lambda: ask(self.ours.fileno())["tcp_state"] == state, 10, state)

    def says(self, finding="connected", peer_ended=False):
        """The kernel knows what was read and written, whatever part of it had been noted."""
        facts = ask(self.ours.fileno())
        assert facts["is_counted"] and facts["peer_ended"] == peer_ended, facts
        for noted in {0, 1, self.read // 2, self.read}:
            for handed in {0, self.written // 2, self.written}:
                if noted > self.read or self.written - handed > 1 << 20:
                    continue
                found = settle(facts, dialled=self.dialled, read=noted, handed=handed, kept=self.written,
                               in_ended=self.ended, in_done=self.ended)
                written = self.written if finding == "connected" else handed
                assert found == (finding, self.read, written, self.written), (noted, handed, facts)


@pytest.fixture(params=["accepted", "dialled"])
def dialled(request):
    return request.param == "dialled"


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def connection(request, dialled):
    one = Connection(request.param, dialled)
    yield one
    one.close()


@pytest.fixture
def busy(connection):
    """A connection with bytes both ways, read in part."""
    connection.theirs.send(bytes(1000))
    connection.give(500)
    until(lambda: ask(connection.ours.fileno())["unread"] == 1000, 10, "the bytes")
    connection.take(400)
    return connection


def test_established(connection):
    connection.says()
    connection.give(10)
    connection.says()
    connection.theirs.send(bytes(20))
    until(lambda: ask(connection.ours.fileno())["unread"] == 20, 10, "the bytes")
    connection.says()
    connection.take(1)
    connection.says()
    connection.take()
    connection.says()


def test_the_window_is_shut(connection):
    connection.fill()
    connection.says()
    connection.theirs.recv(30000)
    connection.says()
    # How much has to be read before the kernel opens the window depends on how large it has made the buffer.
    until(lambda: connection.theirs.recv(30000) and connection.give(65536), 10, "room again")
    connection.says()


# ---- ends, in every order

def test_they_end_first(busy):
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSE_WAIT")
    busy.says(peer_ended=True)
    busy.give(100)
    busy.take()
    busy.says(peer_ended=True)
    assert busy.take() == b""
    busy.says(peer_ended=True)
    busy.end()
    busy.is_in("CLOSE")
    busy.says("broken", peer_ended=True)
    assert busy.take() == b""
    busy.says("broken", peer_ended=True)


def test_we_end_first(busy):
    busy.end()
    busy.is_in("FIN_WAIT2")
    busy.says()
    busy.theirs.send(bytes(50))
    until(lambda: ask(busy.ours.fileno())["unread"] == 650, 10, "the bytes")
    busy.says()
    busy.take(100)
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSE")  # for others it is TIME_WAIT
    busy.says("broken", peer_ended=True)
    busy.take()
    busy.says("broken", peer_ended=True)
    assert busy.take() == b""
    busy.says("broken", peer_ended=True)


def test_our_end_waits_behind_a_shut_window(busy):
    """FIN_WAIT1, and when theirs comes CLOSING."""
    busy.fill()
    busy.end()
    busy.is_in("FIN_WAIT1")
    busy.says()
    busy.take(10)
    busy.says()
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSING")
    busy.says(peer_ended=True)
    busy.take()
    busy.says(peer_ended=True)
    until(busy.they_have_all, 10, "our end")
    busy.is_in("CLOSE")
    busy.says("broken", peer_ended=True)


def test_our_end_waits_and_theirs_has_come(busy):
    """LAST_ACK."""
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSE_WAIT")
    busy.fill()
    busy.end()
    busy.is_in("LAST_ACK")
    busy.says(peer_ended=True)
    busy.take()
    busy.says(peer_ended=True)


# ---- resets

def test_reset(busy):
    busy.reset()
    busy.is_in("CLOSE")
    busy.says("broken")
    busy.take()
    busy.says("broken")


def test_reset_and_nothing_unread(connection):
    """Asking fetches the error; whoever asks after that is told the same."""
    connection.give(10)
    connection.theirs.send(b"x")
    until(lambda: ask(connection.ours.fileno())["unread"] == 1, 10, "the byte")
    connection.take()
    connection.reset()
    connection.is_in("CLOSE")
    for _ in range(2):
        connection.says("broken")
    assert connection.ours.recv(1) == b"", "what looks like an end to whoever does not ask"


def test_reset_whose_error_was_fetched(busy):
    busy.reset()
    busy.is_in("CLOSE")
    assert busy.ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    busy.says("broken")
    busy.take()
    busy.says("broken")


@pytest.mark.parametrize("fetched", [False, True])
def test_reset_behind_their_end(busy, fetched):
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSE_WAIT")
    busy.reset()
    busy.is_in("CLOSE")
    if fetched:
        assert busy.ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    busy.says("broken", peer_ended=True)
    busy.take()
    busy.says("broken", peer_ended=True)


def test_reset_behind_our_end(busy):
    busy.end()
    busy.is_in("FIN_WAIT2")
    busy.reset()
    busy.is_in("CLOSE")
    busy.says("broken")
    busy.take()
    busy.says("broken")


def test_reset_behind_both_ends(busy):
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSE_WAIT")
    busy.fill()
    busy.end()
    busy.is_in("LAST_ACK")
    busy.reset()
    busy.is_in("CLOSE")
    busy.says("broken", peer_ended=True)
    busy.take()
    busy.says("broken", peer_ended=True)


# ---- not connected

def test_not_answered_yet():
    """SYN_SENT: a listener whose queue is full does not answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first, \
            socket.socket() as ours:
        first.connect(listener.getsockname())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        ours.setblocking(False)
        ours.connect_ex(listener.getsockname())
        assert ask(ours.fileno())["tcp_state"] == "SYN_SENT"
        assert settle(ask(ours.fileno()), dialled=True, kept=7) == ("unconnected", 0, 0, 7)
        assert settle(ask(ours.fileno()), dialled=False, kept=7)[0] == "unknown"


@pytest.mark.parametrize("fetched", [False, True])
def test_refused(fetched):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        ours.setblocking(False)
        where = listener.getsockname()
        listener.close()
        ours.connect_ex(where)
        until(lambda: ask(ours.fileno())["tcp_state"] == "CLOSE", 10, "the refusal")
        if fetched:
            ours.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        assert settle(ask(ours.fileno()), dialled=True, kept=7) == ("unconnected", 0, 0, 7)


def test_accepted_and_reset_at_once():
    """It was connected, for a moment: what came for it is not to be given to another."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        theirs.close()
        until(lambda: ask(ours.fileno())["tcp_state"] == "CLOSE", 10, "the reset")
        assert settle(ask(ours.fileno()), dialled=True, kept=7) == ("broken", 0, 0, 7)


# ---- urgent bytes

def test_urgent_bytes_are_counted_as_all_others(busy):
    busy.theirs.send(b"!", socket.MSG_OOB)
    busy.theirs.send(b"behind")
    until(lambda: ask(busy.ours.fileno())["unread"] == 607, 10, "the bytes")
    busy.says()
    busy.take()
    busy.says()
    assert busy.take(1) == b"!"
    busy.says()
    busy.theirs.send(b"?", socket.MSG_OOB)
    busy.theirs.shutdown(socket.SHUT_WR)
    busy.is_in("CLOSE_WAIT")
    busy.says(peer_ended=True)
    while busy.take():
        busy.says(peer_ended=True)
    busy.ours.send(b"!", socket.MSG_OOB)
    busy.written += 1
    busy.says(peer_ended=True)


def test_urgent_bytes_that_are_taken_out(busy):
    """Without SO_OOBINLINE some bytes are counted and never read."""
    busy.ours.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 0)
    assert not ask(busy.ours.fileno())["is_counted"]


# ---- what is no such connection

def test_unix_sockets_are_not_counted():
    for sock in socket.socketpair():
        with sock:
            facts = ask(sock.fileno())
            assert facts["is_connection"] and not facts["is_counted"]
            assert settle(facts, dialled=False)[0] == "unknown"


def test_what_must_not_be_closed():
    """Numbers that cannot be an application's: a listener's, a file's, nobody's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(type=socket.SOCK_DGRAM) as datagrams, \
            open(os.devnull) as file:
        for fd in (listener.fileno(), datagrams.fileno(), file.fileno(), 1 << 20, -1):
            facts = ask(fd)
            assert not facts["is_connection"] and settle(facts, dialled=False)[0] == "unknown"


# ---- much

def test_anything_at_any_moment(connection, seed):
    """Random reads and writes of random sizes at both ends; asked after each."""
    chance = random.Random(f"{seed} anything")
    theirs_given = theirs_taken = 0
    for _ in range(2000):
        size = chance.choice([1, 100, 1460, 20000, 65536])
        act = chance.randrange(4)
        try:
            if act == 0:
                connection.take(size)
            elif act == 1:
                connection.give(size)
            elif act == 2:
                theirs_given += connection.theirs.send(bytes(size))
            else:
                theirs_taken += len(connection.theirs.recv(size))
        except BlockingIOError:
            continue
        facts = ask(connection.ours.fileno())
        assert settle(facts, dialled=connection.dialled, read=connection.read, handed=connection.written) == (
            "connected", connection.read, connection.written, connection.written), facts
    assert min(theirs_given, theirs_taken) > 100_000
