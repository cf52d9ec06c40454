"""Patterns of files that are sent or left out."""

import os

import pytest

from mproxy.ground.errors import UsageError
from mproxy.programs.send import parse_send
from mproxy.transfer import walk
from mproxy.transfer.selection import Selection
from tests.walked import find_sources


@pytest.mark.parametrize(("pattern", "fits", "others"), [
    ("*.o", [b"t/f.o", b"f.o", b"t/\xff.o", b"t/a\n.o"], [b"t/f.oo", b"f.o/x"]),
    ("f?", [b"t/fo"], [b"t/f", b"t/f/"]),
    ("f[0-9!]", [b"f5", b"f!"], [b"fa"]),
    ("f[!a]", [b"fb"], [b"fa", b"f/"]),
    ("f[]^]", [b"f]", b"f^"], [b"fa"]),
    ("f[^a]", [b"fb"], [b"fa"]),
    ("f[", [b"f["], [b"f"]),
    (r"\*", [b"t/*"], [b"t/a"]),
    ("doc/*.txt", [b"t/doc/a.txt", b"doc/a.txt"], [b"doc/s/a.txt", b"adoc/a.txt"]),
    ("/t/tmp", [b"t/tmp"], [b"q/t/tmp", b"t/tmp/x"]),
    ("a/**/b", [b"t/a/x/y/b"], [b"t/a/b"]),
    ("a**b", [b"t/a/x/b", b"ab"], [b"a/b/c"]),
    ("é", ["t/é".encode()], [b"e"]),
    (os.fsdecode(b"\xff"), [b"t/\xff"], [b"\xfe"]),
])
def test_patterns(pattern, fits, others):
    selection = Selection([(False, pattern)])
    assert [name for name in fits if selection.takes(name, False)] == []
    assert [name for name in others if not selection.takes(name, False)] == []


def test_the_first_that_fits_decides():
    selection = Selection([(True, "keep.o"), (False, "*.o"), (True, "*.o")])
    assert [selection.takes(name, False) for name in (b"keep.o", b"f.o", b"f.c")] == [True, False, True]


def test_a_slash_at_the_end_is_for_directories():
    selection = Selection([(False, "build/")])
    assert [selection.takes(b"t/build", is_directory) for is_directory in (False, True)] == [True, False]


@pytest.mark.parametrize("pattern", ["", "/", "[b-a]"])
def test_patterns_that_fit_nothing_are_a_mistake(pattern):
    with pytest.raises(UsageError, match="pattern"):
        parse_send(["--exclude", pattern, "f", "host", "1"])


def test_the_order_of_options_counts():
    config = parse_send(["--include", "a", "--exclude", "*", "--include", "b", "f", "host", "1"])
    assert config.rules == ((True, "a"), (False, "*"), (True, "b"))


def test_what_is_left_out_is_not_looked_into(tmp_path, monkeypatch):
    top = tmp_path / "t"
    (top / "build" / "deep").mkdir(parents=True)
    (top / "src" / "build").mkdir(parents=True)
    for name in ("a.o", "a.c", "build/b.c", "src/keep.o", "src/b.o"):
        (top / name).write_bytes(b"")
    listed, real = [], walk.Listing

    def note(fd):
        listed.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), top))
        return real(fd)
    monkeypatch.setattr(walk, "Listing", note)
    sources = find_sources([str(top)], None, rules=[(False, "/t/build/"), (True, "keep.o"), (False, "*.o")])
    assert [source.name for source in sources] == [b"t", b"t/src", b"t/a.c", b"t/src/build", b"t/src/keep.o"]
    assert listed == [".", "src", "src/build"]
