"""What a search reads of a directory, many names in one go."""

import errno
import os

import pytest

from mproxy.transfer._surveying import Listing, sort_out
from tests.unit.descriptors import open_descriptors

SMALL = 16384


@pytest.fixture
def directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def sizes_of(joined):
    return list(memoryview(joined).cast("H"))


def test_all_names_come_some_at_a_time(tmp_path, directory):
    wanted = {b"%d" % number for number in range(1000)} | {b"\xff\xfe", b" ", b"...", "ä".encode(), b"x" * 255}
    for name in wanted:
        os.close(os.open(os.path.join(os.fsencode(tmp_path), name), os.O_CREAT, 0o600))
    before = open_descriptors()
    listing = Listing(directory)
    some = [listing.take(300) for _ in range(5)]
    assert [len(one) for one in some] == [300, 300, 300, len(wanted) - 900, 0]
    assert {name for one in some for name in one} == wanted
    listing.close()
    listing.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        listing.take(1)
    assert open_descriptors() == before
    Listing(directory).take(1)
    assert open_descriptors() == before, "one that nobody has closed"


def test_what_is_no_directory_has_no_names(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    before = open_descriptors()
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    for number, error in ((fd, errno.ENOTDIR), (-1, errno.EBADF)):
        with pytest.raises(OSError, match=os.strerror(error)):
            Listing(number)
    os.close(fd)
    assert open_descriptors() == before


def test_small_files_are_told_in_runs_and_all_else_by_itself(tmp_path, directory):
    for name, size in (("a", 5), ("b", 0), ("d", SMALL), ("e", SMALL + 1), ("f", 3)):
        (tmp_path / name).write_bytes(bytes(size))
    os.link(tmp_path / "f", tmp_path / "g")
    (tmp_path / "c").mkdir()
    os.symlink("a", tmp_path / "link")
    os.symlink("nothing", tmp_path / "dangling")
    names = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"none", b"link", b"dangling"]

    def look(name, follow=False):
        status = os.stat(name, dir_fd=directory, follow_symlinks=follow)
        return status.st_mode, status.st_size, status.st_nlink, status.st_dev, status.st_ino

    runs, others, sizes = sort_out(directory, names, False, 100, 0)
    assert runs == [(0, 2, 5), (3, 4, SMALL)]
    assert others == {number: look(names[number]) for number in (2, 4, 5, 6, 8, 9)} | {7: errno.ENOENT}
    assert [sizes_of(sizes)[number] for number in (0, 1, 3)] == [5, 0, SMALL]
    runs, others, _sizes = sort_out(directory, names, True, 100, 0)
    assert runs == [(0, 2, 5), (3, 4, SMALL), (8, 9, 5)] and others[9] == errno.ENOENT
    assert sort_out(directory, [], False, 100, 0) == ([], {}, b"")
    assert sort_out(-1, [b"a"], False, 100, 0)[1] == {0: errno.EBADF}


@pytest.mark.parametrize(("size", "most", "lengths"), [
    (0, 10, [10, 10, 10, 10]), (SMALL, 100, [15, 15, 10]), (0, 100, [40])])
def test_a_run_fills_a_bundle_and_no_more(tmp_path, directory, size, most, lengths):
    names = [b"%03d" % number for number in range(40)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(bytes(size))
    runs, others, _sizes = sort_out(directory, names, False, most, 10)
    assert [end - first for first, end, _total in runs] == lengths and not others
    assert [first for first, _end, _total in runs] == [0, *(end for _first, end, _total in runs[:-1])]
    assert [total for _first, _end, total in runs] == [length * size for length in lengths]
