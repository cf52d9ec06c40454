"""The receiver between link and disk: what a sender may say when, and how much of it at once."""

import os

import pytest

from mproxy.transfer import messages, tree
from mproxy.transfer.allowance import ALL_DIGEST_BYTES, Allowance
from mproxy.transfer.arrived_directories import MOST_DIRECTORY_BYTES
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.messages import HEADER, MOST_AHEAD, MOST_NAME_BYTES, File, FileKind, MessageType, Result
from mproxy.transfer.receiver import BUFFERS, FileReceiver, ReceiveObserver
from mproxy.transfer.tree import DIGEST_BYTES, LEAF_BYTES


class Link:
    """A connection whose other end is the test."""

    def __init__(self):
        self.handler = None
        self.wanted, self.least = None, 0
        self.said = []
        self.ended = None
        self.filled = 0
        self.peer = ("127.0.0.1", 1)

    def fill(self, buffer, least=None):
        self.wanted, self.least, self.filled = memoryview(buffer), least or len(buffer), 0

    def send(self, data):
        kind, _length = messages.parse_header(data[:HEADER.size])
        self.said.append((kind, messages.parse_payload(kind, data[HEADER.size:])))

    def abort(self, code, reason):
        self.ended = reason.decode()
        self.handler.on_ended(self, code, self.ended, True)

    def finish(self):
        self.ended = "finished"

    def bring(self, data):
        """Feed bytes."""
        while data and not self.ended:
            taken, data = data[:len(self.wanted) - self.filled], data[len(self.wanted) - self.filled:]
            self.wanted[self.filled:self.filled + len(taken)] = taken
            self.filled += len(taken)
            if self.filled >= self.least:
                self.handler.on_filled(self)

    def answers(self, kind):
        return [message for said, message in self.said if said == kind]


class Threads:
    """Workers that run when the test says so."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, done, *, short=False):
        self.jobs.append((function, done))

    def work(self, most=1_000_000):
        while self.jobs and most:
            most -= 1
            function, done = self.jobs.pop(0)
            result = error = None
            try:
                result = function()
            except Exception as caught:
                error = caught
            done(result, error)


class World(ReceiveObserver):
    """A receiver that writes into a directory, and what its observer was told."""

    def __init__(self, directory, allowance=None, **options):
        self.directory, self.threads = directory, Threads()
        self.outcomes, self.later = {}, []
        self.into = IntoDirectory(directory, False, **options)
        self.allowance = allowance or Allowance()
        self.receiver, self.link = self.connect()

    def connect(self):
        link = Link()
        receiver = FileReceiver(link, self.into, self.threads, self, allowance=self.allowance)
        receiver.on_established(link)
        link.bring(messages.pack_hello())
        return receiver, link

    def bring(self, *data):
        """Each is brought when everything before it is settled."""
        for one in data:
            self.link.bring(one)
            self.threads.work()

    def on_open(self, _receiver):
        """Does nothing here."""

    def on_first_file(self, _receiver):
        return None

    def on_file(self, _receiver, file, code, _root, text):
        self.outcomes[file.name] = code, text

    def on_finished(self, _receiver, error, _code):
        self.error = error

    def on_busy(self, _receiver, _file, looks, again):
        self.later.append(again)
        return looks < 3

    def on_crowded(self, again):
        self.later.append(again)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def announce(index, name, size=4, kind=FileKind.FILE):
    size = messages.UNKNOWN_SIZE if kind == FileKind.PIPE else size
    return messages.pack_file(File(index, kind, 0o755, 10**18, size, b"i" * 16, name))


def block(index, number, data, is_last=True):
    return messages.pack_block_header(index, number, tree.leaf(data, number, is_last), len(data)) + data


def end(index, data):
    return messages.pack_end(index, len(data), tree.root(tree.leaf(data, 0, True)))


def test_a_file_arrives(world):
    world.link.bring(announce(0, b"f"))
    world.threads.work()
    assert world.link.answers(MessageType.WANT) == [(0, ((0, 1),))]
    world.link.bring(block(0, 0, b"data") + end(0, b"data"))
    world.threads.work()
    assert world.outcomes == {b"f": (Result.DONE, "")}
    assert (world.directory / "f").read_bytes() == b"data"


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20, 1 << 30])
def test_however_it_is_cut(world, piece):
    """Goal: messages may come in any pieces, also with a block that is larger than what is read
    ahead, and a name as long as names may be."""
    small, large = b"small", bytes(range(256)) * 300
    files = (b"s", small), (b"l", large), (b"n" * MOST_NAME_BYTES, b""), (b"e", b"")

    def bring(data):
        for at in range(0, len(data), piece):
            world.link.bring(data[at:at + piece])

    bring(b"".join(announce(index, name, len(data)) for index, (name, data) in enumerate(files)))
    world.threads.work()
    bring(b"".join(block(index, 0, data) + end(index, data) for index, (_name, data) in enumerate(files) if index != 2)
          + messages.pack_hello())
    world.threads.work()
    assert {name[:1]: code for name, (code, _text) in world.outcomes.items()} == {
        b"s": Result.DONE, b"l": Result.DONE, b"n": Result.BAD_NAME, b"e": Result.DONE}
    assert (world.directory / "l").read_bytes() == large
    assert world.link.ended is None


def test_a_sender_of_an_older_version_is_told(world):
    data = bytearray(messages.pack_hello())
    data[HEADER.size + 1] = 1
    world.link.bring(bytes(data) + announce(0, b"f"))
    assert world.link.ended == ("the peer speaks version 1 of the transfer protocol, this program speaks version"
                                f" {messages.TRANSFER_VERSION}")
    assert world.outcomes == {}


def test_nothing_is_read_behind_a_mistake(world):
    world.link.bring(announce(0, b"f") + announce(0, b"again") + announce(1, b"g"))
    assert world.link.ended == "a file announced twice, or too many at once"
    world.threads.work()
    assert list(world.outcomes) == []
    assert world.receiver.first == (b"f", b"i" * 16)


@pytest.mark.parametrize("opened", [False, True])
def test_an_end_before_it_was_asked_for(world, opened):
    """Goal: it counts as the sender's fault, with a readable message, whenever it comes."""
    world.link.bring(announce(0, b"f"))
    if opened:
        world.threads.work()
        world.link.bring(block(0, 0, b"data") + end(0, b"data"))
    world.link.bring(end(0, b"data"))
    assert world.link.ended == "the end of a file that was not requested"
    world.threads.work()
    assert not world.receiver.closing


def test_blocks_while_the_whole_is_hashed(world):
    """Goal: nothing more is written once the sender has said that this is all."""
    world.link.bring(announce(0, b"f"))
    world.threads.work()
    world.link.bring(block(0, 0, b"data") + end(0, b"data"))
    world.link.bring(block(0, 0, b"evil"))
    assert "not requested" in world.link.ended
    world.threads.work()
    assert world.link.answers(MessageType.RESULT) == []


def test_a_block_without_its_end_is_written_before_what_follows(world):
    """Goal: the block of a small file waits only for its END, which comes next."""
    world.link.bring(announce(0, b"f") + announce(1, b"g"))
    world.threads.work()
    world.link.bring(block(0, 0, b"data"))
    assert world.threads.jobs == []
    world.link.bring(block(1, 0, b"data"))
    assert len(world.threads.jobs) == 1
    world.link.bring(end(0, b"data") + end(1, b"data"))
    world.threads.work()
    assert [world.outcomes[name][0] for name in (b"f", b"g")] == [Result.DONE] * 2


def test_the_end_of_another_file_behind_a_block(world):
    """Goal: the END of one file never counts as that of another."""
    world.link.bring(announce(0, b"f") + announce(1, b"g"))
    world.threads.work()
    world.link.bring(block(0, 0, b"data") + block(1, 0, b"data") + end(0, b"data"))
    world.threads.work()
    assert set(world.outcomes) == {b"f"}
    world.link.bring(end(1, b"data"))
    world.threads.work()
    assert world.outcomes[b"g"][0] == Result.DONE


def test_small_blocks_are_bounded(world):
    """Goal: a sender that repeats the same small block for ever takes no more of our memory than others."""
    world.link.bring(announce(0, b"f"))
    world.threads.work()
    for _ in range(MOST_AHEAD + BUFFERS):
        world.link.bring(block(0, 0, b"data"))
    world.link.bring(block(0, 0, b"data")[:-4])
    assert len(world.threads.jobs) == MOST_AHEAD + BUFFERS
    assert len(world.link.wanted) != 4  # nothing is read for one more
    world.threads.work()
    world.link.bring(b"data" + end(0, b"data"))
    world.threads.work()
    assert world.outcomes[b"f"][0] == Result.DONE


@pytest.mark.parametrize("number", [1, (1 << 24) - 1, (1 << 32) - 1])
def test_a_pipes_blocks_come_in_order(world, number):
    """Goal: no memory is used for the number that a block claims to have."""
    world.link.bring(announce(0, b"p", kind=FileKind.PIPE))
    world.threads.work()
    world.link.bring(block(0, number, b"z", False))
    assert world.link.ended == "blocks of a pipe out of order"
    world.threads.work()
    assert os.listdir(world.directory) == []


def test_files_wait_for_their_turn(tmp_path):
    """Goal: only as many of the announced files as allowed are open at once; none fails."""
    world = World(tmp_path, Allowance(files_each=2))
    world.link.bring(b"".join(announce(index, b"f%d" % index) for index in range(5)))
    for index in range(5):
        world.threads.work()
        assert [want.index for want in world.link.answers(MessageType.WANT)] == list(range(min(5, index + 2)))
        world.link.bring(block(index, 0, b"data") + end(index, b"data"))
    world.threads.work()
    assert {code for code, _text in world.outcomes.values()} == {Result.DONE}
    assert len(os.listdir(tmp_path)) == 5


def test_out_of_descriptors_is_no_failure(world, monkeypatch):
    def crowded(_file, _anew=False):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(world.into, "open", crowded)
    monkeypatch.setattr(world.into, "open_together", lambda files: [None] * len(files))
    world.link.bring(announce(0, b"f"))
    world.threads.work()
    assert world.outcomes == {}
    monkeypatch.undo()
    world.later.pop()()
    world.threads.work()
    assert len(world.link.answers(MessageType.WANT)) == 1


def test_digests_are_bounded_for_all(tmp_path, monkeypatch):
    """Goal: files of impossible sizes do not fill the memory; a sender that asks for too much at once has to wait."""
    monkeypatch.setattr("mproxy.transfer.partial.PartialFile._check_room", lambda self: None)
    monkeypatch.setattr("mproxy.transfer.partial.PartialFile.begin", lambda self: [(0, 1)])
    world = World(tmp_path)
    quarter = ALL_DIGEST_BYTES // DIGEST_BYTES * LEAF_BYTES // 4
    world.link.bring(announce(0, b"a", quarter) + announce(1, b"b", quarter))
    world.threads.work()
    assert len(world.link.answers(MessageType.WANT)) == 1, "one sender has no more than its part"
    second, link = world.connect()
    link.bring(announce(0, b"c", quarter * 4 - LEAF_BYTES))
    world.threads.work()
    assert link.answers(MessageType.WANT) == []
    world.link.abort(0, b"gone")
    world.threads.work()
    assert len(link.answers(MessageType.WANT)) == 1
    link.bring(announce(1, b"d", quarter * 8))
    assert world.outcomes[b"d"][0] == Result.NO_SPACE
    assert not second.over


def test_directories_of_one_sender_are_bounded(world, monkeypatch):
    monkeypatch.setattr(world.into, "make", lambda _file: False)
    most = MOST_DIRECTORY_BYTES // 4000
    for index in range(most + 1):
        world.link.bring(announce(index, b"d" * 4000, 0, FileKind.DIRECTORY))
        world.threads.work()
    assert world.link.ended == "more directories than one sender may create"


def test_a_file_waits_for_its_directory(world):
    """Goal: whichever thread is faster, a directory exists, with its own mode, before its contents."""
    world.link.bring(announce(0, b"d", 0, FileKind.DIRECTORY) + announce(1, b"d/f"))
    assert len(world.threads.jobs) == 1
    world.threads.work()
    world.link.bring(block(1, 0, b"data") + end(1, b"data"))
    world.threads.work()
    world.link.bring(messages.pack_bye())
    world.threads.work()
    assert (world.directory / "d" / "f").read_bytes() == b"data"
    assert (world.directory / "d").stat().st_mtime_ns == 10**18
    assert world.link.ended == "finished"


def test_what_is_there_is_not_asked_for(world):
    (world.directory / "f").write_bytes(b"data")
    (world.directory / "g").write_bytes(b"atad")
    world.link.bring(announce(0, b"f") + announce(1, b"g"))
    world.threads.work()
    assert world.link.answers(MessageType.WANT) == [(0, ()), (1, ())]
    world.link.bring(end(0, b"data") + end(1, b"data"))
    world.threads.work()
    assert world.outcomes[b"f"] == (Result.DONE, "")
    assert world.outcomes[b"g"][0] == Result.EXISTS
    assert (world.directory / "g").read_bytes() == b"atad"


def test_another_file_of_the_same_size_is_replaced_with_force(tmp_path):
    (tmp_path / "f").write_bytes(b"atad")
    world = World(tmp_path)
    world.into._force = True
    world.link.bring(announce(0, b"f"))
    world.threads.work()
    world.link.bring(end(0, b"data"))
    world.threads.work()
    assert world.link.answers(MessageType.WANT) == [(0, ()), (0, ((0, 1),))]
    world.link.bring(block(0, 0, b"data") + end(0, b"data"))
    world.threads.work()
    assert world.outcomes == {b"f": (Result.DONE, "")}
    assert (tmp_path / "f").read_bytes() == b"data"


def test_after_the_end_what_workers_have_in_hand_is_let_go(world):
    """Goal: a successor can tell when its predecessor has released its locks."""
    world.link.bring(announce(0, b"f"))
    world.threads.work()
    world.link.bring(block(0, 0, b"data"))
    file = next(iter(world.receiver._files.values())).file
    world.link.abort(1, b"gone")
    assert world.receiver.closing
    assert world.receiver.is_closing(file)
    second, link = world.connect()
    link.bring(announce(0, b"f"))
    world.threads.jobs.reverse()
    world.threads.work()
    assert not world.receiver.closing
    assert len(world.later) == 1
    world.later.pop()()
    world.threads.work()
    assert link.answers(MessageType.WANT) == [(0, ((0, 1),))]
    assert not second.over
