"""Messages and descriptors between workers: none is lost, repeated or out of order, whoever is slow."""

import os
import socket

from mproxy.io._loop import Loop
from mproxy.keeper.inboxes import LONGEST, MOST_WAITING, Inboxes


def opened(inboxes, number, loop, heard):
    inboxes.open(loop, number, lambda message, data, fds: heard.append((message, bytes(data), fds)))


def run_until(loop, condition):
    def look():
        if condition():
            loop.stop()
        else:
            loop.call_later(1000, look)
    loop.call_later(0, look)
    loop.run()


def test_a_message_with_bytes_and_descriptors():
    inboxes, loop, heard = Inboxes(2), Loop(), []
    opened(inboxes, 1, loop, heard)
    one, other = socket.socketpair()
    secret = bytearray(b"secret\n\0\nbytes")
    assert inboxes.send(1, {"what": 1}, secret, [one.fileno()])
    run_until(loop, lambda: heard)
    (message, data, (fd,)), = heard
    assert message == {"what": 1} and data == secret
    os.write(fd, b"x")
    assert other.recv(1) == b"x"
    os.close(fd)


def test_a_slow_worker_gets_all_in_order():
    inboxes, loop, heard = Inboxes(2), Loop(), []
    inboxes.open(loop, 0, lambda *_: None)
    with open(os.devnull, "rb") as file:
        for number in range(1000):
            assert inboxes.send(1, {"number": number}, bytes(1000), [file.fileno()])
    opened(inboxes, 1, loop, heard)
    run_until(loop, lambda: len(heard) == 1000)
    assert [message["number"] for message, _data, _fds in heard] == list(range(1000))
    for _message, _data, fds in heard:
        (fd,) = fds
        os.close(fd)


def test_what_is_too_much_is_refused():
    inboxes, loop = Inboxes(2), Loop()
    inboxes.open(loop, 0, lambda *_: None)
    assert not inboxes.send(1, {}, bytes(LONGEST))
    sent = 0
    while inboxes.send(1, {}, bytes(1000)):
        sent += 1
        assert sent < 2 * MOST_WAITING
    assert sent > MOST_WAITING
