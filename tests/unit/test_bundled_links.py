"""What else goes in bundles: symbolic links, further names of files, files without extended attributes; compressed."""

import os
import struct

import pytest

from mproxy.transfer import messages, zstd
from mproxy.transfer.bundle import WITH_DATA, WITH_OTHER, BundleAnswer
from mproxy.transfer.messages import HEADER, MessageType, Result
from mproxy.transfer.squeezer import Squeezer
from tests.unit.joined import Joined
from tests.unit.test_bundles import (  # noqa: F401
    TIME_NS,
    directory_entry,
    file_entry,
    give,
    hash_of,
    pack_entry,
    world,
)

DONE, MADE, WANTED, ALONE = BundleAnswer
LINK, FILE = messages.FileKind.LINK, messages.FileKind.FILE


def link_entry(name, target):
    return pack_entry(LINK, WITH_DATA, 0, TIME_NS, len(target), name, bytes(32)) + target


def second_entry(name, first, data=b"data"):
    return pack_entry(FILE, WITH_OTHER, 0o640, TIME_NS, len(data), name, hash_of(data)) + (
        struct.pack(">H", len(first)) + first)


def alone(joined):
    """Have told what is announced by itself: the list of names, which grows."""
    names = []

    def look(kind, message):
        if kind == MessageType.FILE:
            names.append(messages.parse_payload(kind, message[HEADER.size:]).name)
        return message
    joined.sending.change = look
    return names


# ---- the receiver

def test_links_of_both_kinds_arrive(world):  # noqa: F811
    assert give(world, file_entry(b"d/f"), link_entry(b"d/l", b"f"), directory_entry(b"d/e")) == [DONE, DONE, MADE]
    assert give(world, second_entry(b"d/e/g", b"d/f"), link_entry(b"d/e/up", b"../f")) == [DONE, DONE]
    top = world.directory / "d"
    assert os.readlink(top / "l") == "f" and os.readlink(top / "e/up") == "../f"
    assert (top / "l").lstat().st_mtime_ns == TIME_NS
    assert (top / "e/g").samefile(top / "f") and (top / "f").stat().st_nlink == 2
    assert world.outcomes[b"d/e/g"] == world.outcomes[b"d/l"] == (Result.DONE, "")


@pytest.mark.parametrize("entry", [
    link_entry(b"d/l", b"../../out"), link_entry(b"d/l", b"/etc/passwd"), link_entry(b"../l", b"f"),
    link_entry(b"d/sub", b"f"), second_entry(b"d/g", b"d/none"), second_entry(b"d/g", b"../secret"),
    second_entry(b"d/g", b"d/f", b"else"), second_entry(b"d/g", b"d/link"), second_entry(b"../g", b"d/f"),
    second_entry(b"d/sub", b"d/f")])
def test_what_leads_out_or_does_not_fit_is_left_to_be_announced(world, tmp_path, entry):  # noqa: F811
    """Goal: no link that leads out is made, no name is given to a file of which the sender does not know the contents,
    and nothing that is there is replaced."""
    (tmp_path / "secret").write_bytes(b"data")
    (world.directory / "d/link").symlink_to(tmp_path / "secret")
    (world.directory / "d/sub").mkdir()
    assert give(world, file_entry(b"d/f"), entry, file_entry(b"d/after")) == [DONE, ALONE, DONE]
    assert sorted(os.listdir(world.directory / "d")) == ["after", "f", "link", "sub"]
    assert sorted(os.listdir(tmp_path)) == ["secret", "to"] and (tmp_path / "secret").stat().st_nlink == 1


def test_nothing_is_written_through_a_link_of_the_same_bundle(world, tmp_path):  # noqa: F811
    assert give(world, directory_entry(b"d/e"), link_entry(b"d/l", b"e"), file_entry(b"d/l/f")) == [MADE, DONE, ALONE]
    assert os.listdir(world.directory / "d/e") == []


@pytest.mark.parametrize("entry", [
    link_entry(b"d/l", b""), link_entry(b"d/l", b"a\0b"), link_entry(b"d/l", b"a" * 4097),
    link_entry(b"d/l", b"f")[:-1],
    pack_entry(LINK, 0, 0, TIME_NS, 0, b"d/l", bytes(32)), second_entry(b"d/g", b""), second_entry(b"d/g", b"f")[:-1],
    pack_entry(FILE, WITH_OTHER, 0, TIME_NS, 0, b"d/g", bytes(32)), second_entry(b"d/g", b"a" * 4097),
    pack_entry(FILE, WITH_OTHER | WITH_DATA, 0, TIME_NS, 0, b"d/g", bytes(32)) + b"\0\1f"])
def test_malformed_links_end_the_connection(world, entry):  # noqa: F811
    give(world, entry)
    assert world.link.ended is not None and "bundle" in world.link.ended


@pytest.mark.parametrize("length, frame", [(5, b"junk"), (7, None), (9, None), (messages.LEAF_BYTES + 1, None)])
def test_compressed_bundles_that_are_none(world, length, frame):  # noqa: F811
    """Goal: neither more memory than was said nor anything but a frame of just that is accepted."""
    world.link.bring(messages.pack_hello(abilities=messages.PACKED))
    frame = frame or zstd.compress(b"12345678")
    world.link.bring(messages.pack_packed_bundle(1, length, frame))
    world.threads.work()
    assert world.link.ended is not None and "bundle" in world.link.ended


def test_a_compressed_bundle_that_was_not_asked_for(world):  # noqa: F811
    entry = directory_entry(b"d/e")
    world.link.bring(messages.pack_packed_bundle(1, len(entry), zstd.compress(entry)))
    assert world.link.ended == "a compressed bundle, which nobody has offered to take"


# ---- both ends

@pytest.fixture
def trees(tmp_path):
    """(what is sent, where to): 400 files of text, as many symbolic links, as many further names."""
    top, to = tmp_path / "top", tmp_path / "to"
    (top / "sub").mkdir(parents=True)
    to.mkdir()
    for number in range(400):
        (top / f"f{number:03}").write_text(f"line {number} of a text that says little\n" * 20)
        (top / f"sub/l{number:03}").symlink_to(f"../f{number:03}")
        os.link(top / f"f{number:03}", top / f"sub/h{number:03}")
    return top, to


def check_same(top, to):
    for number in range(400):
        first = to / f"top/f{number:03}"
        assert first.read_bytes() == (top / f"f{number:03}").read_bytes()
        assert os.readlink(to / f"top/sub/l{number:03}") == f"../f{number:03}"
        assert first.samefile(to / f"top/sub/h{number:03}") and first.stat().st_nlink == 2


def test_links_go_together(trees):
    top, to = trees
    joined = Joined([top], to, find={"links": "keep"})
    names = alone(joined)
    assert joined.run() is None
    check_same(top, to)
    assert names == [b"top"], "only the first thing is announced by itself"
    assert set(joined.said.outcomes.values()) == {Result.DONE} and len(joined.said.outcomes) == 1202
    assert joined.sender.done_bytes == sum(one.stat().st_size for one in top.rglob("[fh]*"))


def test_a_receiver_of_before_gets_them_one_by_one(trees):
    top, to = trees
    joined = Joined([top], to, find={"links": "keep"})
    joined.receiving.change = lambda kind, message: (
        messages.pack_hello(256, True, False, True, messages.NOTES) if kind == MessageType.HELLO else message)
    names = alone(joined)
    assert joined.run() is None
    check_same(top, to)
    assert len(names) == 801


def test_a_link_that_is_replaced_meanwhile(trees):
    """Goal: what is no longer a link, or leads elsewhere by now, is what it is when it is sent, or named."""
    top, to = trees
    joined = Joined([top], to, find={"links": "keep"})
    (top / "sub/l000").unlink()
    (top / "sub/l000").write_text("no link")
    (top / "sub/l001").unlink()
    (top / "sub/l001").symlink_to("/etc/passwd")
    assert joined.run() is None
    assert {name for name, code in joined.said.outcomes.items() if code != Result.DONE} == {
        b"top/sub/l000", b"top/sub/l001"}
    assert sorted(os.listdir(to / "top/sub")) == sorted(set(os.listdir(top / "sub")) - {"l000", "l001"})


def test_with_attributes_only_those_that_have_some_go_alone(trees):
    top, to = trees
    for name in ("f000", "f001", "sub"):
        os.setxattr(top / name, "user.note", name.encode())
    joined = Joined([top], to, find={"with_attributes": True})
    joined.into.takes_attributes = True
    names = alone(joined)
    assert joined.run() is None
    assert set(names) >= {b"top", b"top/f000", b"top/f001", b"top/sub"} and len(names) < 10
    for name in ("f000", "f001", "sub"):
        assert os.getxattr(to / "top" / name, "user.note") == name.encode()
    assert os.listxattr(to / "top/f002") == []


def test_texts_are_compressed_together(trees):
    top, to = trees
    now = [0]

    def clock():
        now[0] += 1_000_000
        return now[0]
    for name in ("a", "b"):
        (to / name).mkdir()
    plain = Joined([top], to / "a", find={"links": "keep"})
    assert plain.run() is None
    joined = Joined([top], to / "b", find={"links": "keep"},
                    squeezer=Squeezer(clock))
    assert joined.run() is None
    check_same(top, to / "b")
    assert joined.sent() < plain.sent() // 5
    assert joined.sender.done_bytes == plain.sender.done_bytes
    assert joined.sender.saved_bytes > joined.sender.sent_bytes
