"""Holes: they are found, told, and kept; what is hashed is the file as it reads."""

import hashlib
import os

import pytest

from mproxy.transfer import messages
from mproxy.transfer.destinations import IntoPipe
from mproxy.transfer.holes import PAGE_BYTES, is_hole, pieces, write_with_holes
from mproxy.transfer.messages import File, FileKind, MessageType, Result
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.tree import LEAF_BYTES, ZERO_DIGEST, block_count, leaf, root
from tests.unit.test_receiver import World

MIB = LEAF_BYTES


def sparse_file(path, size, *places):
    """A file that has a page of data at these offsets."""
    with path.open("wb") as file:
        file.truncate(size)
        for place in places:
            file.seek(place)
            file.write(b"d" * PAGE_BYTES)
    return path


def root_of(data):
    count = block_count(len(data))
    return root(b"".join(leaf(data[number * MIB:(number + 1) * MIB], number, number == count - 1)
                         for number in range(count)))


def used(path):
    return path.stat().st_blocks * 512


@pytest.fixture
def keeps_holes(tmp_path):
    path = sparse_file(tmp_path / "probe", 4 * MIB, 2 * MIB)
    fd = os.open(path, os.O_RDONLY)
    kept = used(path) < MIB and list(pieces(fd, 4 * MIB, [(0, 4)])) == [range(0, 2), 2, 3]
    os.close(fd)
    path.unlink()
    if not kept:
        pytest.skip("this file system has no holes")


def node(data, depth, number):
    return hashlib.blake2b(data, digest_size=32, fanout=0, depth=3, leaf_size=MIB // 4, node_offset=number,
                           node_depth=depth, inner_size=32).digest()


def test_the_digest_of_zeros_is_the_one_of_a_first_block():
    assert node(b"".join(node(bytes(MIB // 4), 0, number) for number in range(4)), 1, 0) == ZERO_DIGEST
    assert leaf(bytes(MIB), 7, False) == leaf(memoryview(bytearray(MIB)), 0, False) == ZERO_DIGEST
    assert leaf(bytes(MIB), 7, True) != ZERO_DIGEST
    for place in (0, 1, MIB // 2, MIB - 1):
        data = bytearray(MIB)
        data[place] = 1
        assert leaf(data, 0, False) != ZERO_DIGEST
    assert leaf(bytes(MIB - 1), 0, False) != ZERO_DIGEST


def test_what_is_a_hole(tmp_path, keeps_holes):
    path = sparse_file(tmp_path / "f", 10 * MIB + 5, 2 * MIB + 8192, 3 * MIB, 9 * MIB)
    with path.open("rb") as file:
        assert list(pieces(file.fileno(), 10 * MIB + 5, [(0, 11)])) == [
            range(0, 2), 2, 3, range(4, 9), 9, 10]
        assert list(pieces(file.fileno(), 10 * MIB + 5, [(1, 1), (3, 3), (7, 1)])) == [
            range(1, 2), 3, range(4, 6), range(7, 8)]
        assert [is_hole(file.fileno(), number, 10 * MIB + 5) for number in (0, 2, 8, 9)] == [True, False, True, False]
    whole = sparse_file(tmp_path / "whole", 3 * MIB)
    with whole.open("rb") as file:
        assert list(pieces(file.fileno(), 3 * MIB, [(0, 3)])) == [range(0, 2), 2]


@pytest.mark.parametrize("length", [0, 1, PAGE_BYTES, 3 * PAGE_BYTES, 10 * PAGE_BYTES + 7])
def test_writing_with_holes(tmp_path, length):
    data = bytearray(length)
    for place in (5, 2 * PAGE_BYTES, 9 * PAGE_BYTES + 1, length - 1):
        if 0 <= place < length:
            data[place] = 1
    path = sparse_file(tmp_path / "f", 3 * PAGE_BYTES + length)
    with path.open("r+b") as file:
        write_with_holes(file.fileno(), data, 3 * PAGE_BYTES)
    assert path.read_bytes() == bytes(3 * PAGE_BYTES) + data


# ---- from end to end, without a network

class Sending:
    """What a sender of one file says."""

    def __init__(self, path, name=b"f"):
        self.source = SourceFile(name, FileKind.FILE, str(path))
        self.file = self.source.open(0)

    def data(self, ranges):
        for piece in self.source.pieces(ranges):
            if isinstance(piece, range):
                self.source.note_holes(piece)
                yield messages.pack_holes(0, piece.start, len(piece))
            else:
                number, data, digest = self.source.read_block(piece, bytearray(MIB))
                self.source.note(number, digest, len(data))
                yield messages.pack_block_header(0, number, digest, len(data)) + data
        yield messages.pack_end(0, self.source.size, self.source.root())


@pytest.fixture
def world(tmp_path):
    (tmp_path / "in").mkdir()
    return World(tmp_path / "in")


def test_holes_stay_holes(tmp_path, world, keeps_holes):
    size = 40 * MIB + 12345
    path = sparse_file(tmp_path / "f", size, 5 * MIB + 4 * PAGE_BYTES, 30 * MIB)
    sending = Sending(path)
    assert sending.file.sparse
    world.bring(messages.pack_file(sending.file))
    (_index, ranges), = world.link.answers(MessageType.WANT)
    parts = list(sending.data(ranges))
    assert sum(map(len, parts)) < 4 * MIB
    world.bring(*parts)
    assert world.outcomes == {b"f": (Result.DONE, "")}
    assert world.link.answers(MessageType.RESULT)[0].root == root_of(path.read_bytes())
    assert (world.directory / "f").read_bytes() == path.read_bytes()
    assert used(world.directory / "f") < MIB
    again = Sending(path)
    world.receiver, world.link = world.connect()
    world.bring(messages.pack_file(again.file))
    assert world.link.answers(MessageType.WANT) == [(0, ())], "it is there, and compared"
    again.source.compared = True
    world.bring(list(again.data([(0, 41)]))[-1])
    assert world.outcomes == {b"f": (Result.DONE, "")}


def test_a_sparse_file_goes_on_where_it_stopped(tmp_path, world, keeps_holes):
    """Goal: of what had arrived holes count, too; where something else has come into one, there are zeros again."""
    path = sparse_file(tmp_path / "f", 20 * MIB, 3 * MIB, 12 * MIB)
    sending = Sending(path)
    world.bring(messages.pack_file(sending.file))
    world.bring(*list(sending.data([(0, 20)]))[:3])  # holes, a block, holes
    world.link.handler.on_ended(world.link, 1, "gone", False)
    world.threads.work()
    part = world.directory / ".f.mproxy-part"
    assert used(part) < MIB
    with part.open("r+b") as file:
        file.seek(1 * MIB)
        file.write(b"x" * 5000)
        file.seek(14 * MIB)
        file.write(b"y" * 5000)
    world.receiver, world.link = world.connect()
    again = Sending(path)
    world.bring(messages.pack_file(again.file))
    (_index, ranges), = world.link.answers(MessageType.WANT)
    assert ranges == ((1, 1), (12, 8))
    world.bring(*again.data(ranges))
    assert world.outcomes == {b"f": (Result.DONE, "")}
    assert (world.directory / "f").read_bytes() == path.read_bytes()


def announced(world, size=10 * MIB, sparse=True):
    world.bring(messages.pack_file(File(0, FileKind.FILE, 0o644, 10**18, size, b"i" * 16, b"f", b"", int(sparse))))


@pytest.mark.parametrize("holes", [(0, 10), (9, 1), (0, 0), (1 << 32) - 1, (5, (1 << 32) - 1)])
def test_holes_that_cannot_be(world, holes):
    """Goal: the last block is never one, nor is what is behind it."""
    first, count = holes if isinstance(holes, tuple) else (holes, 1)
    announced(world)
    world.bring(messages.pack_holes(0, first, count))
    assert world.link.ended
    assert world.outcomes == {}


def test_holes_that_were_not_to_come(world):
    announced(world, sparse=False)
    world.bring(messages.pack_holes(0, 0, 1))
    assert world.link.ended


def test_no_more_holes_than_blocks(world):
    announced(world)
    for _ in range(12):
        if not world.link.ended:
            world.bring(messages.pack_holes(0, 0, 1))
    assert world.link.ended


def test_holes_that_are_a_lie_are_found_out(world):
    """Goal: what the sender says of holes is hashed with everything else."""
    announced(world, size=3 * MIB)
    data = b"d" * MIB
    real = root(leaf(data, 0, False) * 2 + leaf(data, 2, True))
    world.bring(messages.pack_holes(0, 0, 2), messages.pack_block_header(0, 2, leaf(data, 2, True), MIB) + data,
          messages.pack_end(0, 3 * MIB, real))
    assert world.outcomes[b"f"][0] == Result.DAMAGED
    assert os.listdir(world.directory) == []


def test_an_absurd_size_costs_neither_room_nor_much_memory(world):
    announced(world, size=1 << 50)
    assert world.outcomes[b"f"][0] == Result.NO_SPACE
    announced_next = File(1, FileKind.FILE, 0o644, 0, 100 << 30, b"i" * 16, b"g", b"", messages.SPARSE)
    world.bring(messages.pack_file(announced_next))
    assert used(world.directory / ".g.mproxy-part") == 0


def test_a_pipe_takes_no_holes():
    """Goal: nobody has terabytes of zeros written there by one short message; the sender reads and sends them."""
    assert not IntoPipe().takes_holes
    source = SourceFile(b"f", FileKind.FILE)
    assert list(source.pieces([(0, 2), (5, 1)])) == [0, 1, 5]


def test_a_pipe_that_ends_with_a_block_of_zeros():
    from mproxy.transfer.parts import Parts
    sender, receiver = Parts(), Parts()
    for data, is_last in ((bytes(MIB), False), (bytes(MIB), False), (b"", True)):
        number, digest = sender.make(data, is_last)
        assert receiver.add(number, data, digest) is not None
    assert receiver.ended


def test_hello_tells_who_takes_holes():
    kind, length = messages.parse_header(messages.pack_hello(0, True))
    assert kind == MessageType.HELLO
    assert messages.parse_payload(kind, messages.pack_hello(0, True)[-length:]).takes_holes
