"""Messages between the supervisor and its workers."""

import json
import os
import socket

import pytest

from mproxy.io._loop import Loop
from mproxy.relay import worker_channel
from mproxy.relay.rule_file import parse_rules
from mproxy.relay.worker_messages import WorkerMessageError, check_report, pack_counters, pack_rule, unpack_rule


@pytest.mark.parametrize("line", [
    "7005 -> 192.168.0.1:8005",
    "udp 53 -> 10.0.0.2:53 timeout=30s max=10000 per-source=7",
    "[::]:5060 -> sip.example:5060, [fd00::1]:5061 balance=leastconn",
    "7100-7101 -> 10.0.0.3:8100-8101 allow=10.0.0.0/8,fd00::/8 deny=10.1.0.0/16 proxy=v2 max=500 source=10.0.0.7",
    "80 -> a:1 accept-proxy allow=127.0.0.1 connect-timeout=5s",
])
def test_a_rule_comes_over_as_it_was(line):
    for rule in parse_rules(line):
        assert unpack_rule(json.loads(json.dumps(pack_rule(rule)))) == rule


def test_what_a_worker_may_say():
    counters = {7: {"total": 3, "bytes_in": 2**63}}
    told = json.loads(json.dumps(["counters", 0, pack_counters(counters), 1, 2]))
    assert check_report(told) == ("counters", 0, counters, 1, 2)
    assert check_report(["ready"]) == ("ready",)
    assert check_report(["removed", [[7, {}]]]) == ("removed", {7: {}})
    assert check_report(["down", [[7, [["a:1 at ::1", 110]]], [8, []]]]) == ("down", {7: [("a:1 at ::1", 110)], 8: []})


@pytest.mark.parametrize("message", [
    ["ready", 1], ["status"], ["counters"], ["counters", 0, [], 1], ["counters", 0, {}, 1, 1],
    ["counters", -1, [], 0, 0],
    ["counters", 0, [[7, {"total": "3"}]], 0, 0], ["counters", 0, [[7, {"total": -1}]], 0, 0],
    ["counters", 0, [[7, {"total": 2**64}]], 0, 0], ["counters", 0, [[7, {"total": True}]], 0, 0],
    ["counters", 0, [[7, {"else": 1}]], 0, 0], ["counters", 0, [["7", {}]], 0, 0], ["counters", True, [], 0, 0],
    ["counters", 0, [[7]], 0, 0], ["counters", 0, [7], 0, 0], ["removed", {}], ["removed", [[[], {}]]],
    ["down", {}], ["down", [[7]]], ["down", [[-1, []]]], ["down", [[7, [["a:1", 0]]]]], ["down", [[7, [["a:1", "x"]]]]],
    ["down", [[7, [["a" * 513, 110]]]]], ["down", [[7, [["a:1", 110]] * 1025]]], ["down", [[7, [["a:1", 2**40]]]]],
])
def test_what_a_worker_may_not_say(message):
    with pytest.raises(WorkerMessageError):
        check_report(message)


class Ends:
    """A WorkerChannel on one side, a bare socket on the other."""

    def __init__(self):
        ours, self.theirs = worker_channel.pair()
        self.loop = Loop()
        self.received = []
        self.ended = 0
        self.channel = worker_channel.WorkerChannel(
            self.loop, ours, lambda *message: self.received.append(message), self._on_end)

    def _on_end(self):
        self.ended += 1


def test_a_long_message_goes_in_pieces():
    ends, other = Ends(), []
    reader = worker_channel.WorkerChannel(ends.loop, ends.theirs, lambda *message: other.append(message), lambda: None)
    message = ["add", ["x" * 1000] * 1000]
    read_end, write_end = os.pipe()
    ends.channel.send(*message, fds=[write_end])
    while not other:
        reader.read()
        ends.channel._ready(0)
    [(got, [fd])] = other
    assert got == message
    os.write(fd, b"!")
    assert os.read(read_end, 1) == b"!"
    for each in (fd, read_end, write_end):
        os.close(each)


@pytest.mark.parametrize("data", [
    b".", b".{}", b".[]", b".[1]", b"x[\"a\"]", b".\x80\x04K\x01.", b".[" * 3, b"." + b"[" * 60000])
def test_what_is_no_message_ends_the_channel(data):
    ends = Ends()
    fd = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(ends.theirs, [data], [fd])
    ends.channel.read()
    assert (ends.received, ends.ended) == ([], 1)
    os.close(fd)


def test_a_message_without_end_is_bounded():
    ends = Ends()
    piece = b"+" + bytes(worker_channel.PIECE_BYTES - 1)
    for _ in range(worker_channel.LONGEST_BYTES // worker_channel.PIECE_BYTES + 1):
        if ends.ended:
            break
        ends.theirs.send(piece)
        ends.channel.read()
    assert (ends.received, ends.ended) == ([], 1)
