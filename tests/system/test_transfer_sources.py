"""What `mproxy send` finds on its own disk: files that vanish, cannot be read, or change meanwhile."""

import json
import os
import subprocess
import sys

import pytest
from lab import until
from program import Program
from test_transfer import MANY, MPROXY_ROOT, Transfer

from mproxy.transfer import sender as sending
from mproxy.transfer.messages import HEADER, FileKind, MessageType, Result, parse_payload
from mproxy.transfer.sender import FileSender
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.source_queue import SourceQueue
from tests.walked import find_sources


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


def send_with(transfer, patch, port, *words):
    """The sender, after `patch`, which is some lines of Python."""
    script = transfer.directory / "patched.py"
    script.write_text(f"import os, sys\nfrom mproxy.programs.send import main\n{patch}\nsys.exit(main(sys.argv[1:]))\n")
    program = Program([sys.executable, str(script), *map(str, words), "127.0.0.1", str(port)],
                      env={**os.environ, "PYTHONPATH": str(MPROXY_ROOT)})
    transfer.programs.append(program)
    return program


class SilentLink:
    """A Link whose peer is silent."""

    unsent = 0

    def __init__(self):
        self.handler = None
        self.sent = []

    def send(self, data):
        self.sent.append(bytes(data))

    def finish(self):
        """Nothing waits for it."""


class Outcomes:
    """An observer of FileSender."""

    def __init__(self):
        self.files = []

    def on_file(self, _sender, source):
        self.files.append((source.name, source.outcome.code, source.outcome.text))


def test_any_number_of_files_that_cannot_be_opened_in_a_row(tmp_path):
    gone = [SourceFile(b"f%d" % number, FileKind.FILE, str(tmp_path / "gone")) for number in range(5000)]
    outcomes = Outcomes()
    FileSender(SilentLink(), None, outcomes).start(SourceQueue(gone))
    assert outcomes.files == [
        (source.name, Result.UNREADABLE, "cannot read: No such file or directory") for source in gone]


@pytest.mark.parametrize("seconds", [-(10**11), -5, 0, 10**10, 10**11])
def test_any_time_that_a_file_can_have(tmp_path, seconds):
    path = tmp_path / "f"
    path.write_bytes(b"data")
    os.utime(path, (seconds, seconds))
    source = SourceFile(b"f", FileKind.FILE, str(path))
    link = SilentLink()
    FileSender(link, None, Outcomes()).start(SourceQueue([source]))
    source.close()
    told = parse_payload(MessageType.FILE, link.sent[-1][HEADER.size:])
    assert told.mtime_ns == max(1 - (1 << 63), min(path.stat().st_mtime_ns, (1 << 63) - 1))


def test_a_name_longer_than_paths_are_costs_that_file_alone(tmp_path):
    """Goal: otherwise the receiver would end the whole transfer because of it."""
    (tmp_path / "f").write_bytes(b"data")
    sources = [SourceFile(b"n" * length, FileKind.FILE, str(tmp_path / "f")) for length in (4097, 4096)]
    outcomes = Outcomes()
    link = SilentLink()
    FileSender(link, None, outcomes).start(SourceQueue(sources))
    assert outcomes.files == [(b"n" * 4097, Result.UNREADABLE, "cannot read: File name too long")]
    assert parse_payload(MessageType.FILE, link.sent[-1][HEADER.size:]).name == b"n" * 4096
    sources[1].close()


def test_out_of_descriptors_a_file_waits(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"data")
    sources = [SourceFile(b"f%d" % number, FileKind.FILE, str(tmp_path / "f")) for number in range(3)]
    real, left = os.open, [2]

    def scarce(*arguments, **more):
        if not left[0]:
            raise OSError(24, "Too many open files")
        left[0] -= 1
        return real(*arguments, **more)

    outcomes = Outcomes()
    sender = FileSender(SilentLink(), None, outcomes)
    monkeypatch.setattr(os, "open", scarce)
    sender.start(SourceQueue(sources))
    assert outcomes.files == []
    left[0] = 1
    sender.on_message(sending.MessageType.RESULT, sending.messages.Outcome(0, Result.DONE, bytes(32), ""))
    assert outcomes.files == [(b"f0", Result.DONE, "")]
    assert len(sender.link.sent) == 4, "HELLO and three files"
    for source in sources:
        source.close()


@pytest.mark.parametrize("becomes", ["fifo", "link", "directory"])
def test_something_else_in_its_place_does_not_stop_us(tmp_path, becomes):
    (tmp_path / "tree").mkdir()
    path = tmp_path / "tree" / "f"
    path.write_bytes(b"data")
    sources = find_sources([str(tmp_path / "tree")], None)
    path.unlink()
    if becomes == "fifo":
        os.mkfifo(path)
    elif becomes == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.mkdir()
    outcomes = Outcomes()
    sender = FileSender(SilentLink(), None, outcomes)
    sender.start(SourceQueue(sources))
    assert outcomes.files == [], "whether the directory is new is not known yet"
    sender.on_message(sending.MessageType.RESULT, sending.messages.Outcome(0, Result.DONE, bytes(32), ""))
    (name, code, text), = outcomes.files[1:]
    assert (name, code) == (b"tree/f", Result.UNREADABLE)
    assert text == ("cannot read: it is now a symbolic link" if becomes == "link"
                    else "cannot read: it is no longer a regular file")
    sources[0].close()


def test_what_goes_during_the_walk_is_named_and_the_rest_arrives(transfer):
    for name in ("tree/a", "tree/gone", "tree/z", "tree/sub/b"):
        transfer.file(name, b"data")
    receiver, port = transfer.recv()
    sender = send_with(transfer, """
from mproxy.transfer import walk
sort_out = walk.sort_out
def late(directory, names, *more):
    if b"gone" in names:
        os.unlink(b"gone", dir_fd=directory)
    return sort_out(directory, names, *more)
walk.sort_out = late
""", port, transfer.source / "tree")
    assert sender.wait(MANY) == 8
    assert receiver.wait(MANY) == 0
    assert sender.event("left-out")["file"].endswith("/tree/gone")
    assert sender.event("left-out")["why"] == "No such file or directory"
    assert {path.name for path in transfer.target.rglob("*") if path.is_file()} == {"a", "z", "b"}


def test_files_whose_size_the_kernel_makes_up(transfer):
    receiver, port = transfer.recv()
    sender = transfer.send(port, "--json", "/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"
                           if os.path.exists("/sys/kernel/mm/transparent_hugepage/enabled") else "/proc/filesystems",
                           "/proc/self/mountinfo")
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    with open("/proc/version", "rb") as version:
        assert (transfer.target / "version").read_bytes() == version.read()
    results = [json.loads(line) for _, line in sender.out.lines][:-1]
    assert all(result["bytes"] > 0 for result in results), results


def test_an_empty_and_a_sparse_file_are_files(tmp_path):
    for name, size in (("empty", 0), ("sparse", 4096)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
        source = SourceFile(b"f", FileKind.FILE, str(tmp_path / name))
        message = source.open(0)
        assert (message.kind, message.size) == (FileKind.FILE, size)
        source.close()


def test_a_standard_input_that_does_not_block(transfer):
    """If somebody else has set O_NONBLOCK, it waits for more, and does not change the flag."""
    receiver, port = transfer.recv(output="-")
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    sender = transfer.send(port, "-", stdin=reading)
    receiver.event("sender", within=MANY)
    for part in (b"one ", b"two"):
        os.write(writing, part)
    assert not sender.process.poll()
    assert not os.get_blocking(reading)
    os.close(writing)
    os.close(reading)
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    assert receiver.out.text == "one two"


def test_names_that_begin_with_a_dash(transfer):
    (transfer.source / "-f").write_bytes(b"data")
    receiver, port = transfer.recv()
    sender = transfer.start("send", "--quiet", "--", "-f", "127.0.0.1", port, cwd=transfer.source,
                            env={**os.environ, "PYTHONPATH": str(MPROXY_ROOT)})
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    assert (transfer.target / "-f").read_bytes() == b"data"




@pytest.mark.parametrize("output", ["-", "file"])
def test_what_comes_from_a_pipe_arrives_as_it_comes(transfer, output):
    receiver, port = transfer.recv(output=output if output == "-" else transfer.target / "f")
    sender = transfer.send(port, "-", stdin=subprocess.PIPE)
    part = transfer.target / ".f.mproxy-part"
    sent = b""
    for line in (b"hello\n", b"it goes on\n"):
        sender.process.stdin.write(line)
        sender.process.stdin.flush()
        sent += line
        if output == "-":
            receiver.expect(line.decode(), within=MANY)
        else:
            until(lambda sent=sent: part.exists() and part.read_bytes() == sent, MANY, "it is on the disk")
    sender.process.stdin.close()
    assert sender.wait(MANY) == 0, str(sender)
    assert receiver.wait(MANY) == 0
    assert (receiver.out.text.encode() if output == "-" else (transfer.target / "f").read_bytes()) == sent
