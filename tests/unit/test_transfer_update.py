"""--update: what has the same size and time is neither read nor sent."""

import os

import pytest

from mproxy.transfer import messages
from mproxy.transfer.messages import BY_TIME, File, FileKind, MessageType, Result
from tests.unit.test_receiver import World
from tests.walked import find_sources

TIME_NS = 10**18 + 7


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def announce(world, flags, size=4, name=b"f"):
    world.link.bring(messages.pack_file(
        File(world.receiver._next_index, FileKind.FILE, 0o644, TIME_NS, size, b"i" * 16, name, b"", flags)))
    world.threads.work()


def have(world, data=b"ours", time_ns=TIME_NS):
    (world.directory / "f").write_bytes(data)
    os.utime(world.directory / "f", ns=(0, time_ns))


@pytest.mark.parametrize("size", [4, 50_000])
def test_the_same_size_and_time(world, size):
    have(world, b"o" * size)
    announce(world, BY_TIME, size)
    assert world.outcomes == {b"f": (Result.DONE, "")}
    assert world.link.answers(MessageType.WANT) == []
    assert world.link.answers(MessageType.RESULT)[0].root == bytes(32)
    assert world.receiver.kept_bytes == size


@pytest.mark.parametrize("case", ["another time", "not asked to"])
def test_otherwise_it_is_compared(world, case):
    have(world, time_ns=TIME_NS - (case == "another time"))
    announce(world, 0 if case == "not asked to" else BY_TIME)
    assert world.link.answers(MessageType.WANT) == [(0, ())]


def test_another_size(world):
    have(world)
    announce(world, BY_TIME, size=5)
    assert world.outcomes[b"f"][0] == Result.EXISTS


def test_a_link_is_not_followed(world):
    have(world)
    (world.directory / "l").symlink_to("f")
    os.utime(world.directory / "l", ns=(0, TIME_NS), follow_symlinks=False)
    announce(world, BY_TIME, size=1, name=b"l")
    assert world.outcomes[b"l"][0] == Result.EXISTS


def test_the_sender_says_so(tmp_path):
    (tmp_path / "f").write_bytes(b"data")
    source, = find_sources([str(tmp_path / "f")], None, by_time=True)
    for one in (source, source.again()):
        assert one.open(0).flags & BY_TIME
        one.close()
