"""Extended attributes and ACLs: read, told, given, and what a hostile sender cannot do with them."""

import os
import struct

import pytest

from mproxy.transfer import messages
from mproxy.transfer.attributes import MOST_ATTRIBUTE_BYTES, AttributesError, attributes_of, give_attributes
from mproxy.transfer.messages import File, FileKind, Result
from tests.unit.test_receiver import World, block, end
from tests.walked import find_sources

ACL = "system.posix_acl_access"
# An ACL of version 2: owner rw, user 1234 r, group r, mask r, others none.
VALUE = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
    (1, 6, 0xFFFFFFFF), (2, 4, 1234), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)))


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "f"
    made.write_bytes(b"data")
    try:
        os.setxattr(made, "user.b", b"\0value\xff")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    os.setxattr(made, "user.a", b"")
    return made


def attributes_at(path):
    with open(path, "rb") as file:
        return attributes_of(file.fileno())


def give(path, packed):
    with open(path, "rb") as file:
        give_attributes(file.fileno(), packed)


def test_there_and_back(path, tmp_path):
    other = tmp_path / "g"
    other.write_bytes(b"")
    packed = attributes_at(path)
    give(other, packed)
    assert {name: os.getxattr(other, name) for name in os.listxattr(other)} == {"user.a": b"", "user.b": b"\0value\xff"}
    assert attributes_at(other) == packed


def test_none(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    assert attributes_at(tmp_path / "f") == b""
    give(tmp_path / "f", b"")


def test_an_acl(path, tmp_path):
    try:
        os.setxattr(path, ACL, VALUE)
    except OSError:
        pytest.skip("this file system has no ACLs")
    other = tmp_path / "g"
    other.write_bytes(b"")
    give(other, attributes_at(path))
    assert os.getxattr(other, ACL) == VALUE


def test_too_many(path, monkeypatch):
    """Not every file system has room for so many."""
    monkeypatch.setattr(os, "getxattr", lambda _fd, _name: b"x" * (MOST_ATTRIBUTE_BYTES // 2))
    with pytest.raises(AttributesError, match="more than 48 KiB"):
        attributes_at(path)


@pytest.mark.parametrize("packed", [b"x", b"\0" * 5, struct.pack(">HI", 6, 1) + b"user.a",
                                    struct.pack(">HI", 0xFFFF, 0xFFFFFFFF), struct.pack(">HI", 7, 0) + b"user.\0a"])
def test_malformed(path, packed):
    with pytest.raises(AttributesError, match="malformed"):
        give(path, packed)


def test_only_the_users_own(path):
    """Goal: a sender cannot give capabilities to a file, or whatever else the kernel trusts."""
    before = sorted(os.listxattr(path))
    for name in (b"security.capability", b"trusted.overlay.opaque", b"system.nothing", b""):
        give(path, struct.pack(">HI", len(name), 1) + name + b"x")
    assert sorted(os.listxattr(path)) == before


def announced(packed, kind=FileKind.FILE, index=0, name=b"f"):
    return messages.pack_file(File(index, kind, 0o750, 10**18, 4 if kind == FileKind.FILE else 0, b"i" * 16, name, b"",
                                   0, packed))


@pytest.mark.parametrize("taken", [False, True])
def test_a_file_and_a_directory_arrive(path, tmp_path, taken):
    (tmp_path / "in").mkdir()
    world = World(tmp_path / "in")
    world.into.takes_attributes = taken
    packed = attributes_at(path)
    world.bring(announced(packed, FileKind.DIRECTORY, 0, b"d"), announced(packed, index=1),
          block(1, 0, b"data") + end(1, b"data"), messages.pack_bye())
    assert world.outcomes == {b"d": (Result.DONE, ""), b"f": (Result.DONE, "")}
    for name in ("d", "f"):
        assert attributes_at_any(world.directory / name) == (packed if taken else b"")


def attributes_at_any(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return attributes_of(fd)
    finally:
        os.close(fd)


def test_what_cannot_be_given_is_named(path, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    world = World(tmp_path / "in")
    world.into.takes_attributes = True

    def fail(*_arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", fail)
    world.bring(announced(attributes_at(path)), block(0, 0, b"data") + end(0, b"data"))
    code, text = world.outcomes[b"f"]
    assert code == Result.FAILED
    assert text.startswith("extended attribute user.a: Operation not supported")
    assert os.listdir(world.directory) == []


def test_the_sender_reads_them(path):
    source, = find_sources([str(path)], None, with_attributes=True)
    for one in (source, source.again()):
        assert one.open(0).attributes == attributes_at(path)
        one.close()
    plain, = find_sources([str(path)], None)
    assert plain.open(0).attributes == b""
    plain.close()
