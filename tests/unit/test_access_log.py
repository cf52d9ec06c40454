"""The access log: lines, a disk that is full or slow, a file that is moved."""

import fcntl
import json
import os
import threading

import pytest

from mproxy.ground.errors import UsageError
from mproxy.io._loop import Loop
from mproxy.relay.access_log import AccessFile, LineWriter, say_account
from mproxy.relay.relay_observer import Account
from mproxy.relay.rule_file import parse_rules


def run(loop, done, within_us=20_000_000):
    """Run until done() or out of time."""
    late = []

    def look():
        if done():
            loop.stop()
        else:
            loop.call_later(1000, look)

    def give_up():
        late.append(True)
        loop.stop()
    timer = loop.call_later(within_us, give_up)
    look()
    loop.run()
    timer.cancel()
    assert not late, "out of time"


class Written:
    """A LineWriter on a file, or on the descriptor `fd`."""

    def __init__(self, path=None, fd=None, **options):
        self.loop = Loop()
        self.lost = []
        self.writer = LineWriter(self.loop, lambda count, why: self.lost.append((count, why)), **options)
        if path is not None:
            self.file = AccessFile(str(path))
            fd = self.file.fileno()
        self.writer.use(fd)


def test_a_line():
    [rule] = parse_rules("udp 10.0.0.1:53 -> a.example:53 name=dns")
    account = Account("192.0.2.7:4000", None, "a.example:53", "10.0.0.9", 10, 20, 1_500_000, "done")
    line = json.loads(say_account(rule, account, 3, 1_700_000_001.75))
    assert line.pop("time").startswith("2023-11-1")
    assert line == {
        "protocol": "udp", "rule": "dns", "listen": "10.0.0.1:53", "client": "192.0.2.7:4000",
        "target": "a.example:53", "address": "10.0.0.9", "bytes_in": 10, "bytes_out": 20, "duration_s": 1.5,
        "ended": "done", "worker": 3}


def test_lines_are_written_in_order(tmp_path):
    written = Written(tmp_path / "log")
    for n in range(1000):
        written.writer.add(b"%d\n" % n)
    run(written.loop, lambda: (tmp_path / "log").stat().st_size >= 3890)
    assert (tmp_path / "log").read_text().split() == [str(n) for n in range(1000)]
    written.writer.add(b"last\n")
    written.writer.close()
    assert (tmp_path / "log").read_text().endswith("999\nlast\n") and written.lost == []


def test_a_full_disk_costs_lines_and_they_are_counted():
    fd = os.open("/dev/full", os.O_WRONLY)
    written = Written(fd=fd)
    for _ in range(5):
        written.writer.add(b"line\n")
    run(written.loop, lambda: written.lost)
    assert written.lost == [(5, "No space left on device")]
    os.close(fd)


def test_a_slow_disk_costs_no_more_memory_than_is_allowed():
    out, fd = os.pipe()  # nobody reads: as a disk that hangs
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
    written = Written(fd=fd, most_bytes=10_000)
    for _ in range(5):
        written.writer.add(b"x" * 1999 + b"\n")
    run(written.loop, lambda: written.writer._busy)
    for _ in range(8):
        written.writer.add(b"x" * 1999 + b"\n")
    run(written.loop, lambda: written.lost)
    assert written.lost == [(3, "the disk is too slow")]
    written.writer.close(0.01)
    found = []
    reader = threading.Thread(target=lambda: found.extend(iter(lambda: os.read(out, 1 << 16), b"")))
    reader.start()
    run(written.loop, lambda: len(b"".join(found)) >= 20_000)
    os.close(fd)
    written.writer.use(0)
    reader.join(timeout=10)
    assert b"".join(found) == (b"x" * 1999 + b"\n") * 10


def test_the_file_may_be_moved_away(tmp_path):
    path, away = tmp_path / "log", tmp_path / "log.1"
    written = Written(path)
    written.writer.add(b"first\n")
    run(written.loop, lambda: path.stat().st_size)
    assert not written.file.was_moved()
    path.rename(away)
    assert written.file.was_moved()
    again = AccessFile(str(path))
    written.writer.add(b"second\n")
    written.writer.use(again.fileno())
    written.writer.add(b"third\n")
    written.writer.close()
    assert (away.read_text(), path.read_text()) == ("first\n", "second\nthird\n")
    path.unlink()
    assert again.was_moved()


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(UsageError, match=r"cannot write --access-log .*none/log: No such file or directory"):
        AccessFile(str(tmp_path / "none" / "log"))
    assert not AccessFile("/dev/null").was_moved()
