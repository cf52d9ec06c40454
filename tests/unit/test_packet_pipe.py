"""Packets through pipes: in order, whole, none when the pipe is at its end."""

import os
import socket

import pytest

from mproxy.io._loop import Loop
from mproxy.programs.packet_pipe import LOOPBACK, MOST_WAITING_BYTES, PacketPipe

PATIENCE_US = 10_000_000


class Pipes:
    """Two ends joined by pipes, a program beside each."""

    def __init__(self):
        self.loop = Loop()
        self.failed = []
        self.loop.on_error = self.failed.append
        there = [os.pipe2(os.O_NONBLOCK) for _ in range(2)]
        (self.read_here, self.write_there), (self.read_there, self.write_here) = there
        self.ended = []
        self.programs = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for program in self.programs:
            program.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            program.bind((LOOPBACK, 0))
            program.settimeout(10)
        self.here = PacketPipe(self.loop, self.read_here, self.write_here, 0, lambda: self.ended.append("here"))
        self.there = PacketPipe(self.loop, self.read_there, self.write_there, self.programs[1].getsockname()[1],
                                lambda: self.ended.append("there"))

    def send(self, *packets):
        for packet in packets:
            self.programs[0].sendto(packet, (LOOPBACK, self.here.port))

    def run_until(self, condition):
        deadline = self.loop.now() + PATIENCE_US

        def look():
            if condition() or self.loop.now() > deadline:
                self.loop.stop()
            else:
                self.loop.call_later(1000, look)

        look()
        self.loop.run()
        assert condition() and not self.failed

    def close(self):
        for each in (self.here, self.there, *self.programs):
            each.close()


@pytest.fixture
def pipes():
    made = Pipes()
    yield made
    made.close()


def test_packets_of_every_size_and_answers(pipes):
    packets = [b"", b"a", os.urandom(1452), os.urandom(60000), os.urandom(65507)]
    pipes.send(*packets)
    pipes.here.open()
    pipes.there.open()
    pipes.run_until(lambda: pipes.there.carried)
    got = []
    pipes.programs[1].settimeout(0)

    def arrived():
        try:
            got.append(pipes.programs[1].recvfrom(65535))
        except BlockingIOError:
            pass
        return len(got) == len(packets)

    pipes.run_until(arrived)
    assert [packet for packet, _ in got] == packets
    pipes.programs[1].sendto(b"answer", got[0][1])
    pipes.run_until(lambda: pipes.here.carried)
    assert pipes.programs[0].recvfrom(100) == (b"answer", (LOOPBACK, pipes.here.port))


def test_nothing_before_it_is_open(pipes):
    pipes.send(b"early")
    pipes.there.open()
    turns = []
    pipes.loop.call_later(20_000, lambda: turns.append(1))
    pipes.run_until(lambda: turns)
    assert not pipes.there.carried
    pipes.here.open()
    pipes.run_until(lambda: pipes.there.carried)


def test_a_full_pipe_holds_no_more_than_it_may(pipes):
    """Goal: what does not fit is lost where packets are lost, in the socket's queue; memory is bounded."""
    pipes.there._on_read.set(read=False)
    pipes.here.open()
    sent = []

    def flood():
        pipes.send(*[bytes(1400)] * 20)
        sent.append(20)
        return len(sent) > 50

    pipes.run_until(flood)
    assert len(pipes.here._out) < MOST_WAITING_BYTES + 65537
    pipes.there._on_read.set(read=True)
    pipes.run_until(lambda: pipes.there.carried and not pipes.here._out)


def test_its_end(pipes):
    """Goal: what came before is delivered; each end is told once."""
    pipes.here.take(b"\0\5he")
    pipes.here.close()
    pipes.run_until(lambda: pipes.ended)
    assert pipes.ended == ["there"] and pipes.there.ended
    pipes.there.close()


@pytest.mark.parametrize("is_open", [True, False])
def test_a_program_that_has_gone_costs_nothing_while_its_packets_are_not_taken(is_open):
    """That its port is closed would be reported in every turn until it is read, which is not to be done then."""
    loop = Loop()
    read_there, write_here = os.pipe2(os.O_NONBLOCK)
    read_here, write_there = os.pipe2(os.O_NONBLOCK)
    program = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    program.bind((LOOPBACK, 0))
    pipe = PacketPipe(loop, read_here, write_here, program.getsockname()[1], lambda: None)
    if is_open:
        pipe.open()
        while len(pipe._out) < MOST_WAITING_BYTES:
            program.sendto(bytes(60000), (LOOPBACK, pipe.port))
            loop.call_later(1000, loop.stop)
            loop.run()
    else:
        program.sendto(b"early", (LOOPBACK, pipe.port))
    program.close()
    pipe.take(b"\0\1x")
    before = loop.turns
    loop.call_later(20_000, loop.stop)
    loop.run()
    assert loop.turns - before < 10
    if not is_open:
        with pytest.raises(BlockingIOError):
            os.read(read_there, 1)
    pipe.close()
    os.close(read_there)
    os.close(write_there)
