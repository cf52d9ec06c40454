"""Entries of config.toml: what command line each becomes, and that every mistake is named with its line."""

import pytest

from mproxy.ground.errors import UsageError
from mproxy.programs.config_commands import EXAMPLE
from mproxy.programs.entries import EntriesError, own_file, read_entries
from mproxy.programs.toml_statements import read_statements


@pytest.fixture
def entries(tmp_path):
    """`entries(text)`: the entries of a file with this text."""
    def read(text):
        file = tmp_path / "config.toml"
        file.write_text(text)
        return read_entries([str(file)])
    return read


@pytest.fixture
def mistakes(tmp_path, entries):
    """`mistakes(text)`: [(line, text), ...] of what is wrong with it."""
    def read(text):
        with pytest.raises(EntriesError) as caught:
            entries(text)
        assert {path for path, _line, _text in caught.value.wrong} == {str(tmp_path / "config.toml")}
        assert all(shown.startswith(f"{tmp_path}/config.toml:") for shown in caught.value.lines())
        return [(line, text) for _path, line, text in caught.value.wrong]
    return read


@pytest.mark.parametrize(("text", "command_line"), [
    ('[cproxy.a]\narguments = "5200 server 6200"', "cproxy --name a 5200 server 6200"),
    ('[cproxy.a]\narguments = [5200, "server:6200"]\neager = true\nstay = false',
     "cproxy --name a --eager 5200 server:6200"),
    ('cproxy.a = {arguments = "5200 server 6200", idle = 90}', "cproxy --name a --idle 90 5200 server 6200"),
    ('[cproxy.a]\nforward = ["1:b:2", "/s:b:3"]\ndynamic = 1080\narguments = "server:6200"',
     "cproxy --name a --forward 1:b:2 --forward /s:b:3 --dynamic 1080 server:6200"),
    ('[cproxy.a]\nkeeper = false\nvia = "ssh -T b sproxy --attach"\narguments = 5200',
     "cproxy --name a --no-keeper --via 'ssh -T b sproxy --attach' 5200"),
    ('[sproxy.b]\narguments = "6200 127.0.0.1:22"\nallow = "b:80"\nhost-key = "keys/host"',
     "sproxy --name b --allow b:80 --host-key {place}/keys/host 6200 127.0.0.1:22"),
    ('[relay.c]\narguments = "80 b 81 max=5"\nworkers = "auto"', "mproxy relay --name c --workers auto 80 b 81 max=5"),
    ('[recv.d]\narguments = 70\nopen = true\noutput = "in/"', "mproxy recv --name d --open --output {place}/in/ 70")])
def test_an_entry_becomes_a_command_line(tmp_path, entries, text, command_line):
    import shlex
    (entry,) = entries(text).values()
    assert shlex.join(entry.command_line()) == command_line.format(place=tmp_path)


def test_the_example_is_right(tmp_path, entries):
    assert list(entries(EXAMPLE)) == ["office"]
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    (tmp_path / "secret").chmod(0o600)
    all_of_it = "\n".join(line.removeprefix("# ") if line.startswith(("# [", "# ")) and ("=" in line or "[" in line[:3])
                          else line for line in EXAMPLE.split("\n"))
    assert list(entries(all_of_it)) == ["office", "ssh", "web", "inbox"]


@pytest.mark.parametrize(("text", "wrong"), [
    ("[cproxy.a]\nheartbeat = 5ms\n", [(2, "expected newline or end of document after a statement; expected OPTION")]),
    ("[cproxy.a\narguments = '1 b 2'\n",
     [(1, "expected ']' at the end of a table declaration; expected [PROGRAM.NAME]")]),
    ("[[cproxy.a]]\narguments = 1\n", [(1, "double brackets; expected [PROGRAM.NAME]")]),
    ("[cproxy]\nport = 1\n", [(1, "[cproxy]: not an entry; expected [PROGRAM.NAME], such as [cproxy.office]")]),
    ("eager = true\n", [(1, "eager: not an option of an entry; expected OPTION = VALUE")]),
    ("[proxy.a]\narguments = 1\n", [(1, "not a program: proxy; expected cproxy, sproxy, relay or recv")]),
    ("[cproxy.'a b']\n", [(1, "not a name for an entry: 'a b'; expected letters, digits, - and _")]),
    ("[relay.cproxy]\n", [(1, "not a name for an entry: cproxy")]),
    ("[relay.a]\narguments = '1 b 2'\n[cproxy.a]\narguments = 5\n", [(3, "the name a is taken by line 1")]),
    ("[relay.a]\narguments = '1 b 2'\nrelay.a.x = 3\n", [(3, "relay.a.relay.a.x: not an option of an entry")]),
    ("[relay.a]\narguments = '1 b 2'\nudp = true\nudp = true\n", [(4, "udp: given in line 3, too; expected once")]),
    ("[relay.a]\narguments = '1 b 2'\nupd = true\n", [(3, "upd: not an option of relay; expected udp?")]),
    ("[relay.a]\narguments = '1 b 2'\nxyz = true\n",
     [(3, "xyz: not an option of relay; see mproxy relay --help-all")]),
    ("[relay.a]\narguments = '1 b 2'\nudp = 'yes'\n", [(3, "udp: not a switch: yes; expected true or false")]),
    ("[relay.a]\narguments = '1 b 2'\nworkers = true\n", [(3, "workers: not a value: true; expected N|auto")]),
    ("[relay.a]\narguments = '1 b 2'\nworkers = [1, 2]\n", [(3, "workers: takes one value; expected N|auto")]),
    ("[relay.a]\narguments = '1 b 2'\nworkers = 2020-01-01\n", [(3, "workers: not a value: 2020-01-01; expected N")]),
    ("[relay.a]\narguments = '1 b 2'\nworkers = 'all'\n", [(3, "workers all: not a number of processes; use 1, 2,")]),
    ("[relay.a]\narguments = '1 b'\n", [(2, "missing argument: HOST_PORT; expected PORT HOST HOST_PORT")]),
    ("[relay.a]\n", [(1, "missing argument: PORT; expected PORT HOST HOST_PORT")]),
    ("[relay.a]\narguments = '--udp 1 b 2'\n", [(2, "arguments: --udp is an option; expected on a line of its own")]),
    ("[relay.a]\nconfig = 'none.conf'\n", [(2, "config: cannot read")]),
    ("[cproxy.a]\narguments = '1 b 2'\nstdio = true\n", [(3, "stdio: leave it out: there is no standard input")]),
    ("[cproxy.a]\narguments = '1 b 2'\nname = 'b'\n", [(3, "name: leave it out: the entry is called as its table is")]),
    ("[cproxy.a]\narguments = '1 b 2'\nheartbeat = '5ms'\n", [(3, "heartbeat 5ms: out of range (10ms to 1h)")]),
    ("[cproxy.a]\narguments = '1 b 2'\nforward = ['x']\n", [(3, "-L x: ")]),
    ("[cproxy.a]\narguments = '1 b 70000'\n", [(2, "PORT 70000: not a valid port")]),
    ("[recv.a]\narguments = 7000\nopen = true\n", [(1, "where do files go? expected output = DIRECTORY")]),
    ("[recv.a]\narguments = 7000\nopen = true\noutput = '-'\n", [(4, "output: there is no standard output")]),
    # All of them, and none that only follows from another one.
    ("[cproxy.a]\narguments = '1 b 2'\nheartbeat = '5ms'\nwindow = 'big'\nvia = 3\nstay = true\n[sproxy.b]\nallow = 1\n"
     "x = y\n[[recv]]\noutput = 1\n[sproxy.c]\narguments = 'a b'\n", [
         (3, "heartbeat 5ms: out of range"), (4, "window big: not a size"),
         (5, "via and --stay cannot be used together"), (8, "allow 1: "),
         (9, "invalid value"), (10, "double brackets"), (13, "PORT a: not a valid port")]),
])
def test_every_mistake_is_named(mistakes, text, wrong):
    found = mistakes(text)
    assert [line for line, _text in found] == sorted(line for line, _text in wrong), found
    for (line, said), (expected_line, expected) in zip(found, sorted(wrong), strict=True):
        assert line == expected_line and said.startswith(expected), found


def test_mistakes_of_all_files_are_told_at_once(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.toml").write_text("[x.y]\n")
    with pytest.raises(EntriesError) as caught:
        read_entries([str(tmp_path / f"{number}.toml") for number in (1, 2, 3)])
    assert [path.rpartition("/")[2] for path, _line, _text in caught.value.wrong] == ["1.toml", "2.toml"]


def test_the_first_file_wins(tmp_path):
    for number in (1, 2):
        (tmp_path / f"{number}.toml").write_text(
            f"[sproxy.a]\narguments = 620{number}\n[sproxy.b{number}]\narguments = 1\n")
    found = read_entries([str(tmp_path / "1.toml"), str(tmp_path / "2.toml")])
    assert sorted(found) == ["a", "b1", "b2"] and found["a"].words()[-1] == "6201"


def test_rules_in_a_file_are_checked_too(tmp_path, mistakes):
    (tmp_path / "rules").write_text("80 > b:80\n")
    (line, said), = mistakes("[relay.a]\nconfig = 'rules'\n")
    assert line == 2 and f"{tmp_path}/rules:1: " in said


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        read_entries([str(tmp_path)])
    (tmp_path / "config.toml").write_bytes(b"\xff")
    with pytest.raises(EntriesError, match=r"config\.toml:1: not UTF-8 text; expected TOML"):
        read_entries([str(tmp_path / "config.toml")])


def test_where_the_file_is():
    assert own_file({"HOME": "/h"}) == "/h/.config/mproxy/config.toml"
    assert own_file({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == "/x/mproxy/config.toml"
    assert own_file({"HOME": "/h", "XDG_CONFIG_HOME": "x"}) == "/h/.config/mproxy/config.toml"
    assert own_file({}) is None


def test_statements_have_their_lines():
    text = 'a = [\n  1,  # one\n  2]\n\n[t]\nb.c = """\n[no]\nd = 1\n"""\n"e f" = {g = 1, h = 2}\n'
    found, wrong = read_statements(text)
    assert not wrong
    assert [(each.line, each.table, each.key, each.value) for each in found] == [
        (1, (), ("a",), [1, 2]), (5, ("t",), (), None), (6, ("t",), ("b", "c"), "[no]\nd = 1\n"),
        (10, ("t",), ("e f", "g"), 1), (10, ("t",), ("e f", "h"), 2)]
