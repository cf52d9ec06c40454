"""Names of `mproxy copy`: which are elsewhere, and what is called how where it arrives; what both ends say first."""

import json
import os

import pytest

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.programs.copy_options import parse_copy
from mproxy.programs.copy_places import asked_for, find_landing, find_paths, parse_place, without_dots
from mproxy.programs.copy_there import CopyRequest
from mproxy.programs.copy_words import MOST_NOISE_BYTES, AnswerReader, pack_answer, pack_request
from mproxy.programs.send import parse_send
from mproxy.programs.transfer_config import copy_datagram

REMOTE = {
    "server:": ("", "server", ""),
    "Work:x": ("", "Work", "x"),
    "server:dir/": ("", "server", "dir/"),
    "ann@server:/tmp/a b": ("ann", "server", "/tmp/a b"),
    "ann@corp@server:x": ("ann@corp", "server", "x"),
    "[::1]:x": ("", "::1", "x"),
    "ann@[fe80::1%eth0]:x": ("ann", "fe80::1%eth0", "x"),
    "server:a:b": ("", "server", "a:b"),
    "server:[1].txt": ("", "server", "[1].txt"),
    "10.0.0.1:~/x": ("", "10.0.0.1", "~/x"),
}


@pytest.mark.parametrize("text", REMOTE)
def test_what_is_on_another_host(text):
    assert parse_place(text) == REMOTE[text]


@pytest.mark.parametrize("text", ["file", "./a:b", "/tmp/a:b", "dir/a:b", ":x", "-", "a@b", "a@b/c:d", "[x]", "::1:x",
                                  "/[::1]:x"])
def test_what_is_here(text):
    assert parse_place(text) is None


@pytest.mark.parametrize("text", ["-oProxyCommand=x:y", "-l@server:x", "se rver:x", "ann@:x"])
def test_what_no_host_can_be_called(text):
    with pytest.raises(UsageError) as refusal:
        parse_place(text)
    assert f"./{text}" in str(refusal.value)


def test_where_it_lands(tmp_path, monkeypatch):
    """Goal: as scp: into a directory that is there, else under the target's name. A slash makes the directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    assert find_landing("", False) == ("./", None)
    assert find_landing("dir", False) == ("dir/", None)
    assert find_landing("dir", True) == ("dir/", None)
    assert find_landing("new/", True) == ("new/", None)
    assert find_landing("file", False) == ("./", "file")
    assert find_landing("new", False) == ("./", "new")
    assert find_landing("dir/new", False) == ("dir/", "new")
    assert find_landing("/new", False) == ("/", "new")
    for target in ("new", "file"):
        with pytest.raises(MproxyError, match="no such directory"):
            find_landing(target, True)
    with pytest.raises(MproxyError, match="there is no directory nowhere"):
        find_landing("nowhere/new", False)


def test_what_a_pattern_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a.gz", "b.gz", "c", "*.gz"):
        (tmp_path / name).touch()
    assert find_paths(["c", "*.gz"]) == ["c", "*.gz"], "a file of that very name"
    (tmp_path / "*.gz").unlink()
    assert find_paths(["*.gz"]) == ["a.gz", "b.gz"]
    assert find_paths(["~/c", ""]) == [f"{tmp_path}/c", "."]
    for missing in ("d", "*.xz"):
        with pytest.raises(MproxyError, match="No such file"):
            find_paths([missing])
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / ".hidden").touch()
    assert without_dots(["c", "dir/."]) == ["c", "dir/./.hidden"]
    assert without_dots(["dir/", ".x."]) == ["dir/", ".x."]


def test_what_was_asked_for():
    """Goal: the other end does not choose what it writes here."""
    fits = asked_for(["logs/*.gz", "/etc/hosts", "dir/"], None)
    assert all(map(fits, [b"a.gz", b"hosts", b"dir", b"*.gz"]))
    assert not any(map(fits, [b".bashrc", b"etc", b"logs", b"agz"]))
    assert asked_for(["x"], "name")(b"name") and not asked_for(["x"], "name")(b"x")
    assert asked_for(["dir/."], None)(b"anything") and asked_for(["~"], None)(b"anything")


WRONG = {
    ("a",): "missing argument: PATH",
    ("a", "b"): "neither side is another host",
    ("h:a", "h:b"): "one side has to be this host",
    ("h:a", "b", "c"): "b is on this host",
    ("h:a", "g:b", "c"): "two hosts",
    ("ann@h:a", "bob@h:b", "c"): "two hosts",
    ("-", "-", "h:"): "only once",
    ("--other-end", "a", "h:"): "given alone",
    ("--exclude", "", "a", "h:"): "pattern",
}


@pytest.mark.parametrize("words", WRONG)
def test_one_line_says_what_is_wrong(words):
    with pytest.raises(UsageError) as refusal:
        parse_copy(list(words))
    assert WRONG[words] in str(refusal.value)


def test_words_in_any_order():
    config = parse_copy(["-rp", "-P", "2222", "a", "--links", "ann@h:dir/", "--ssh", "ssh -J gate", "--no-clobber"])
    assert (str(config.remote), config.target, config.paths) == ("ann@h", "dir/", ("a",))
    assert config.ssh == ("ssh", "-J", "gate", "-p", "2222")
    assert config.options == {"links": "keep", "rules": (), "force": False}
    pull = parse_copy(["h:a", "h:b", "--limit", "1Mbit", "."])
    assert (pull.pushes, pull.paths, pull.target) == (False, ("a", "b"), ".")
    assert pull.options["force"] is True


def test_a_request_arrives_as_it_was_meant():
    config = parse_copy(["--exclude", "*.o", "--update", "--timeout", "5s", "--window", "7", "h:x", "."])
    line = pack_request({"secret": "07" * 32, "datagram": config.datagram, "paths": [os.fsdecode(b"\xff")],
                         "options": config.for_one(("rules", "update"))})
    request = CopyRequest(line)
    assert request.target is None and list(map(os.fsencode, request.paths)) == [b"\xff"]
    assert request.config.rules == ((False, "*.o"),) and request.config.update
    assert (request.config.datagram.window, request.config.datagram.idle_us) == (7, 5_000_000)
    assert request.config.secret == b"\7" * 32


def test_the_hash_decides_unless_told_otherwise():
    words = ["a", "h", "7000"]
    assert not parse_send(words).update and not parse_send(["--checksum", *words]).update
    assert parse_send(["--update", *words]).update
    asked = parse_copy(["--checksum", "h:x", "."]).for_one(("update",))
    assert asked == {"update": False}
    for parse, rest in ((parse_send, words), (parse_copy, ["h:x", "."])):
        with pytest.raises((UsageError, SystemExit)) as refusal:
            parse(["--checksum", "--update", *rest])
        assert getattr(refusal.value, "code", 2) == 2


@pytest.mark.parametrize("line", [
    b"", b"[]", b"{}", b"hello\n", b'{"version": 2}', b'{"version": 1, "secret": "xx"}',
    b'{"version": 1, "secret": "00", "datagram": {}, "options": {"surprise": 1}}',
    b'{"version": 1, "secret": "00", "datagram": {"recovery": "x"}, "options": {}}',
    b'{"version": 1, "secret": "00", "datagram": {}, "options": {"rules": 5}}'])
def test_another_version_is_told_in_one_line(line):
    with pytest.raises(MproxyError, match="another version"):
        CopyRequest(line)


def test_an_answer_behind_what_a_shell_says():
    reader = AnswerReader()
    line = pack_answer({"port": 6200, "text": "mproxy-copy \n"})
    pieces = b"Welcome!\r\n" + line + b"\0\3abc"
    assert not any(reader.take(pieces[at:at + 1]) for at in range(9))
    assert not reader.take(pieces[9:30])
    assert reader.take(pieces[30:])
    assert reader.answer == json.loads(line[len("mproxy-copy "):])
    assert reader.rest == b"\0\3abc"


@pytest.mark.parametrize("said", [b"x" * (MOST_NOISE_BYTES + 1), b"mproxy-copy nonsense\n", b"mproxy-copy []\n"])
def test_what_is_no_answer(said):
    with pytest.raises(ValueError):
        AnswerReader().take(said)


@pytest.mark.parametrize(("pages", "most"), [(1 << 23, 512 << 20), (1 << 18, 64 << 20), (1 << 14, 16 << 20)])
def test_windows_of_a_copy_may_become_large_but_for_a_small_host(monkeypatch, pages, most):
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}[name])
    config = copy_datagram({"recovery": "gbn"})
    assert (config.max_window_bytes, config.sealed, config.recovery) == (most, True, "gbn")
    assert copy_datagram({"max_window_bytes": 1 << 20}).max_window_bytes == 1 << 20
