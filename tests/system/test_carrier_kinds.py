"""The carrier interface: every kind of carrier implements it, and an endpoint needs nothing else.

A new kind joins KINDS.
"""

import os
import socket
import time

import pytest
from tests.drivers._carriers import DrivenCarrier, MemoryCarrier

from mproxy._session import Session
from mproxy._wire import SECRET_BYTES, SESSION_ID_BYTES, CloseCode
from mproxy.carrier._local_carrier import LocalCarrier
from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import SessionConfig
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from tests import keys

MUCH = bytes(range(256)) * 65536
PATIENCE_S = 30


def tcp_sockets():
    """Both ends of a connection, as dialling and accepting leave them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _address = listener.accept()
    for end in (one, other):
        end.setblocking(False)
    return one, other


def make_tcp(loop):
    return tuple(TcpCarrier(loop, end.detach()) for end in tcp_sockets())


def make_tls(loop):
    return tuple(TcpCarrier(loop, end.detach(), tls) for end, tls in zip(tcp_sockets(), keys.joined(), strict=True))


def make_local(loop):
    return tuple(LocalCarrier(loop, blank(end), None, "command", "true") for end in socket.socketpair())


def make_local_tls(loop):
    return tuple(LocalCarrier(loop, blank(end), tls, "command", "true")
                 for end, tls in zip(socket.socketpair(), keys.joined(), strict=True))


def blank(sock):
    """Its descriptor, which does not block."""
    sock.setblocking(False)
    return sock.detach()


def make_memory(loop):
    one, other = MemoryCarrier(loop), MemoryCarrier(loop)
    one.join(other)
    return one, other


KINDS = {"tcp": make_tcp, "tcp+tls": make_tls, "command": make_local, "command+tls": make_local_tls,
         "memory": make_memory}


@pytest.fixture
def loop():
    loop = Loop()
    loop.on_error = lambda error: pytest.fail(f"{type(error).__name__}: {error}")
    return loop


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def pair(loop, kind):
    """Both ends, as carriers."""
    ends = [DrivenCarrier(carrier) for carrier in KINDS[kind](loop)]
    for end in ends:
        end.begin()
    yield ends
    for end in ends:
        end.close(True)


def turn(loop, condition):
    """Run the loop, turn by turn, until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        loop.call_soon_threadsafe(loop.stop)
        loop.run()


def pump(one, other, data, got):
    """One step of an endpoint at either end: offer what is left of `data`, receive what has come."""
    _readable, writable, _holding, over = one.marks
    if writable and not over:
        most, _bulk_too = one.room()  # what it has kept goes, too
        if most and data:
            del data[:one.send(bytes(data[:most // 2]), bytes(data[most // 2:most]))]
    readable, _writable, _holding, over = other.marks
    if readable and not over:
        got += other.receive(65536) or b""


def test_bytes_come_in_order_and_all(loop, pair):
    """Goal: more than any buffer holds passes in both directions, however much of each offer is taken."""
    for one, other in (pair, pair[::-1]):
        data, got = bytearray(MUCH), bytearray()
        def moved(one=one, other=other, data=data, got=got):
            pump(one, other, data, got)
            return len(got) == len(MUCH)
        turn(loop, moved)
        assert bytes(got) == MUCH


def test_who_takes_no_more_says_when_it_does_again(loop, pair):
    """Goal: the endpoint is told when the carrier takes data again, and not before."""
    one, other = pair
    data = bytearray(MUCH)
    def full():
        while one.marks[1] and data:
            most, _bulk_too = one.room()
            del data[:one.send(bytes(data[:most])) if most else 0]
        return not one.marks[1]
    turn(loop, full)
    assert data, "the carrier took 16 MiB without anybody reading"
    wakes = one.wakes
    def written_again():
        while other.marks[0] and other.receive(1 << 18) is not None:
            pass
        return one.marks[1] and one.wakes > wakes
    turn(loop, written_again)


def test_an_end_in_order_is_seen_behind_the_bytes(loop, pair):
    one, other = pair
    one.room()
    assert one.send(b"last words") == 10
    one.close(False)
    got = bytearray()
    def ended():
        while other.marks[0] and not other.marks[3] and (more := other.receive(4096)) is not None:
            got.extend(more)
        return other.marks[3]
    turn(loop, ended)
    assert other.why == "closed by the peer" and (bytes(got) == b"last words")


def test_an_abort_is_seen_too(loop, pair):
    one, other = pair
    one.close(True)
    def ended():
        while other.marks[0] and not other.marks[3] and other.receive(4096) is not None:
            pass
        return other.marks[3]
    turn(loop, ended)
    assert other.why


def test_nobody_is_woken_after_the_end(loop, pair):
    """Goal: the endpoint may be gone already."""
    one, other = pair
    one.close(True)
    wakes = one.wakes
    other.close(True)
    ended = [False]
    loop.call_later(50_000, lambda: ended.__setitem__(0, True))
    turn(loop, lambda: ended[0])
    assert one.wakes == wakes


def test_what_a_kind_says_of_itself(loop, kind):
    one, other = KINDS[kind](loop)
    assert one.describe()["kind"] == kind
    assert one.sealed == kind.endswith("+tls")
    addresses = one.addresses()
    assert addresses is None or addresses == other.addresses()[::-1]


# ---- an endpoint over each of them


class Peer(EndpointObserver):
    """An endpoint and what it reported."""

    def __init__(self, loop, is_server, session_id, secret):
        config = SessionConfig()
        self.lost, self.resumed, self.closed = [], 0, None
        session = Session(config, is_server=is_server, session_id=session_id, secret=secret)
        self.endpoint = Endpoint(loop, session, self)

    def attach(self, carrier, epoch):
        self.endpoint.attach(carrier, epoch, 1 << 20, 1 << 24, self.endpoint.session.streams.resume_list(), b"")

    def on_resumed(self, endpoint):
        self.resumed += 1

    def on_lost(self, endpoint, why):
        self.lost.append(why)

    def on_closed(self, endpoint, code, reason, local):
        self.closed = code


def test_a_session_goes_from_kind_to_kind(loop):
    """Goal: bytes continue exactly where they were, whatever kind of carrier follows."""
    identity = os.urandom(SESSION_ID_BYTES), os.urandom(SECRET_BYTES)
    client, server = Peer(loop, False, *identity), Peer(loop, True, *identity)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        server.endpoint.default_target = Target(f"{host}:{port}", [(socket.AF_INET, (host, port))])
        application, inner = socket.socketpair()
        inner.setblocking(False)
        client.endpoint.add_pipes(os.dup(inner.fileno()), inner.detach(), b"")
        application.setblocking(False)
        listener.setblocking(False)
        daemon, got, sent = None, bytearray(), 0
        data = MUCH[:4 << 20]

        def moved(upto):
            nonlocal daemon, sent
            if daemon is None:
                try:
                    daemon = listener.accept()[0]
                    daemon.setblocking(False)
                except BlockingIOError:
                    pass
            try:
                sent += application.send(data[sent:sent + 65536])
            except BlockingIOError:
                pass
            try:
                got.extend(daemon.recv(1 << 17) if daemon is not None else b"")
            except BlockingIOError:
                pass
            return len(got) >= upto

        for epoch, kind in enumerate((*KINDS, *KINDS), 1):
            one, other = KINDS[kind](loop)
            client.attach(one, epoch)
            server.attach(other, epoch)
            assert client.endpoint.carrier is one
            turn(loop, lambda epoch=epoch: moved(len(data) * epoch // (2 * len(KINDS))))
            assert client.resumed == server.resumed == epoch
        assert bytes(got) == data and not client.lost
        daemon.close()
        application.close()
    client.endpoint.close(CloseCode.ORDERLY, "done")
    turn(loop, lambda: server.closed is not None)
    for peer in (client, server):
        peer.endpoint.dispose()


def test_why_a_carrier_is_over_is_told(loop):
    identity = os.urandom(SESSION_ID_BYTES), os.urandom(SECRET_BYTES)
    client, server = Peer(loop, False, *identity), Peer(loop, True, *identity)
    one, other = make_memory(loop)
    client.attach(one, 1)
    server.attach(other, 1)
    turn(loop, lambda: client.resumed and server.resumed)
    one.lose("the cable was cut")
    turn(loop, lambda: client.lost and server.lost)
    assert client.lost == server.lost == ["the cable was cut"]
    assert one.closed == other.closed == [True]
    assert client.endpoint.carrier is None and not client.endpoint.attached
    for peer in (client, server):
        peer.endpoint.dispose()
