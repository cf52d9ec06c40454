"""Messages of sender and receiver, encoded and decoded, and whatever else a peer may send."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.ground.errors import PeerError
from mproxy.transfer import messages, tree
from mproxy.transfer.file_names import LONGEST_COMPONENT, BadName, split_name
from mproxy.transfer.messages import HEADER, File, FileKind, MessageType, Result
from mproxy.transfer.partial import Busy, PartialFile
from mproxy.transfer.results import result_of
from mproxy.transfer.source_file import SourceFile

DIGEST = bytes(range(32))
FILE = File(3, FileKind.FILE, 0o644, 10**18, 5_000_000, b"i" * 16, b"dir/name")


def taken(data):
    kind, length = messages.parse_header(data[:HEADER.size])
    assert length == len(data) - HEADER.size
    return kind, messages.parse_payload(kind, data[HEADER.size:])


def test_there_and_back():
    assert taken(messages.pack_hello()) == (MessageType.HELLO, (messages.AHEAD, False, False, False, 0))
    assert taken(messages.pack_hello(100, True)) == (MessageType.HELLO, (100, True, False, False, 0))
    assert taken(messages.pack_hello(60000, False, True, True, 3)) == (
        MessageType.HELLO, (messages.MOST_AHEAD, False, True, True, 3))
    assert taken(messages.pack_left_out(b"a\n", "é")) == (MessageType.LEFT_OUT, (b"a\n", "é"))
    assert taken(messages.pack_total(1 << 40)) == (MessageType.TOTAL, (1 << 40,))
    for file in (FILE, FILE._replace(flags=3), FILE._replace(kind=FileKind.LINK, other=b"../f"),
                 FILE._replace(attributes=b"\0\1 x"), FILE._replace(other=b"f", attributes=b"\0")):
        assert taken(messages.pack_file(file)) == (MessageType.FILE, file)
    assert taken(messages.pack_holes(3, 4, 5)) == (MessageType.HOLES, (3, 4, 5))
    assert taken(messages.pack_want(3, [(0, 2), (5, 1)])) == (MessageType.WANT, (3, ((0, 2), (5, 1))))
    assert taken(messages.pack_end(3, 9, DIGEST)) == (MessageType.END, (3, 9, DIGEST))
    assert taken(messages.pack_result(3, Result.EXISTS, DIGEST, "é")) == (
        MessageType.RESULT, (3, Result.EXISTS, DIGEST, "é", False))
    assert taken(messages.pack_result(3, Result.DONE, made=True)) == (
        MessageType.RESULT, (3, Result.DONE, bytes(32), "", True))
    assert taken(messages.pack_answer(b"\0\1\3")) == (MessageType.ANSWER, (b"\0\1\3",))
    assert taken(messages.pack_bye()) == (MessageType.BYE, None)


@given(st.binary(min_size=8, max_size=8), st.binary(max_size=300))
@settings(max_examples=500)
def test_whatever_comes_is_a_message_or_the_peers_fault(header, payload):
    """Any bytes are messages or a PeerError, and no length is above the limit."""
    try:
        kind, length = messages.parse_header(header)
        assert length <= messages.BLOCK.size + tree.LEAF_BYTES
        if kind not in messages.WITH_BULK:
            messages.parse_payload(kind, payload[:length].ljust(length, b"\0"))
    except PeerError:
        pass


@given(st.sampled_from([messages.pack_file(FILE), messages.pack_want(3, [(0, 2), (5, 1)]),
                        messages.pack_end(3, 9, DIGEST), messages.pack_result(3, Result.DONE, DIGEST, "x"),
                        messages.pack_holes(3, 4, 5)]),
       st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_does_no_harm(data, place, change):
    damaged = bytearray(data)
    damaged[place % len(damaged)] ^= change
    try:
        kind, length = messages.parse_header(bytes(damaged[:HEADER.size]))
        if kind not in messages.WITH_BULK and length == len(damaged) - HEADER.size:
            messages.parse_payload(kind, damaged[HEADER.size:])
    except PeerError:
        pass


@pytest.mark.parametrize("name", [b"", b"/etc/passwd", b"..", b"a/..", b"a/../b", b"a//b", b"./a", b"a/", b"a\0b",
                                  b"x" * (LONGEST_COMPONENT + 1), b"a/.b.mproxy-part", b".b.mproxy-state"])
def test_names_that_are_not_taken(name):
    with pytest.raises(BadName):
        split_name(name)


def test_names_that_are_taken():
    assert split_name(b"a/b c/..d") == [b"a", b"b c", b"..d"]
    assert split_name(b"x" * LONGEST_COMPONENT) == [b"x" * LONGEST_COMPONENT]


# ---- files that arrive

class Arrival:
    """A source in memory and its PartialFile in a directory."""

    def __init__(self, directory, size=2_500_000, identity=b"1" * 16):
        self.directory = directory
        self.data = bytes(number * 7 & 0xFF for number in range(1000)) * (size // 1000)
        self.file = File(0, FileKind.FILE, 0o640, 10**18, len(self.data), identity, b"f")
        self.count = tree.block_count(len(self.data))

    def begin(self, force=False):
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        self.partial = PartialFile(fd, b"f", self.file, force=force)
        return self.partial.begin()

    def block(self, number):
        data = self.data[number << 20:(number + 1) << 20]
        return data, tree.leaf(data, number, number == self.count - 1)

    def write(self, *numbers):
        for number in numbers:
            assert self.partial.write_block(number, *self.block(number))

    def root(self):
        return tree.root(b"".join(self.block(number)[1] for number in range(self.count)))


def test_a_file_arrives_in_any_order(tmp_path):
    arrival = Arrival(tmp_path)
    assert arrival.begin() == [(0, 3)]
    arrival.write(2, 0, 1)
    assert arrival.partial.finish(len(arrival.data), arrival.root()) == arrival.root()
    arrival.partial.close()
    assert (tmp_path / "f").read_bytes() == arrival.data
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["f"]


def test_it_goes_on_where_it_stopped(tmp_path):
    arrival = Arrival(tmp_path)
    arrival.begin()
    arrival.write(1)
    arrival.partial.close()
    assert arrival.begin() == [(0, 1), (2, 1)]
    assert arrival.partial.kept_blocks == 1
    arrival.write(0, 2)
    assert arrival.partial.finish(len(arrival.data), bytes(32)) == arrival.root()


def test_another_source_begins_anew(tmp_path):
    arrival = Arrival(tmp_path)
    arrival.begin()
    arrival.write(1)
    arrival.partial.close()
    assert Arrival(tmp_path, identity=b"2" * 16).begin() == [(0, 3)]


def test_what_an_earlier_attempt_claims_is_looked_at(tmp_path):
    arrival = Arrival(tmp_path)
    arrival.begin()
    arrival.write(0, 1)
    arrival.partial.close()
    with (tmp_path / ".f.mproxy-part").open("r+b") as part:
        part.seek(1 << 20)
        part.write(b"what a crash has lost")
    assert arrival.begin() == [(1, 2)]


def test_nothing_is_replaced_even_if_it_comes_meanwhile(tmp_path):
    arrival = Arrival(tmp_path)
    arrival.begin()
    arrival.write(0, 1, 2)
    (tmp_path / "f").write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError):
        arrival.partial.finish(len(arrival.data), arrival.root())
    assert (tmp_path / "f").read_bytes() == b"somebody else's"
    arrival.partial.close()
    with pytest.raises(FileExistsError):
        arrival.begin()
    arrival.partial.abandon()
    assert arrival.begin(force=True) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_in_the_place_of_the_file_is_told_at_once(tmp_path, force):
    """Goal: it is refused at once and not after the transfer, since no file can replace a directory."""
    (tmp_path / "f").mkdir()
    arrival = Arrival(tmp_path)
    with pytest.raises(IsADirectoryError) as caught:
        arrival.begin(force)
    arrival.partial.abandon()
    assert os.listdir(tmp_path) == ["f"]
    code, text = result_of(caught.value)
    assert code == Result.EXISTS
    assert "directory" in text and "--force" not in text


def test_two_at_once_do_not_mix(tmp_path):
    Arrival(tmp_path).begin()
    first = Arrival(tmp_path)
    held = Arrival(tmp_path)
    with pytest.raises(Busy):
        first.begin() or held.begin()


def test_a_link_in_the_place_of_the_temporary_file(tmp_path):
    (tmp_path / ".f.mproxy-part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Arrival(tmp_path).begin()
    assert not (tmp_path / "elsewhere").exists()


def test_a_size_that_nobody_has_costs_no_memory(tmp_path):
    """2**51 bytes would need 64 GiB of digests; that there is no disk space is found out before."""
    directory = os.open(tmp_path, os.O_RDONLY)
    partial = PartialFile(directory, b"f", FILE._replace(size=1 << 51))
    with pytest.raises(OSError, match="No space"):
        partial.begin()
    assert len(partial._digests) == 0
    partial.close()


@pytest.mark.parametrize("ranges", [[(0, 6)], [(4, 2)], [(0, 1), (5, 1)], [((1 << 32) - 1, (1 << 32) - 1)]])
def test_a_receiver_that_wants_more_than_there_is(ranges):
    source = SourceFile(b"f", FileKind.FILE)
    source.size = FILE.size  # five blocks
    with pytest.raises(PeerError, match="beyond the end"):
        source.check_wanted(ranges)


def test_a_receiver_that_wants_a_file_twice():
    source = SourceFile(b"f", FileKind.FILE)
    source.size = FILE.size
    source.check_wanted([(0, 2), (3, 2)])
    with pytest.raises(PeerError, match="makes no sense"):
        source.check_wanted([])
