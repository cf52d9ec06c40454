"""Many small files between two programs: all of them arrive as they were, whatever happens on the way."""

import json
import os
import signal

import pytest
from lab import until
from test_transfer import MANY, Transfer, content
from test_transfer_again import tree_of

FILES, FILES_A_DIRECTORY = 3000, 100


@pytest.fixture
def transfer(tmp_path):
    made = Transfer(tmp_path)
    yield made
    made.close()


def make_files(transfer, count=FILES):
    """{name: contents} of files of 0 to 17,000 bytes, most of them short, in directories of directories."""
    files = {}
    for number in range(count):
        size = 15_000 + number % 2000 if number % 50 == 0 else number % 400
        files[f"t/{number // FILES_A_DIRECTORY}/in/{number}"] = content(number, size)
    for name, data in files.items():
        transfer.file(name, data)
    return files


def results_of(sender):
    """{file: what is said of it}, and the last line."""
    *lines, last = (json.loads(line) for _, line in sender.out.lines)
    return {line["file"]: line for line in lines if "result" in line}, last


def nothing_is_left(transfer):
    return not list(transfer.target.rglob(".*"))


def test_they_arrive_and_are_not_sent_twice(transfer):
    """Goal: files, hashes, times and modes; a second run sends nothing, a third one what has changed."""
    files = make_files(transfer)
    (transfer.source / "t/0/in/7").chmod(0o750)
    os.utime(transfer.source / "t/0/in", ns=(0, 10**18))
    receiver, port = transfer.recv("--force", "--json", once=False)
    for run, moved in enumerate((sum(map(len, files.values())), 0)):
        sender = transfer.send(port, "--json", transfer.source / "t")
        assert sender.wait(MANY) == 0, str(sender)
        results, last = results_of(sender)
        assert last["bytes"] == moved and last["kept"] == (0, sum(map(len, files.values())))[run]
        assert {line["result"] for line in results.values()} == {"done"} and len(results) == FILES + 61
        assert all(line["hash"] and line["bytes"] == len(files[name])
                   for name, line in results.items() if name in files)
    assert tree_of(transfer.target) == files and nothing_is_left(transfer)
    assert (transfer.target / "t/0/in/7").stat().st_mode & 0o777 == 0o750
    assert (transfer.target / "t/0/in").stat().st_mtime_ns == 10**18
    files |= {"t/5/in/510": b"changed", "t/9/in/new": b"new", "t/31/new": b"directory"}
    for name in ("t/5/in/510", "t/9/in/new", "t/31/new"):
        transfer.file(name, files[name])
    sender = transfer.send(port, "--json", "--update", transfer.source / "t")
    assert sender.wait(MANY) == 0, str(sender)
    assert results_of(sender)[1]["bytes"] == sum(map(len, (b"changed", b"new", b"directory")))
    assert tree_of(transfer.target) == files and nothing_is_left(transfer)
    told = [json.loads(line)["hash"] for _, line in receiver.out.lines if '"t/5/in/510"' in line]
    assert len(told) == 3 and told[0] == told[1] != told[2]


def test_what_is_there_is_not_replaced(transfer):
    """Goal: without --force a different file stays, is named, and everything else arrives."""
    files = make_files(transfer, 300)
    for name in ("t/0/in/5", "t/2/in/250"):
        (transfer.target / name).parent.mkdir(parents=True)
        (transfer.target / name).write_bytes(b"mine")
    _receiver, port = transfer.recv(once=False)
    sender = transfer.send(port, "--json", transfer.source / "t")
    assert sender.wait(MANY) == 5, str(sender)
    results, _last = results_of(sender)
    assert {name for name, line in results.items() if line["result"] == "exists"} == {"t/0/in/5", "t/2/in/250"}
    assert tree_of(transfer.target) == {**files, "t/0/in/5": b"mine", "t/2/in/250": b"mine"}


@pytest.mark.long
@pytest.mark.parametrize("victim", ["sender", "receiver", "both"])
def test_either_end_may_be_killed(transfer, victim):
    """Goal: killed with SIGKILL in mid-bundle, again and again: no file is ever there in part, and in the end all are
    there, none of which is sent twice but those of which nobody could say that they had arrived."""
    files = make_files(transfer)
    receiver, port = transfer.recv(once=False)
    _box, through = transfer.impair(port, "--rate", "8Mbit", "--delay", "10ms", "--loss", "2")
    for share in (0.2, 0.5, 0.8):
        sender = transfer.send(through, transfer.source / "t")
        until(lambda share=share: len(tree_of(transfer.target)) > share * FILES, MANY, "some have arrived")
        if victim != "receiver":
            sender.signal(signal.SIGKILL)
            sender.wait()
        if victim != "sender":
            receiver.signal(signal.SIGKILL)
            receiver.wait()
            receiver, _port = transfer.recv(port=port, once=False)
        if victim == "receiver":
            assert sender.wait(MANY) == 0, str(sender)
        there = {name: data for name, data in tree_of(transfer.target).items() if "/." not in name}
        assert all(files[name] == data for name, data in there.items()), "what has a name is right"
        if victim == "receiver":
            break
    sender = transfer.send(through, transfer.source / "t")
    assert sender.wait(MANY) == 0, str(sender)
    assert tree_of(transfer.target) == files and nothing_is_left(transfer)
