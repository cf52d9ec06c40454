"""The system calls with which an arriving file is written: what they must not touch, and which errors they raise."""

import errno
import fcntl
import os
import stat

import pytest

from mproxy.transfer import _disk
from tests.unit.descriptors import open_descriptors


@pytest.fixture
def directory(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def file(directory):
    fd = _disk.create(directory, b"f")
    yield fd
    os.close(fd)


def test_a_new_file_is_private_and_locked(directory, file):
    assert stat.S_IMODE(os.fstat(file).st_mode) == 0o600
    other = os.open(b"f", os.O_RDONLY, dir_fd=directory)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    assert _disk.create(directory, b"f") == -1
    with pytest.raises(FileNotFoundError):
        _disk.create(directory, b"none/f")


def test_directories_on_the_way(directory, tmp_path):
    """Goal: no link is followed, the error names the wrong part of the path, and no descriptor stays open."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("b")
    (tmp_path / "a" / "f").write_bytes(b"")
    before = open_descriptors()
    for parts, where in ([b"a", b"b"], tmp_path / "a" / "b"), ([], tmp_path):
        fd = _disk.open_below(directory, parts)
        assert os.path.samestat(os.fstat(fd), where.stat())
        os.close(fd)
    for parts, code in ([b"a", b"link", b"x"], errno.ENOTDIR), ([b"a", b"f"], errno.ENOTDIR), (
            [b"a", b"none", b"x"], errno.ENOENT):
        with pytest.raises(OSError) as caught:
            _disk.open_below(directory, parts)
        assert (caught.value.filename, caught.value.errno) == (parts[1], code)
    assert open_descriptors() == before


def test_what_has_a_name(directory, file, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    assert _disk.find(directory, b"none") is None
    assert stat.S_ISLNK(_disk.find(directory, b"link").st_mode)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        _disk.find(directory, b"f/x")
    for found in _disk.find(directory, b"f"), _disk.status_of(file):
        real = os.fstat(file)
        for field in ("st_dev", "st_ino", "st_mode", "st_nlink", "st_uid", "st_size", "st_mtime_ns", "st_ctime_ns"):
            assert getattr(found, field) == getattr(real, field)


def test_only_the_name_of_an_open_file_is_removed(directory, file, tmp_path):
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "link").symlink_to("f")
    for name in b"other", b"link", b"none":
        assert not _disk.is_named(file, directory, name)
        _disk.remove_named(file, directory, name)
    _disk.link_open(file, directory, b"second")
    with pytest.raises(FileExistsError):
        _disk.link_open(file, directory, b"other")
    assert _disk.is_named(file, directory, b"second")
    _disk.remove_named(file, directory, b"f")
    assert sorted(os.listdir(tmp_path)) == ["link", "other", "second"]


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 40])
def test_what_was_written_is_read(file, data):
    _disk.write_at(file, data, 3)
    buffer = bytearray(20000)
    assert _disk.read_at(file, buffer, 3) == len(data)
    assert buffer[:len(data)] == data
    assert _disk.read_at(file, bytearray(), 3) == 0


def test_errors_of_the_system_are_raised(directory):
    reading = os.open(".", os.O_RDONLY, dir_fd=directory)
    with pytest.raises(IsADirectoryError):
        _disk.read_at(reading, bytearray(1), 0)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        _disk.write_at(reading, b"x", 0)
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        _disk.write_at(full, b"x", 0)
    os.close(full)
    for call in (_disk.status_of, lambda fd: _disk.settle(fd, 0o644, None)):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            call(full)


@pytest.mark.parametrize("time", [None, 0, -1, 10**18 + 7])
def test_mode_and_time(file, time):
    before = os.fstat(file).st_mtime_ns
    status = _disk.settle(file, 0o640, time)
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_mtime_ns == (before if time is None else time)
