"""mproxy send, repeated: directories that continue where they stopped, senders that come back, one output."""

import json
import os
import resource
import signal
import subprocess

import pytest
from lab import until
from test_transfer import MANY, Transfer, content


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


def tree_of(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_a_directory_goes_on_where_it_stopped(transfer, force):
    """Goal: if it is killed in the middle and started again at once, the new sender takes over every file: status 0, no
    byte that had arrived is sent twice, and a third run sends nothing at all."""
    files = {f"d/{number:02}": content(number, 600_000) for number in range(24)}
    for name, data in files.items():
        transfer.file(name, data)
    receiver, port = transfer.recv(*force, once=False)
    _box, through = transfer.impair(port, "--rate", "60Mbit", "--delay", "3ms")
    sender = transfer.send(through, transfer.source / "d")
    until(lambda: len(receiver.events("received")) >= 6, MANY, "some files have arrived")
    sender.signal(signal.SIGKILL)
    sender.wait()
    arrived = len(receiver.events("received"))
    sender = transfer.send(through, "--json", transfer.source / "d")
    assert sender.wait(MANY) == 0, str(sender)
    lines = [json.loads(line) for _, line in sender.out.lines]
    assert {line["result"] for line in lines if "result" in line} == {"done"}
    assert lines[-1]["bytes"] <= (24 - arrived) * 600_000
    assert tree_of(transfer.target) == files
    sender = transfer.send(port, "--json", transfer.source / "d")
    assert sender.wait(MANY) == 0, str(sender)
    assert json.loads(sender.out.lines[-1][1])["bytes"] == 0
    assert tree_of(transfer.target) == files


def test_directories_have_their_times_after_a_second_dial(transfer):
    """Goal: if the receiver restarts during the transfer, directories made before still get their times at the end."""
    for number in range(10):
        transfer.file(f"d/{number % 2}/{number}", content(number, 1_000_000))
    for name in ("d/0", "d/1", "d"):
        os.utime(transfer.source / name, (10**9, 10**9))
    receiver, port = transfer.recv(once=False)
    _box, through = transfer.impair(port, "--rate", "30Mbit")
    sender = transfer.send(through, "--json", transfer.source / "d")
    until(lambda: len(receiver.events("received")) >= 3, MANY, "some files have arrived")
    receiver.stop()
    assert "what has arrived is kept: sent again, it continues where it stopped" in receiver.log.text
    transfer.recv(port=port, once=False)
    assert sender.wait(MANY) == 0, str(sender)
    sender.event("dialled-anew")
    assert [(transfer.target / name).stat().st_mtime for name in ("d/0", "d/1", "d")] == [10**9] * 3
    assert tree_of(transfer.target) == tree_of(transfer.source)
    results = [line["file"] for line in map(json.loads, (line for _, line in sender.out.lines)) if "result" in line]
    assert len(results) == len(set(results)) == 13, "each is told once"


def test_what_differs_is_an_error_and_the_rest_is_skipped(transfer):
    """Goal: equal size and time do not prove that a file is the same."""
    for name in ("d/same", "d/other"):
        transfer.file(name, content(1, 1_500_000))
    receiver, port = transfer.recv(once=False)
    assert transfer.send(port, transfer.source / "d").wait(MANY) == 0
    path = transfer.target / "d" / "other"
    times = path.stat()
    path.write_bytes(content(2, 1_500_000))
    os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))
    sender = transfer.send(port, transfer.source / "d")
    assert sender.wait(MANY) == 5
    assert "d/other: a different file of this name exists" in sender.log.text
    assert path.read_bytes() == content(2, 1_500_000)
    receiver.stop()
    _receiver, port = transfer.recv("--force", once=False)
    assert transfer.send(port, transfer.source / "d").wait(MANY) == 0
    assert path.read_bytes() == content(1, 1_500_000)


@pytest.mark.parametrize("once", [False, True], ids=["stays", "once"])
def test_two_senders_to_one_standard_output(transfer, once):
    """Goal: their bytes are never mixed: one is served, the other is refused with a reason."""
    receiver, port = transfer.recv(output="-", once=once)
    _box, through = transfer.impair(port, "--rate", "20Mbit", "--delay", "2ms")
    senders = [transfer.send(through, transfer.file(name, name.encode() * 1_500_000)) for name in "AB"]
    statuses = sorted(sender.wait(MANY) for sender in senders)
    assert statuses == [0, 1]
    assert any("another sender is writing" in sender.log.text or "accepts only one sender" in sender.log.text
               for sender in senders)
    if once:
        assert receiver.wait(MANY) == 0
    assert receiver.out.text in ("A" * 1_500_000, "B" * 1_500_000)


@pytest.mark.parametrize("once", [False, True], ids=["stays", "once"])
@pytest.mark.parametrize("when", ["idle", "between", "in-mid-write", "a file", "all written"])
def test_the_reader_of_standard_output_goes(transfer, once, when):
    """Goal: if nobody reads the output any more (`| head`), recv ends at once, as with SIGPIPE, a line says so, and a
    connected sender is told why. When everything has been written it does not matter."""
    reading, writing = os.pipe()
    receiver, port = transfer.recv(output="-", once=once, stdout=writing)
    os.close(writing)
    sender = None
    if when == "all written":
        assert transfer.send(port, transfer.file("f", b"data")).wait(MANY) == 0
        if once:
            assert receiver.wait(MANY) == 0
            os.close(reading)
            return
    elif when == "a file":
        sender = transfer.send(port, transfer.file("f", content(1, 1_500_000)))
        os.read(reading, 5)
    elif when != "idle":
        sender = transfer.send(port, "-", stdin=subprocess.PIPE)
        sender.process.stdin.write(b"x" * (1_500_000 if when == "in-mid-write" else 5))
        sender.process.stdin.flush()
        os.read(reading, 5)
    os.close(reading)
    assert receiver.wait(MANY) == 141
    assert receiver.event("output-closed").level == "warning"
    if sender is not None:
        assert sender.wait(MANY) == 1
        assert "nobody reads the receiver's output any more" in sender.log.text


def test_once_takes_one_sender(transfer):
    receiver, port = transfer.recv()
    _box, through = transfer.impair(port, "--rate", "20Mbit", "--delay", "2ms")
    senders = [transfer.send(through, transfer.file(name, content(1, 1_500_000))) for name in "AB"]
    assert sorted(sender.wait(MANY) for sender in senders) == [0, 1]
    assert receiver.wait(MANY) == 0
    assert len(os.listdir(transfer.target)) == 1


def test_few_descriptors(transfer):
    """Goal: with several senders of many files and a low limit, files wait, and none fails."""
    for sender in range(4):
        for number in range(70):
            transfer.file(f"d{sender}/{number}", content(number, 2000))
    receiver, port = transfer.recv("--senders", "64", once=False)
    resource.prlimit(receiver.process.pid, resource.RLIMIT_NOFILE, (120, 120))
    senders = [transfer.send(port, transfer.source / f"d{sender}") for sender in range(4)]
    for sender in senders:
        assert sender.wait(MANY) == 0, str(sender)
    assert tree_of(transfer.target) == tree_of(transfer.source)


def test_what_nobody_goes_on_with_is_given_back(transfer):
    receiver, port = transfer.recv("--partial-ttl", "2s", once=False)
    _box, through = transfer.impair(port, "--rate", "20Mbit")
    sender = transfer.send(through, transfer.file("f", content(1, 10_000_000)))
    until(lambda: os.listdir(transfer.target), MANY, "it has begun")
    until(lambda: (transfer.target / ".f.mproxy-part").stat().st_size > 3 << 20, MANY, "some blocks")
    sender.signal(signal.SIGTERM)
    assert receiver.event("partials-removed", within=MANY)["files"] == "2"
    assert os.listdir(transfer.target) == []


def test_umask_and_private_directories(transfer):
    transfer.file("d/f", b"x").chmod(0o777)
    os.chmod(transfer.source / "d", 0o700)
    os.utime(transfer.source / "d", (10**9, 10**9))
    mask = os.umask(0o027)
    try:
        receiver, port = transfer.recv()
    finally:
        os.umask(mask)
    assert transfer.send(port, transfer.source / "d").wait(MANY) == 0
    assert receiver.wait(MANY) == 0
    status = (transfer.target / "d").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o700, 10**9)
    assert (transfer.target / "d" / "f").stat().st_mode & 0o777 == 0o750
