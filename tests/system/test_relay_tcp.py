"""The relay's TCP engine between real sockets: how connections begin, flow and end."""

import contextlib
import errno
import hashlib
import random
import socket
import struct
import threading
import time

import pytest
from lab import outage, pause, until
from relay_engine import address_of

from tests.root import real_root

SECOND_US = 1_000_000
SYN_SENT = "02"  # in /proc/net/tcp
BULK = 48 << 20


@pytest.fixture
def relayed(stage):
    """(stage, engine, port, server) of one rule; at the end the engine may have no connection left."""
    engine, server = stage.engine(), stage.server()
    yield stage, engine, engine.listen(0, [address_of(server)], {}), server


def receive_all(sock):
    """Everything up to the end of the direction."""
    parts = []
    while part := sock.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def reset(sock):
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def is_reset(sock):
    """Wait for the end; whether it is a reset."""
    try:
        while sock.recv(1 << 18):
            pass
    except ConnectionResetError:
        return True
    return False


def is_turned_away(stage, *where, **options):
    """Whether a connection is reset, even while it is being made."""
    try:
        return is_reset(stage.client(*where, **options))
    except ConnectionResetError:
        return True


def fill(sock):
    """Send until nothing has been taken for a while; returns the number of bytes."""
    sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += sock.send(bytes(1 << 16))
    sock.settimeout(20)
    return sent


def gone(engine, key=0):
    """Wait until the rule has no connection left."""
    engine.wait_for_stat(key, "connections", 0)


# ---- flow

@pytest.mark.parametrize("client_first", [True, False])
def test_each_direction_ends_for_itself(relayed, client_first):
    """Goal: a client that has ended its direction still gets the answer, however long."""
    stage, engine, port, server = relayed
    first, second = stage.through(engine, port, server)
    if not client_first:
        first, second = second, first
    first.sendall(b"question")
    first.shutdown(socket.SHUT_WR)
    assert receive_all(second) == b"question"
    answer = random.randbytes(3 << 20)
    sender = threading.Thread(target=lambda: (second.sendall(answer), second.shutdown(socket.SHUT_WR)))
    sender.start()
    assert receive_all(first) == answer
    sender.join()
    gone(engine)
    stats = engine.stats(0)
    assert sorted((stats["bytes_in"], stats["bytes_out"])) == [8, len(answer)]


@pytest.mark.parametrize("client_resets", [True, False])
@pytest.mark.parametrize("busy", [False, True])
def test_a_reset_is_passed_on(relayed, client_resets, busy):
    """Goal: a reset at one end is a reset at the other, even if that one does not read."""
    stage, engine, port, server = relayed
    one, other = stage.through(engine, port, server)
    if not client_resets:
        one, other = other, one
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    if busy:
        assert fill(one) > 100_000
    reset(one)
    assert is_reset(other)
    gone(engine)


def test_a_reset_after_half_a_close_is_passed_on(relayed):
    """Goal: a reset is passed on also in a direction whose end was read before."""
    stage, engine, port, server = relayed
    client, daemon = stage.through(engine, port, server)
    client.shutdown(socket.SHUT_WR)
    assert daemon.recv(1) == b""
    reset(client)
    # After the end of one direction a read says EOF for ever; the socket's error tells (tcp(7): EPIPE).
    error = until(lambda: daemon.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 10, "an error")
    assert error in (errno.EPIPE, errno.ECONNRESET)
    gone(engine)


@pytest.mark.parametrize("pipes", [64, 1, 0])
def test_bulk_both_ways_byte_for_byte(relayed, pipes):
    """Goal: every byte arrives once and in order, spliced or copied, in spite of stalls and odd sizes."""
    stage, engine, port, server = relayed
    engine.allow_pipes(pipes)
    ends = [stage.through(engine, port, server) for _ in range(2)]
    rng = random.Random(7)
    results, threads = [], []

    def send(sock, data, pauses):
        view, at = memoryview(data), 0
        while at < len(view):
            size = pauses.choice((1, 700, 16384, 100_000, 1 << 20))
            sock.sendall(view[at:at + size])
            at += size
        sock.shutdown(socket.SHUT_WR)

    def take(sock, pauses, place):
        digest = hashlib.sha256()
        while part := sock.recv(pauses.choice((1000, 65536, 1 << 20))):
            digest.update(part)
            if pauses.random() < 0.01:
                pause(0.01)  # a reader that stalls
        results[place] = digest.hexdigest()

    expected = []
    for client, daemon in ends:
        for source, sink in (client, daemon), (daemon, client):
            data = rng.randbytes(BULK // 4)
            expected.append(hashlib.sha256(data).hexdigest())
            results.append(None)
            threads.append(threading.Thread(target=send, args=(source, data, random.Random(len(threads)))))
            threads.append(threading.Thread(
                target=take, args=(sink, random.Random(len(threads)), len(results) - 1)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == expected
    gone(engine)
    stats = engine.stats(0)
    assert stats["bytes_in"] == stats["bytes_out"] == BULK // 2
    assert engine.pipes()[0] - engine.pipes()[1] == 0, "pipes were not given back"


def test_who_does_not_read_holds_only_its_own_connection(relayed):
    """Goal: a slow reader stops its sender, takes bounded memory, and gets everything in the end."""
    stage, engine, port, server = relayed
    _, before = engine.footprint()
    slow = [stage.through(engine, port, server) for _ in range(8)]
    sent = [fill(client) for client, _ in slow]
    _, after = engine.footprint()
    assert after - before < 8 * 400_000
    client, daemon = stage.through(engine, port, server)
    client.sendall(b"others go on")
    assert daemon.recv(100) == b"others go on"
    for (client, daemon), count in zip(slow, sent, strict=True):
        client.shutdown(socket.SHUT_WR)
        assert len(receive_all(daemon)) == count


def test_an_urgent_byte_is_a_byte(relayed):
    """Goal: out-of-band data (telnet) arrives in its place, in bulk too."""
    stage, engine, port, server = relayed
    client, daemon = stage.through(engine, port, server)
    sender = threading.Thread(target=lambda: (
        client.sendall(bytes(4 << 20)), client.send(b"!", socket.MSG_OOB), client.sendall(bytes(4 << 20)),
        client.shutdown(socket.SHUT_WR)))
    sender.start()
    received = receive_all(daemon)
    sender.join()
    assert len(received) == (8 << 20) + 1 and received[4 << 20:(4 << 20) + 1] == b"!"


def test_an_answer_in_two_pieces_is_not_held_up(stage):
    """Goal: the first piece from a server with Nagle's algorithm is acknowledged at once, though the request came
    early.

    Otherwise the kernel would delay the ack by 40 ms; one quick answer of several shows that it does not.
    """
    engine, server = stage.engine(max_connections=1), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    pair, pauses = stage.through(engine, port, server), []
    for _ in range(5):
        client = stage.client(port)
        client.sendall(b"question")  # is there before the relay has room to accept
        for sock in pair:
            sock.close()
        daemon = stage.accept(server)
        assert daemon.recv(8) == b"question"
        begun_at = time.monotonic()
        daemon.send(b"head")
        daemon.send(b"body")
        answer = client.recv(8)
        if answer == b"head":
            answer += client.recv(8)
        assert answer == b"headbody"
        pauses.append(time.monotonic() - begun_at)
        pair = client, daemon
    assert min(pauses) < 0.030, pauses


@pytest.mark.skipif(not real_root(), reason="only the real root can become another user")
def test_pipes_that_the_system_makes_small_are_not_used(stage):
    """Goal: for a user above pipe-user-pages-soft, bytes are copied instead."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.become_nobody()
    client, daemon = stage.through(engine, port, server)
    data = random.randbytes(8 << 20)
    sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    sender.start()
    assert receive_all(daemon) == data
    sender.join()
    assert engine.pipes()[0] == 0 and engine.pipes()[2] >= 1


def test_unused_pipes_are_closed(relayed):
    """Goal: the descriptors of pipes are closed after the bulk."""
    stage, engine, port, server = relayed
    before, _ = engine.footprint()
    client, daemon = stage.through(engine, port, server)
    sender = threading.Thread(target=lambda: (client.sendall(bytes(32 << 20)), client.close()))
    sender.start()
    received = b""
    while not engine.pipes()[0]:
        received = daemon.recv(65536)
        assert received, "nothing was spliced"
    receive_all(daemon)
    sender.join()
    daemon.close()
    until(lambda: engine.footprint()[0] == before, 15, "descriptors as before")


# ---- time-outs

def test_silence_ends_a_connection(stage):
    """Goal: the idle timeout counts from the last byte in either direction."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {"idle_timeout_us": SECOND_US})
    talker, listener = stage.through(engine, port, server)
    silent, _ = stage.through(engine, port, server)
    silent_since = time.monotonic()
    for n in range(8):
        (talker, listener)[n % 2].sendall(b".")
        assert (listener, talker)[n % 2].recv(1) == b"."
        pause(0.3)
    assert is_reset(silent) and time.monotonic() - silent_since >= 1
    assert engine.stats(0)["timed_out"] == 1 and engine.stats(0)["connections"] == 1
    assert is_reset(talker)
    gone(engine)


def asking(server):
    """How many sockets wait for the answer to their SYN."""
    place = f":{address_of(server)[1]:04X}"
    with open("/proc/thread-self/net/tcp") as table:
        return sum(row[2].endswith(place) and row[3] == SYN_SENT for row in map(str.split, table))


def black_hole(stage):
    """A listening socket whose queue is full: SYNs to it are dropped."""
    server = stage.server(backlog=0)
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address_of(server))
        stage._stack.enter_context(sock)
    return server


def test_a_target_that_does_not_answer(stage):
    """Goal: the connect timeout applies and gives its event."""
    engine, server = stage.engine(), black_hole(stage)
    port = engine.listen(0, [address_of(server)], {"connect_timeout_us": SECOND_US})
    begun_at = time.monotonic()
    assert is_turned_away(stage, port) and 0.9 <= time.monotonic() - begun_at < 8
    key, text, error = engine.wait_for("on_refused")
    assert (key, text, error) == (0, f"127.0.0.1:{address_of(server)[1]}", 110)
    assert engine.stats(0)["timed_out"] == 1


def test_a_silent_target_costs_the_first_callers_a_moment_and_the_others_nothing(stage):
    """Goal: the next address is tried within 300 ms, and what one caller found out helps all others."""
    engine, hole, server = stage.engine(), black_hole(stage), stage.server()
    port = engine.listen(0, [address_of(hole), address_of(server)], {"connect_timeout_us": 10 * SECOND_US})
    took = []
    for _ in range(12):
        begun_at = time.monotonic()
        client, daemon = stage.through(engine, port, server)
        client.sendall(b"hello")
        assert daemon.recv(5) == b"hello"
        took.append(time.monotonic() - begun_at)
    assert took[0] < 5 and sum(one > 0.2 for one in took) <= 4  # if each had to find out, it would be half of them
    engine.wait_for_stat(0, "connections", 12)


def test_a_slow_target_is_waited_for_beside_the_others(stage):
    """Goal: racing does not end attempts: the first address may answer after the second, silent one was begun."""
    engine, slow, hole = stage.engine(), black_hole(stage), black_hole(stage)
    port = engine.listen(0, [address_of(slow), address_of(hole)], {"connect_timeout_us": 20 * SECOND_US})
    asked = {one: asking(one) for one in (slow, hole)}
    client = stage.client(port)
    client.sendall(b"hello")
    until(lambda: all(asking(one) > before for one, before in asked.items()), 10, "both attempts are under way")
    for _ in range(20):  # make room in its queue: the next packet of the handshake, which is sent again, is answered
        slow.settimeout(0.2)
        try:
            daemon = stage.accept(slow)
        except TimeoutError:
            continue
        daemon.settimeout(0.2)
        try:
            if daemon.recv(5) == b"hello":
                break
        except TimeoutError:
            continue
    else:
        raise AssertionError("the slow target never heard the client")
    daemon.sendall(b"late but here")
    assert client.recv(20) == b"late but here"
    assert engine.stats(0)["failed"] == 0


def test_all_addresses_silent_ends_with_the_connect_time_out(stage):
    """Goal: the client gets one reset at the timeout, whatever was raced, and nothing is left behind."""
    engine, holes = stage.engine(), [black_hole(stage) for _ in range(3)]
    port = engine.listen(0, [address_of(hole) for hole in holes], {"connect_timeout_us": 2 * SECOND_US})
    descriptors = engine.footprint()[0]
    begun_at = time.monotonic()
    assert is_turned_away(stage, port) and 1.9 <= time.monotonic() - begun_at < 8
    assert engine.wait_for("on_refused")[2] == 110
    assert engine.stats(0)["timed_out"] == 1
    assert sorted(target for _key, target, _why in engine.named("on_target_down")) == sorted(
        f"127.0.0.1:{address_of(hole)[1]}" for hole in holes)
    assert engine.footprint()[0] == descriptors


# ---- limits

def test_one_connection_more_than_the_rule_has_is_reset(stage):
    """Goal: connections beyond a rule's own limit are reset at once."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {"max_connections": 2})
    first = stage.through(engine, port, server)
    stage.through(engine, port, server)
    assert is_turned_away(stage, port)
    assert engine.stats(0)["refused"] == 1 and engine.stats(0)["total"] == 2
    for sock in first:
        sock.close()
    engine.wait_for_stat(0, "connections", 1)
    client, daemon = stage.through(engine, port, server)
    client.sendall(b"in")
    assert daemon.recv(2) == b"in"


def test_without_room_callers_wait(stage):
    """Goal: beyond the process's limit callers are left to other processes or in the queue; it accepts again by
    itself."""
    engine, server = stage.engine(max_connections=3), stage.server()
    ports = [engine.listen(key, [address_of(server)], {}) for key in range(2)]
    taken = [stage.through(engine, ports[n % 2], server) for n in range(3)]
    waiting = [stage.client(ports[n % 2]) for n in range(4)]
    for n, client in enumerate(waiting):
        client.sendall(b"%d" % n)
    engine.wait_for("on_accept_paused")
    assert engine.count() == 3
    for pair in taken:
        for sock in pair:
            sock.close()
    for _ in waiting:
        daemon = stage.accept(server)
        waiting[int(daemon.recv(1))].close()
        daemon.close()
        assert engine.count() <= 3
    engine.wait_for("on_accept_resumed")
    assert len(engine.named("on_accept_paused")) == len(engine.named("on_accept_resumed")) == 1
    assert sum(engine.stats(key)["refused"] for key in range(2)) == 0


@pytest.mark.parametrize("spare", [False, True])
def test_without_descriptors_callers_wait(stage, spare):
    """Goal: EMFILE does not end connections, is logged once, and accepting resumes by itself."""
    engine, server = stage.engine(), stage.server()
    port = engine.listen(0, [address_of(server)], {})
    engine.limit_descriptors(31)
    if spare:
        engine.spare_descriptors()
    clients = [stage.client(port) for _ in range(30)]
    for n, client in enumerate(clients):
        client.sendall(b"%02d" % n)
    engine.wait_for("on_accept_paused")
    served = 0
    while served < len(clients):
        daemon = stage.accept(server)
        number = int(daemon.recv(2))
        daemon.sendall(b"ok")
        assert clients[number].recv(2) == b"ok"
        clients[number].close()
        daemon.close()
        served += 1
    engine.wait_for("on_accept_resumed")
    assert len(engine.named("on_accept_paused")) == 1 and engine.stats(0)["total"] == 30
    assert engine.stats(0)["failed"] == engine.stats(0)["refused"] == 0


@pytest.mark.parametrize("free", [50, 51])
@pytest.mark.parametrize("rules", [1, 3])
def test_a_full_worker_keeps_whom_it_has_accepted(stage, free, rules):
    """Goal: the last connection that is accepted also gets one to the server, and is not reset for lack of it."""
    engine, server = stage.engine(), stage.server()
    ports = [engine.listen(key, [address_of(server)], {"connect_timeout_us": 300_000}) for key in range(rules)]
    engine.limit_descriptors(free)
    engine.spare_descriptors()
    clients = [stage.client(ports[n % rules]) for n in range(40)]
    for n, client in enumerate(clients):
        client.sendall(b"%02d" % n)
    engine.wait_for("on_accept_paused")
    daemons = [stage.accept(server) for _ in range(engine.count())]
    assert 10 < len(daemons) < 30
    outage(1.0)  # three times what the connection to the server may take
    assert engine.count() == len(daemons)
    for daemon in daemons:
        number = int(daemon.recv(2))
        daemon.sendall(b"ok")
        assert clients[number].recv(2) == b"ok"
    stats = [engine.stats(key) for key in range(rules)]
    assert {stat[name] for stat in stats for name in ("failed", "refused", "timed_out")} == {0}


def test_networks(stage):
    """Goal: deny wins over allow; a refused client is reset and counted."""
    from ipaddress import ip_network
    engine, server = stage.engine(), stage.server()
    options = {"allow": (ip_network("127.0.0.0/24"),), "deny": (ip_network("127.0.0.3/32"),)}
    port = engine.listen(0, [address_of(server)], options, "0.0.0.0")
    mapped = engine.listen(1, [address_of(server)], options, "::")
    for number, where in enumerate((port, mapped)):
        assert is_turned_away(stage, where, source="127.0.0.3")
        assert is_turned_away(stage, where, source="127.0.1.1")
        client = stage.client(where, source="127.0.0.2")
        client.sendall(b"in")
        assert stage.accept(server).recv(2) == b"in"
        assert engine.stats(number)["refused"] == 2 and engine.stats(number)["total"] == 1
    assert is_turned_away(stage, mapped, "::1")


# ---- the whole

def test_a_removed_rule_lets_its_connections_go_on(relayed):
    """Goal: `remove` only stops listening; `update` is for later connections."""
    stage, engine, port, server = relayed
    client, daemon = stage.through(engine, port, server)
    engine.change(0, [address_of(server)], {"max_connections": 1})
    assert is_turned_away(stage, port)
    engine.remove(0)
    with pytest.raises(OSError):
        until(lambda: stage.client(port).recv(1) and False, 5, "a closed port")
    client.sendall(b"still here")
    assert daemon.recv(20) == b"still here"
    assert engine.count() == 1
    engine.close()
    assert is_reset(client) and is_reset(daemon) and engine.count() == 0
