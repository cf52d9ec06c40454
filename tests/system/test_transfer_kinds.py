"""What arrives is what was there: kinds of files, their names, modes and times, between two programs."""

import json
import os
import socket
import stat
import time

import pytest
from test_transfer import MANY, Transfer, content

# Names of a file may have any bytes but two, on most file systems.
ODD_NAMES = [b"\xff\xfe", b"a\nb", b" ", b"-rf", b"\x1b[31m", b"x" * 255, "é".encode() * 127 + b"x"]


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


def kinds_of(top):
    """{path: (kind and mode, time, what is in it)} of everything below a directory."""
    found = {}
    for path, names, files in os.walk(os.fsencode(top)):
        for name in [b".", *names, *files]:
            one = os.path.join(path, name)
            status = os.lstat(one)
            inside = os.readlink(one) if stat.S_ISLNK(status.st_mode) else None
            if stat.S_ISREG(status.st_mode):
                with open(one, "rb") as file:
                    inside = file.read()
            found[os.path.relpath(one, os.fsencode(top))] = status.st_mode, status.st_mtime_ns, inside
    return found


@pytest.mark.parametrize("perms", [(), ("--perms",)], ids=["umask", "perms"])
def test_a_tree_of_every_kind(transfer, perms):
    """Goal: everything but what is no data arrives as it was; a second run sends nothing, and a third is content."""
    top = transfer.source / "t"
    for name in ("deep/a/b/c", "empty", "locked"):
        (top / name).mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(content(number, number * 300))
    for mode in (0o400, 0o755, 0o666, 0o4755):
        transfer.file(f"t/{mode:o}", content(mode, 2000)).chmod(mode)
    transfer.file("t/deep/a/large", content(1, 3_000_000))
    os.link(top / "deep/a/large", top / "deep/second")
    os.link(top / "755", top / "locked/third")
    (top / "in").symlink_to("deep/a")
    (top / "deep/up").symlink_to(b"../\xff")
    (top / "dangling").symlink_to("nowhere")
    (top / "out").symlink_to("../../etc")
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    for number, name in enumerate(("deep/a/b/c", "deep", "empty", "locked", ".")):
        os.utime(top / name, ns=(0, 10**18 + number))
    os.utime(top / "in", ns=(0, 5 * 10**17), follow_symlinks=False)
    (top / "locked").chmod(0o577)
    mask = os.umask(0o027)
    try:
        receiver, port = transfer.recv(*perms, once=False)
    finally:
        os.umask(mask)
    kept = 0o777 if perms else 0o750
    expected = {}
    for name, (mode, time_ns, inside) in kinds_of(top).items():
        if name not in (b"out", b"fifo", b"socket"):
            expected[name] = (mode if stat.S_ISLNK(mode) else stat.S_IFMT(mode) | mode & kept), time_ns, inside
    for _run in range(2):
        sender = transfer.send(port, "--links", "--json", top)
        assert sender.wait(MANY) == 8, str(sender)
        assert {os.path.basename(line["file"]): line["why"] for line in sender.events("left-out")} == {
            "out": "the symbolic link leads out of the directory", "fifo": "neither a file nor a directory",
            "socket": "neither a file nor a directory"}
        arrived = kinds_of(transfer.target / "t")
        assert {name: what for name, what in arrived.items() if what != expected.get(name)} == {}
        assert set(arrived) == set(expected)
        for first, second in (("deep/a/large", "deep/second"), ("755", "locked/third")):
            assert (transfer.target / "t" / first).stat().st_ino == (transfer.target / "t" / second).stat().st_ino
    receiver.stop()


def test_what_links_lead_to(transfer):
    transfer.file("elsewhere/f", b"data")
    transfer.file("t/f", b"own")
    (transfer.source / "t/d").symlink_to("../elsewhere")
    (transfer.source / "t/g").symlink_to("../elsewhere/f")
    (transfer.source / "t/dangling").symlink_to("nowhere")
    _receiver, port = transfer.recv()
    sender = transfer.send(port, "--copy-links", transfer.source / "t")
    assert sender.wait(MANY) == 8
    assert sender.event("left-out")["why"] == "No such file or directory"
    arrived = {str(path.relative_to(transfer.target)): path.is_symlink() for path in transfer.target.rglob("*")}
    assert arrived == dict.fromkeys(
        ("t", "t/f", "t/d", "t/d/f", "t/g"), False)
    assert (transfer.target / "t/g").read_bytes() == b"data"


def test_patterns_and_a_dry_run(transfer):
    for name in ("t/a.c", "t/a.o", "t/keep.o", "t/build/b.c"):
        transfer.file(name, b"data")
    options = ["--include", "keep.o", "--exclude", "*.o", "--exclude", "build/"]
    sender = transfer.send(9, "--dry-run", *options, transfer.source / "t")
    assert sender.wait(MANY) == 0
    assert sender.out.text.splitlines() == ["t/", "t/a.c", "t/keep.o"]
    receiver, port = transfer.recv()
    assert transfer.send(port, *options, transfer.source / "t").wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    assert sorted(path.name for path in transfer.target.rglob("*")) == ["a.c", "keep.o", "t"]


def test_what_is_there_by_size_and_time_is_not_read(transfer):
    for name in ("t/f", "t/g"):
        transfer.file(name, content(1, 1_500_000))
    receiver, port = transfer.recv("--force", once=False)
    assert transfer.send(port, transfer.source / "t").wait(MANY) == 0
    there = transfer.target / "t/f"
    times = there.stat()
    there.write_bytes(bytes(1_500_000))
    os.utime(there, ns=(times.st_atime_ns, times.st_mtime_ns))
    for options, expected in ((("--update",), bytes(1_500_000)), (("--checksum",), content(1, 1_500_000))):
        sender = transfer.send(port, "--json", *options, transfer.source / "t")
        assert sender.wait(MANY) == 0, str(sender)
        assert there.read_bytes() == expected
    receiver.stop()


@pytest.mark.parametrize("options", [("--checksum",), ()], ids=["asked", "default"])
def test_what_is_there_by_its_hash(transfer, options):
    """Goal: the hash decides and not the time: what was only touched is not sent, what is different is, though its
    size and time are the same."""
    names = ("touched", "same", "different")
    for number, name in enumerate(names):
        transfer.file(f"t/{name}", content(number, 1_500_000))
    receiver, port = transfer.recv("--force", once=False)
    assert transfer.send(port, transfer.source / "t").wait(MANY) == 0
    times = (transfer.target / "t/different").stat()
    (transfer.target / "t/different").write_bytes(bytes(1_500_000))
    os.utime(transfer.target / "t/different", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.utime(transfer.target / "t/touched", ns=(0, 0))
    before = {name: (transfer.target / "t" / name).stat().st_ino for name in names}
    sender = transfer.send(port, "--json", *options, transfer.source / "t")
    assert sender.wait(MANY) == 0, str(sender)
    summary = json.loads(sender.out.lines[-1][1])
    assert (summary["bytes"], summary["kept"]) == (1_500_000, 3_000_000)
    for number, name in enumerate(names):
        there, here = transfer.target / "t" / name, transfer.source / "t" / name
        assert there.read_bytes() == content(number, 1_500_000)
        assert there.stat().st_mtime_ns == here.stat().st_mtime_ns
        assert (there.stat().st_ino == before[name]) == (name != "different")
    receiver.stop()


def test_a_limit(transfer):
    path = transfer.file("f", content(1, 1_000_000))
    _receiver, port = transfer.recv()
    began = time.monotonic()
    assert transfer.send(port, "--limit", "8Mbit", path).wait(MANY) == 0
    assert time.monotonic() - began > 0.9
    assert (transfer.target / "f").read_bytes() == path.read_bytes()


def test_a_large_sparse_file(transfer):
    """Goal: of 20 GB with 1 MB of data 1 MB is sent and takes room; the hash is that of the file as it reads."""
    path, target = transfer.source / "f", transfer.target / "f"
    data = content(1, 1_000_000)
    with path.open("wb") as file:
        file.truncate(20 << 30)
        file.seek((7 << 30) + 5000)
        file.write(data)
    if path.stat().st_blocks * 512 > 2 << 20:
        pytest.skip("this file system has no holes")
    receiver, port = transfer.recv()
    sender = transfer.send(port, "--json", path)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    result, summary = (json.loads(line) for _, line in sender.out.lines)
    assert summary["bytes"] <= 4 << 20
    assert target.stat().st_size == 20 << 30
    assert target.stat().st_blocks * 512 <= 2 << 20
    with target.open("rb") as file:
        file.seek((7 << 30) + 5000)
        assert file.read(len(data) + 1) == data + b"\0"
    for one in (path, target):
        hashing = transfer.start("hash", one)
        assert hashing.wait(MANY) == 0
        assert hashing.out.text == f"{result['hash']}  {one}\n"


def test_extended_attributes(transfer):
    path = transfer.file("t/f", b"data")
    try:
        os.setxattr(path, "user.of-file", b"\0one")
        os.setxattr(path.parent, "user.of-directory", b"two")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    for options, status in ((("--xattrs",), 0), ((), 8)):
        receiver, port = transfer.recv(*options)
        sender = transfer.send(port, "--xattrs", path.parent)
        assert sender.wait(MANY) == status, str(sender)
        assert receiver.wait(MANY) == 0
        assert len(sender.events("xattrs-left-out")) == (status == 8)
    assert os.getxattr(transfer.target / "t/f", "user.of-file") == b"\0one"
    assert os.getxattr(transfer.target / "t", "user.of-directory") == b"two"
