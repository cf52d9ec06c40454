"""Small files that are opened, written and read many in one go: as if each had been alone, whatever is in its way."""

import os
import stat

import pytest

from mproxy.transfer import _disk, tree
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.file_names import temporary_names
from mproxy.transfer.messages import End, File, FileKind
from mproxy.transfer.partial import Damaged, finish_together
from mproxy.transfer.reading import _read_whole
from mproxy.transfer.source_file import Changed, SourceFile
from mproxy.transfer.workers import Kind, Together, tried
from tests.unit.descriptors import open_descriptors

DATA = b"some bytes"
TIME_NS = 10**18 + 123_456_789


def announced(name, size=None, mode=0o640):
    return File(0, FileKind.FILE, mode, TIME_NS, len(DATA) if size is None else size, b"1" * 16, name)


def arrived(target, data=DATA, size=None):
    digest = tree.leaf(data, 0, True)
    return target, data, digest, End(0, len(data) if size is None else size, tree.root(digest))


def part_of(directory, name):
    return directory / os.fsdecode(temporary_names(name)[0])


@pytest.fixture
def into(tmp_path):
    return IntoDirectory(str(tmp_path), False)


def open_one(into, name=b"f", **options):
    [target] = into.open_together([announced(name, **options)])
    return target


@pytest.mark.parametrize("data", [b"", DATA, bytes(16384)], ids=["empty", "some", "most"])
def test_the_ordinary_way(tmp_path, into, data):
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = open_descriptors()
    names = [b"f", b"a/g", b"a/b/h", b"a/i"]
    targets = into.open_together([announced(name, len(data)) for name in names])
    assert all(stat.S_IMODE(os.stat(part_of((tmp_path / os.fsdecode(name)).parent, os.path.basename(name))).st_mode)
               == 0o600 for name in names)
    roots = finish_together([arrived(target, data) for target in targets])
    assert roots == [tree.root(tree.leaf(data, 0, True))] * len(names)
    for name in names:
        status = os.stat(tmp_path / os.fsdecode(name))
        assert (tmp_path / os.fsdecode(name)).read_bytes() == data
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o640, TIME_NS, 1)
    for target in targets:
        target.abandon()
    assert open_descriptors() == before
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "g", "i"]


@pytest.mark.parametrize("what", ["file", "link", "directory", "part", "no directory", "reserved"])
def test_a_file_that_cannot_begin_with_the_others(tmp_path, into, what):
    """Goal: nothing is left of the attempt, and the others are not affected."""
    name = b"none/f" if what == "no directory" else b".f.mproxy-part" if what == "reserved" else b"f"
    if what == "file":
        (tmp_path / "f").write_bytes(b"other")
    elif what == "link":
        (tmp_path / "f").symlink_to("nowhere")
    elif what == "directory":
        (tmp_path / "f").mkdir()
    elif what == "part":
        part_of(tmp_path, b"f").write_bytes(b"left behind")
    listed, before = sorted(os.listdir(tmp_path)), open_descriptors()
    first, odd, last = into.open_together([announced(b"first"), announced(name), announced(b"last")])
    assert odd is None
    finish_together([arrived(first), arrived(last)])
    assert sorted(os.listdir(tmp_path)) == sorted([*listed, "first", "last"])
    assert open_descriptors() == before


def test_what_has_come_meanwhile_is_not_replaced(tmp_path, into):
    target, before = open_one(into), open_descriptors()
    (tmp_path / "f").write_bytes(b"other")
    assert finish_together([arrived(target)]) == [None]
    assert open_descriptors() == before  # the long way needs them
    assert target.write_block(0, DATA, tree.leaf(DATA, 0, True))
    with pytest.raises(FileExistsError):
        target.finish(len(DATA), tree.root(tree.leaf(DATA, 0, True)))
    assert (tmp_path / "f").read_bytes() == b"other"
    target.abandon()


def test_what_has_come_meanwhile_is_replaced_by_force(tmp_path):
    target = open_one(IntoDirectory(str(tmp_path), True))
    (tmp_path / "f").write_bytes(b"other")
    assert finish_together([arrived(target)]) == [None]
    assert target.write_block(0, DATA, tree.leaf(DATA, 0, True))
    assert target.finish(len(DATA), tree.root(tree.leaf(DATA, 0, True)))
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_part_that_was_replaced_does_not_get_the_name(tmp_path, into):
    target = open_one(into)
    part_of(tmp_path, b"f").unlink()
    part_of(tmp_path, b"f").write_bytes(b"planted")
    assert finish_together([arrived(target)]) == [None]
    assert target.write_block(0, DATA, tree.leaf(DATA, 0, True))
    with pytest.raises(Damaged):
        target.finish(len(DATA), tree.root(tree.leaf(DATA, 0, True)))
    target.abandon()
    assert os.listdir(tmp_path) == [part_of(tmp_path, b"f").name]


def test_longer_than_was_said(tmp_path, into):
    """Goal: what somebody else appended to the part is found."""
    target = open_one(into)
    with open(part_of(tmp_path, b"f"), "ab") as part:
        part.write(DATA + b"more")
    assert finish_together([arrived(target)]) == [None]
    assert not (tmp_path / "f").exists()
    target.abandon()


@pytest.mark.parametrize("wrong", ["digest", "size", "root"])
def test_what_the_sender_said_must_be_true(tmp_path, into, wrong):
    target = open_one(into)
    _target, data, digest, end = arrived(target)
    digest = bytes(32) if wrong == "digest" else digest
    end = End(0, end.size + (wrong == "size"), bytes(32) if wrong == "root" else end.root)
    assert finish_together([(target, data, digest, end)]) == [None]
    assert os.listdir(tmp_path) == [part_of(tmp_path, b"f").name]
    target.abandon()
    assert os.listdir(tmp_path) == []


def test_a_part_that_was_left_behind(tmp_path, into):
    """Goal: who begins with what an earlier attempt has left finishes alone, and removes all of it."""
    part_of(tmp_path, b"f").write_bytes(b"left behind, and longer than what comes")
    target = into.open(announced(b"f"))
    target.begin()
    assert finish_together([arrived(target)]) == [None]
    assert target.write_block(0, DATA, tree.leaf(DATA, 0, True))
    assert target.finish(len(DATA), tree.root(tree.leaf(DATA, 0, True)))
    target.abandon()
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == DATA


def test_the_umask_counts(tmp_path):
    target = open_one(IntoDirectory(str(tmp_path), False, umask=0o077), mode=0o777)
    finish_together([arrived(target)])
    assert stat.S_IMODE(os.stat(tmp_path / "f").st_mode) == 0o700


def test_a_thousand_in_one_go_leave_no_descriptor_open(tmp_path, into):
    before = open_descriptors()
    for start in range(0, 1000, 100):
        targets = into.open_together([announced(b"%d" % number) for number in range(start, start + 100)])
        finish_together([arrived(target) for target in targets])
    assert (len(os.listdir(tmp_path)), open_descriptors()) == (1000, before)


# ---- reading

def sources(tmp_path, *contents):
    found = []
    for number, data in enumerate(contents):
        (tmp_path / str(number)).write_bytes(data)
        found.append(SourceFile(b"%d" % number, FileKind.FILE, str(tmp_path / str(number))))
        found[-1].open(number)
    return found


def read_all(found):
    return _disk.read_all([(source.fd, source.status) for source in found])


def test_reading(tmp_path):
    assert read_all(sources(tmp_path, b"", DATA, bytes(16384))) == [b"", DATA, bytes(16384)]


@pytest.mark.parametrize("change", ["shorter", "longer", "touched"])
def test_a_file_that_changes(tmp_path, change):
    """Goal: it is noticed, whatever others are read with it."""
    found = sources(tmp_path, DATA, DATA, DATA)
    if change == "touched":
        os.utime(tmp_path / "1", ns=(1, 1))
    else:
        with open(tmp_path / "1", "r+b") as file:
            file.truncate(1 if change == "shorter" else 1000)
    contents = read_all(found)
    assert contents == [DATA, None, DATA]
    whole, error = tried(_read_whole, found[1], None)
    assert whole is None
    assert isinstance(error, Changed)


# ---- collecting

class Threads:
    """Workers that do their jobs when they are told to."""

    def __init__(self):
        self.jobs = []

    def submit(self, function, done, *, short=0):
        self.jobs.append((function, done, short))

    def work(self):
        jobs, self.jobs = self.jobs, []
        for function, done, _short in jobs:
            done(*tried(function))


def test_collecting():
    threads, seen = Threads(), []
    together = Together(threads)
    kind = Kind(lambda items: [(item * 2, None) for item in items], lambda *what: seen.append(what))
    with together:
        for number in range(40):
            together.add(kind, number)
        assert threads.jobs == []
    assert [short for _function, _done, short in threads.jobs] == [32, 8]
    threads.work()
    assert seen == [(number, number * 2, None) for number in range(40)]
    together.add(kind, 1)
    assert len(threads.jobs) == 1


def test_what_results_lead_to_is_collected_as_well():
    threads = Threads()
    together = Together(threads)
    second = Kind(lambda items: [(None, None)] * len(items), lambda *_what: None)
    first = Kind(lambda items: [(None, None)] * len(items), lambda item, *_what: together.add(second, item))
    with together:
        for number in range(10):
            together.add(first, number)
    threads.work()
    assert [short for _function, _done, short in threads.jobs] == [10]


def test_a_job_that_fails_as_a_whole():
    """Goal: everybody who waits for a result is told."""
    threads, seen = Threads(), []
    together = Together(threads)

    def fail(_items):
        raise MemoryError

    kind = Kind(fail, lambda *what: seen.append(what))
    with together:
        for number in range(3):
            together.add(kind, number)
    threads.work()
    assert [(item, result, type(error)) for item, result, error in seen] == [
        (number, None, MemoryError) for number in range(3)]

