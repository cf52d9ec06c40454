"""Files that arrive while the disk changes: only the right bytes get the name, and planted files are not opened."""

import errno
import os
import stat
import time

import pytest

from mproxy.transfer import tree
from mproxy.transfer.destinations import IntoDirectory, IntoPipe
from mproxy.transfer.file_names import BadName, temporary_names
from mproxy.transfer.leftovers import remove_abandoned
from mproxy.transfer.messages import File, FileKind
from mproxy.transfer.partial import Busy, Damaged, InTheWay, PartialFile
from mproxy.transfer.present import Differs, PresentFile
from tests.root import real_root

BLOCK = tree.LEAF_BYTES


class Arrival:
    """A source of three and a half blocks and its target in a directory."""

    def __init__(self, directory, name=b"f", kind=FileKind.FILE, mode=0o666):
        self.directory, self.name = directory, name
        self.data = b"".join(bytes([number]) * BLOCK for number in (1, 2, 3))[:-BLOCK // 2] + b"end"
        size = len(self.data) if kind == FileKind.FILE else (1 << 64) - 1
        self.file = File(0, kind, mode, 10**18, size, b"1" * 16, name)
        self.count = tree.block_count(len(self.data))

    def target(self, kind=PartialFile, **options):
        return kind(os.open(self.directory, os.O_RDONLY), self.name, self.file, **options)

    def begin(self, **options):
        self.partial = self.target(**options)
        return self.partial.begin()

    def write(self, *numbers):
        for number in numbers:
            data = self.data[number * BLOCK:(number + 1) * BLOCK]
            assert self.partial.write_block(number, data, tree.leaf(data, number, number == self.count - 1))

    @property
    def root(self):
        leaves = [tree.leaf(self.data[number * BLOCK:(number + 1) * BLOCK], number, number == self.count - 1)
                  for number in range(self.count)]
        return tree.root(b"".join(leaves))

    def finish(self):
        return self.partial.finish(len(self.data), self.root)


@pytest.fixture
def arrival(tmp_path):
    return Arrival(tmp_path)


@pytest.fixture
def part(tmp_path):
    return tmp_path / ".f.mproxy-part"


def flip(part):
    with part.open("r+b") as file:
        file.seek(BLOCK + 5)
        file.write(b"damage")


def make_hole(part):
    size = part.stat().st_size
    os.truncate(part, BLOCK)
    os.truncate(part, size)


def append(part):
    with part.open("ab") as file:
        file.write(bytes(2 * BLOCK))


DAMAGES = {"longer": (append, []), "flipped": (flip, [(1, 1)]), "hole": (make_hole, [(1, 2)]),
           "gone": (os.unlink, [(0, 3)]),
           "cut": (lambda part: os.truncate(part, 0), [(0, 3)]),
           "cut a little": (lambda part: os.truncate(part, 2 * BLOCK + 1), [(2, 1)])}


@pytest.mark.parametrize("damage, missing", DAMAGES.values(), ids=DAMAGES)
def test_what_the_state_claims_is_looked_at(arrival, part, damage, missing):
    """Goal: if the partial file was changed since, its state is not believed, and the right file arrives."""
    assert arrival.begin() == [(0, 3)]
    arrival.write(0, 1, 2)
    arrival.partial.close()
    damage(part)
    assert arrival.begin() == missing
    arrival.write(*(number for first, count in missing for number in range(first, first + count)))
    assert arrival.finish() == arrival.root
    assert (arrival.directory / "f").read_bytes() == arrival.data
    assert os.listdir(arrival.directory) == ["f"]


@pytest.mark.parametrize("damage", [flip, make_hole, lambda part: os.truncate(part, BLOCK),
                                    lambda part: os.truncate(part, 4 * BLOCK)])
def test_what_others_write_meanwhile_gets_no_name(arrival, part, damage):
    """Goal: damage to a written block is found before the file gets its name; good blocks are kept."""
    arrival.begin()
    arrival.write(0, 1, 2)
    damage(part)
    with pytest.raises(Damaged):
        arrival.finish()
    arrival.partial.abandon()
    assert not (arrival.directory / "f").exists()
    arrival.begin()
    arrival.write(0, 1, 2)
    assert arrival.finish() == arrival.root


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_part_that_was_exchanged_gets_no_name(arrival, part, how, force):
    """Goal: the file that was written and hashed gets the name, never another that took its temporary name."""
    arrival.begin(force=force)
    arrival.write(0, 1, 2)
    if how == "replaced":
        (arrival.directory / "evil").write_bytes(bytes(len(arrival.data)))
        os.rename(arrival.directory / "evil", part)
    else:
        part.unlink()
    with pytest.raises(Damaged):
        arrival.finish()
    arrival.partial.abandon()
    assert not (arrival.directory / "f").exists()
    assert part.exists() == (how == "replaced"), "what is not ours is not removed"


def test_a_damaged_state(arrival):
    """Goal: a block whose digest does not match is sent again."""
    arrival.begin()
    arrival.write(0, 1, 2)
    arrival.partial.close()
    with (arrival.directory / ".f.mproxy-state").open("r+b") as file:
        file.seek(72 + 32)
        file.write(b"x")
    assert arrival.begin() == [(1, 1)]


def plant_link(part, victim):
    part.symlink_to(victim)


def plant_hard_link(part, victim):
    os.link(victim, part)


def plant_fifo(part, _victim):
    os.mkfifo(part)


@pytest.mark.parametrize("which", [".f.mproxy-part", ".f.mproxy-state"])
@pytest.mark.parametrize("plant", [plant_link, plant_hard_link, plant_fifo])
def test_what_is_planted_is_not_opened(arrival, plant, which):
    victim = arrival.directory / "victim"
    victim.write_bytes(b"precious")
    plant(arrival.directory / which, victim)
    with pytest.raises(OSError, match="in the way"):
        arrival.begin()
    arrival.partial.abandon()
    assert victim.read_bytes() == b"precious"
    assert sorted(os.listdir(arrival.directory)) == [which, "victim"]


@pytest.mark.skipif(not real_root(), reason="only the real root can give files away")
def test_what_another_user_has_planted_is_not_opened(arrival, part):
    part.write_bytes(b"theirs")
    os.chown(part, 12345, 12345)
    with pytest.raises(PermissionError, match="in the way"):
        arrival.begin()
    assert part.read_bytes() == b"theirs"


def test_room_is_taken_as_bytes_come(arrival, part):
    """Goal: announcing a file of 200 MB takes no disk space, and a block of it at most twice its size."""
    arrival.file = arrival.file._replace(size=200 << 20)
    arrival.begin()
    assert part.stat().st_blocks * 512 < BLOCK
    data = bytes([7]) * BLOCK
    for number in range(10):
        assert arrival.partial.write_block(number, data, tree.leaf(data, number, False))
        assert part.stat().st_blocks * 512 <= 2 * (number + 1) * BLOCK + 65536


def test_what_arrives_is_hashed_once(arrival, monkeypatch):
    """Goal: each block is hashed when the file is read again, and not on its way to the disk as well."""
    hashed = []

    def leaf(data, number, is_last):
        hashed.append(number)
        return tree.leaf(data, number, is_last)

    monkeypatch.setattr("mproxy.transfer.partial.leaf", leaf)
    arrival.begin()
    arrival.write(2, 0, 1)
    assert not hashed
    assert arrival.finish() == arrival.root
    assert sorted(hashed) == [0, 1, 2]


def test_a_block_that_is_not_what_its_digest_says(arrival):
    """Goal: it is found before the file gets its name; the next attempt asks for it alone."""
    arrival.begin()
    arrival.write(0, 2)
    arrival.partial.write_block(1, b"x" * BLOCK, tree.leaf(arrival.data[BLOCK:2 * BLOCK], 1, False))
    with pytest.raises(Damaged, match="not what was sent"):
        arrival.finish()
    arrival.partial.abandon()
    assert arrival.begin() == [(1, 1)]
    arrival.write(1)
    assert arrival.finish() == arrival.root
    assert (arrival.directory / "f").read_bytes() == arrival.data


@pytest.mark.parametrize("wrote", [False, True])
def test_what_nobody_can_go_on_with_is_given_back(arrival, wrote):
    arrival.begin()
    if wrote:
        arrival.write(1)
    arrival.partial.abandon()
    assert bool(os.listdir(arrival.directory)) == wrote


def test_a_pipe_that_broke_off_is_given_back(tmp_path):
    arrival = Arrival(tmp_path, kind=FileKind.PIPE)
    arrival.begin()
    arrival.write(0)
    assert not arrival.partial.write_block(2, b"x", tree.leaf(b"x", 2, True)), "blocks of a pipe come in order"
    arrival.partial.abandon()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [b"x" * 255, "é".encode() * 127, b"x" * 242])
def test_the_longest_names(tmp_path, name):
    arrival = Arrival(tmp_path, name)
    arrival.begin()
    arrival.write(1)
    arrival.partial.close()
    for temporary in temporary_names(name):
        assert temporary.decode("utf-8").isprintable()
    assert arrival.begin() == [(0, 1), (2, 1)]
    arrival.write(0, 2)
    assert arrival.finish() == arrival.root
    assert os.listdir(os.fsencode(tmp_path)) == [name]


@pytest.mark.parametrize("rename", [True, False], ids=["renameat2", "nothing"])
def test_where_there_are_no_hard_links(arrival, monkeypatch, rename):
    def no_link(*_words, **_options):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("mproxy.transfer.partial.link_open", no_link)
    if not rename:
        monkeypatch.setattr("mproxy.transfer.partial.rename_new", lambda *_words: False)
    arrival.begin()
    arrival.write(0, 1, 2)
    (arrival.directory / "f").write_bytes(b"came meanwhile")
    with pytest.raises(FileExistsError):
        arrival.finish()
    assert (arrival.directory / "f").read_bytes() == b"came meanwhile"
    (arrival.directory / "f").unlink()
    assert arrival.finish() == arrival.root
    assert (arrival.directory / "f").read_bytes() == arrival.data
    assert os.listdir(arrival.directory) == ["f"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_not_a_file_is_never_replaced(arrival, tmp_path, force, when):
    if when == "before":
        os.mkfifo(tmp_path / "f")
        with pytest.raises(InTheWay):
            arrival.begin(force=force)
    else:
        arrival.begin(force=force)
        arrival.write(*range(arrival.count))
        os.mkfifo(tmp_path / "f")
        with pytest.raises((InTheWay, FileExistsError)):
            arrival.finish()
    assert stat.S_ISFIFO(os.stat(tmp_path / "f").st_mode)
    arrival.partial.abandon()


@pytest.mark.parametrize("force", [False, True])
def test_modes_and_times(tmp_path, force):
    arrival = Arrival(tmp_path, mode=0o777)
    if force:
        (tmp_path / "f").write_bytes(b"old")
    arrival.begin(umask=0o027, force=force)
    arrival.write(0, 1, 2)
    assert arrival.finish() == arrival.root
    status = (tmp_path / "f").stat()
    assert stat.S_IMODE(status.st_mode) == 0o750
    assert status.st_mtime_ns == 10**18
    assert status.st_nlink == 1


def test_standard_input_has_no_time_of_its_own(tmp_path):
    arrival = Arrival(tmp_path, kind=FileKind.PIPE)
    arrival.file = arrival.file._replace(mtime_ns=0)
    arrival.begin()
    arrival.write(0, 1, 2)
    assert arrival.finish() == arrival.root
    assert (tmp_path / "f").stat().st_mtime > 10**9


def test_what_nobody_goes_on_with_is_removed(tmp_path):
    """Goal: old partial files are removed wherever they are, but not recent ones or those that are being written."""
    (tmp_path / "below").mkdir()
    old = Arrival(tmp_path / "below", b"old")
    old.begin()
    old.write(1)
    (tmp_path / ".x.mproxy-part").symlink_to(tmp_path)
    (tmp_path / ".other").write_bytes(b"not ours")
    soon = time.time_ns() + 10**9
    assert remove_abandoned(tmp_path, soon) == (0, 0), "it is being written"
    old.partial.close()
    assert remove_abandoned(tmp_path, soon - 10**12) == (0, 0), "it is young"
    assert remove_abandoned(tmp_path, soon, [b".old.mproxy-part"]) == (0, 0), "another directory"
    count, room = remove_abandoned(tmp_path, soon)
    assert count == 2
    assert room >= BLOCK
    assert os.listdir(tmp_path / "below") == []
    assert sorted(os.listdir(tmp_path)) == [".other", ".x.mproxy-part", "below"]


# ---- what is there

def test_the_same_file_is_there(arrival):
    """Goal: the hash decides whether a file is the same, not its size and time."""
    path = arrival.directory / "f"
    path.write_bytes(arrival.data)
    present = arrival.target(PresentFile)
    assert present.begin() == []
    assert present.finish(len(arrival.data), arrival.root) == arrival.root
    flip(path)
    os.utime(path, ns=(10**18, 10**18))
    with pytest.raises(FileExistsError):
        present.finish(len(arrival.data), arrival.root)
    with pytest.raises(FileExistsError):
        present.finish(len(arrival.data), bytes(32))
    forced = arrival.target(PresentFile, force=True)
    forced.begin()
    with pytest.raises(Differs):
        forced.finish(len(arrival.data), arrival.root)


def test_what_a_killed_receiver_has_left_beside_the_file(arrival, part):
    """Goal: after a kill between giving the name and removing the temporary one, the next attempt removes it."""
    arrival.begin()
    arrival.write(0, 1, 2)
    arrival.partial.close()
    os.link(part, arrival.directory / "f")
    present = arrival.target(PresentFile)
    present.begin()
    assert present.finish(len(arrival.data), arrival.root) == arrival.root
    assert os.listdir(arrival.directory) == ["f"]


def test_killed_between_two_names_with_force(arrival, part):
    arrival.begin()
    arrival.write(0, 1, 2)
    arrival.partial.close()
    os.link(part, arrival.directory / "f")
    with pytest.raises(Busy):
        arrival.begin(force=True)
    arrival.partial.abandon()
    assert arrival.begin(force=True) == [(0, 3)]
    assert (arrival.directory / "f").read_bytes() == arrival.data


# ---- directories and pipes

def directory_file(name, mode=0o755):
    return File(0, FileKind.DIRECTORY, mode, 10**18, 0, bytes(16), name)


def test_a_private_directory_is_private_from_the_beginning(tmp_path):
    into = IntoDirectory(tmp_path, False)
    assert into.make(directory_file(b"d", 0o500))
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    assert not into.make(directory_file(b"d"))
    (tmp_path / "d" / "f").write_bytes(b"")
    into.dress([(directory_file(b"d", 0o500), True)])
    status = (tmp_path / "d").stat()
    assert stat.S_IMODE(status.st_mode) == 0o500
    assert status.st_mtime_ns == 10**18


@pytest.mark.parametrize("name", [b"a/b/c", b"/".join([b"d"] * 200)])
def test_no_directory_but_those_that_are_announced(tmp_path, name):
    """Goal: a message creates one directory at most."""
    with pytest.raises(BadName):
        IntoDirectory(tmp_path, False).make(directory_file(name))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [b".ssh/authorized_keys", b".bashrc", b"d/.git/hooks/x", b"..a"])
def test_strangers_send_no_hidden_files(tmp_path, name):
    (tmp_path / ".ssh").mkdir()
    into = IntoDirectory(tmp_path, False, dots=False)
    file = Arrival(tmp_path, name).file
    with pytest.raises(BadName, match="begins with a dot"):
        into.open(file)
    with pytest.raises(BadName, match="begins with a dot"):
        into.make(directory_file(name))


def test_files_on_a_pipe_do_not_mix():
    reader, writer = os.pipe()
    into = IntoPipe(writer)
    files = [Arrival(None, name).file._replace(size=2 * BLOCK) for name in (b"a", b"b")]
    first, second = (into.open(file) for file in files)
    data = b"x"
    assert not first.write_block(1, data, tree.leaf(data, 1, True))
    into.writing = first
    with pytest.raises(Exception, match="one after another"):
        second.write_block(0, data, tree.leaf(data, 0, False))
    first.close()
    assert second.write_block(0, data, tree.leaf(data, 0, False))
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    os.close(writer)
