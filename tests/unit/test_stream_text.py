"""Lists of streams that are passed on as they were written: nothing is believed that a check of objects refuses."""

import json
import random
import socket
from pathlib import Path

import pytest

from mproxy.programs.status_json import say_as_json
from mproxy.service.answers import is_status
from mproxy.service.control import parse
from mproxy.service.status import parts_of
from mproxy.service.survey import _with_text
from tests.unit.answering import HERE, SESSION, STREAM, sound

APPLICATION = {"local": ["127.0.0.1", 5200], "peer": ["127.0.0.1", 40_000]}
STREAMS = [
    STREAM | {"application": APPLICATION, "age_s": 5.125}, STREAM | {"application": None, "slow": None, "age_s": None},
    STREAM | {"stream": (1 << 32) - 1, "target": "büro\"\\:22\x7f", "sent_bytes": 10 ** 17,
              "application": {"local": ["::1", 0], "peer": ["fe80::1%eth0", 65535]}}]
ORDER = ("stream", "state", "target", "application", "age_s", "sent_bytes", "received_bytes", "unacknowledged_bytes",
         "undelivered_bytes", "slow")


def written(*lists):
    """The answer of a program with sessions that have these streams, as programs write it."""
    def session(streams):
        facts = {name: value for name, value in SESSION.items() if name != "stream_list"}
        yield json.dumps(facts)[:-1] + ', "stream_list": ['
        for number, stream in enumerate(streams):
            ordered = json.dumps({name: stream[name] for name in ORDER}, separators=(",", ":"))
            yield "," * (number > 0) + ordered + " " * (number % 2)
        yield "]}"
    facts = {name: value for name, value in sound("cproxy").items() if name != "sessions"}
    return "".join([*parts_of(facts, "sessions", map(session, lists)), "\n"]).encode()


def plain(facts):
    """The same without texts."""
    for session in facts["sessions"]:
        if hasattr(session.get("stream_list"), "text"):
            session["stream_list"] = json.loads(b"[" + session["stream_list"].text + b"]")
    return facts


def test_what_programs_write_is_passed_on():
    answer = written(STREAMS, [], STREAMS[:1])
    facts = _with_text(answer, "cproxy")
    assert [len(session["stream_list"]) for session in facts["sessions"]] == [3, 0, 1]
    assert plain(facts) == parse(answer)


def test_an_answer_without_lists():
    answer = json.dumps(sound("recv")).encode()
    assert _with_text(answer, "recv") == parse(answer)


@pytest.mark.parametrize("answer", [
    json.dumps(sound("cproxy", sessions=[SESSION])).encode(), written([STREAMS[0] | {"sent_bytes": -1}]),
    written([STREAMS[0] | {"sent_bytes": 10 ** 18}]), written([STREAMS[0] | {"state": 5}]),
    written([STREAMS[0] | {"age_s": float("nan")}]), written([STREAMS[0] | {"age_s": 1e300}]),
    written(STREAMS).replace(b"40000", b"99999"), written(STREAMS).replace(b"40000", b"040000"),
    written(STREAMS).replace(b'"slow":null', b'"slow":null,"x":1'), written(STREAMS).replace(b"}]}", b"}"),
    written(STREAMS).replace(b'"open"', b'"\xc3\xa9"'), written(STREAMS).replace(b'"open"', b'"\\x"'),
    written(STREAMS).replace(b'"open"', b'"\\u12g4"'), b"", b"[]", b', "stream_list": ['])
def test_other_writing_is_not_read(answer):
    try:
        assert _with_text(answer, "cproxy") is None
    except (ValueError, RecursionError):
        pass


def test_whatever_is_read_would_have_been_believed(seed):
    """Goal: of answers with a fault somewhere, those that are read are what a check of their objects lets pass."""
    chance = random.Random(seed)
    answer, read = written(STREAMS, STREAMS[:2]), 0
    for _ in range(6000):
        spoilt = bytearray(answer)
        for _ in range(chance.choice([1, 1, 2, 5])):
            at = chance.randrange(len(spoilt))
            spoilt[at:at + chance.choice([0, 1, 1, 1, 4])] = chance.choice(
                [b'"', b"\\", b"]", b"}", b",", b"[", b"{", b"0", b"9", b" ", b"\0", b"\xff", b"e5", b"null", b""])
        try:
            facts = _with_text(bytes(spoilt), "cproxy")
        except (ValueError, RecursionError):
            continue
        if facts is not None:
            read += 1
            value = parse(bytes(spoilt))
            assert plain(facts) == value and is_status(value, "cproxy"), bytes(spoilt)
    assert read > 100


def test_applications_have_names_in_it():
    """Goal: as in an answer that was read as objects; and what it says is one line of JSON."""
    with connected(socket.AF_INET) as ends:
        stream = STREAMS[0] | {"application": {"local": list(ends[1]), "peer": list(ends[0])}}
        facts = _with_text(written([STREAMS[1], stream], [stream], STREAMS), "cproxy") | {"pid": HERE}
        (line,) = say_as_json([facts], [])
        sessions = json.loads(line)["sessions"]
        applications = [stream["application"] for session in sessions for stream in session["stream_list"]]
        known = {"pid": HERE, "process": Path("/proc/self/comm").read_text().strip()}
        assert applications[1:3] == [stream["application"] | known] * 2
        assert applications[0] is applications[4] is None and "pid" not in applications[3]


class connected:
    """Two sockets of this process; the address and port of each."""

    def __init__(self, family):
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self.listener = socket.create_server((host, 0), family=family)
        self.one = socket.create_connection(self.listener.getsockname()[:2])
        self.other, _ = self.listener.accept()

    def __enter__(self):
        return self.one.getsockname()[:2], self.one.getpeername()[:2]

    def __exit__(self, *_):
        for sock in (self.listener, self.one, self.other):
            sock.close()
