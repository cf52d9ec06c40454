"""Urgent data (RFC 6093): the bytes stay in their place in the stream, like ordinary ones."""

import signal
import socket

import pytest
from lab import outage
from proxies import DAEMON_PORT
from traffic import read_exactly


@pytest.fixture(params=[(), ("--plain",)], ids=["session", "plain"])
def joined(pair, request):
    """(application, daemon's connection, cproxy, sproxy), with sessions and as a bare relay."""
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start(sproxy=request.param, cproxy=request.param)
        yield *pair.joined(listener), pair.cproxy, pair.sproxy


@pytest.mark.parametrize("upward", [True, False], ids=["up", "down"])
def test_urgent_bytes_stay_in_place(joined, upward):
    """Goal: telnet's Synch ends with an urgent byte. It arrives, and so do the bytes behind it, even if all of them
    were in the socket before the proxy read (a read ends in front of an urgent byte)."""
    app, connection, *proxies = joined
    sender, receiver = (app, connection) if upward else (connection, app)
    proxy = proxies[0] if upward else proxies[1]
    proxy.process.send_signal(signal.SIGSTOP)
    sender.sendall(b"before")
    sender.send(b"!", socket.MSG_OOB)
    sender.sendall(b"behind")
    outage(0.2)
    proxy.process.send_signal(signal.SIGCONT)
    assert read_exactly(receiver, 13) == b"before!behind"


def test_stdio_on_a_socket(pair):
    """Goal: standard input and output may be the same socket, and the end of the daemon's direction passes through
    it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with pair.lab.server.listen(DAEMON_PORT) as listener, ours:
        pair.start_sproxy()
        cproxy = pair.start_stdio(stdin=theirs, stdout=theirs)
        theirs.close()
        connection, _ = listener.accept()
        connection.settimeout(10)
        connection.sendall(b"answer")
        connection.shutdown(socket.SHUT_WR)
        assert read_exactly(ours, 6) == b"answer"
        assert ours.recv(1) == b""
        ours.sendall(b"late")
        assert read_exactly(connection, 4) == b"late"
        ours.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
        assert cproxy.process.wait(10) == 0
