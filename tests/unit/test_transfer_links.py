"""Links: what is found at the sender, what is made at the receiver, and what a hostile sender does not get."""

import os
import stat

import pytest

from mproxy.transfer import messages
from mproxy.transfer.file_names import BadName, check_link
from mproxy.transfer.messages import HEADER, File, FileKind, MessageType, Result, parse_payload
from tests.unit.test_receiver import World, announce, block, end
from tests.walked import find_sources

TIME_NS = 10**18


def link(index, name, target):
    return messages.pack_file(File(index, FileKind.LINK, 0, TIME_NS, 0, b"i" * 16, name, target))


def second_name(index, name, first, size=4):
    return messages.pack_file(File(index, FileKind.FILE, 0o644, TIME_NS, size, b"i" * 16, name, first))


@pytest.fixture
def outside(tmp_path):
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret").write_bytes(b"ours")
    return made


@pytest.fixture
def world(tmp_path, outside):
    (tmp_path / "in").mkdir()
    return World(tmp_path / "in")


# ---- what is accepted

@pytest.mark.parametrize(("name", "target"), [
    (b"l", b"f"), (b"l", b"a/b"), (b"l", b"./a//b/"), (b"l", b"nowhere"), (b"l", b"."), (b"d/l", b".."),
    (b"d/l", b"../f"), (b"d/e/l", b"../../f"), (b"l", b"..f"), (b"l", b"\xff\n")])
def test_links_that_stay_inside(name, target):
    check_link(name, target)


@pytest.mark.parametrize(("name", "target"), [
    (b"l", b""), (b"l", b"/"), (b"l", b"/etc/passwd"), (b"l", b".."), (b"l", b"../f"), (b"d/l", b"../../f"),
    (b"d/l", b"./.././../f"), (b"d/l", b"a/../f"), (b"d/e/l", b"x/../../../f"), (b"l", b"a\0b")])
def test_links_that_may_lead_out(name, target):
    with pytest.raises(BadName):
        check_link(name, target)


# ---- receiving

def test_a_link_arrives_with_its_time(world):
    world.bring(announce(0, b"d", 0, FileKind.DIRECTORY), link(1, b"d/l", b"../f"))
    assert world.outcomes[b"d/l"] == (Result.DONE, "")
    assert os.readlink(world.directory / "d" / "l") == "../f"
    assert os.lstat(world.directory / "d" / "l").st_mtime_ns == TIME_NS


def test_once_more_is_no_mistake_and_another_is(world):
    world.bring(link(0, b"l", b"f"), link(1, b"l", b"f"))
    assert world.outcomes[b"l"] == (Result.DONE, "")
    world.bring(link(2, b"l", b"g"))
    assert world.outcomes[b"l"][0] == Result.EXISTS
    assert os.readlink(world.directory / "l") == "f"
    world.into._force = True
    world.bring(link(3, b"l", b"g"))
    assert os.readlink(world.directory / "l") == "g"
    assert os.listdir(world.directory) == ["l"]


@pytest.mark.parametrize("target", [b"/etc/passwd", b"../outside/secret", b"d/../../outside"])
def test_a_link_that_leads_out_is_not_made(world, target):
    world.bring(link(0, b"l", target))
    assert world.outcomes[b"l"][0] == Result.BAD_NAME
    assert os.listdir(world.directory) == []


def test_without_keys_a_link_leads_to_no_hidden_name(tmp_path, outside):
    (tmp_path / "in").mkdir()
    world = World(tmp_path / "in", dots=False)
    world.bring(link(0, b"l", b".bashrc"), link(1, b"m", b"d/.git/config"), link(2, b"n", b"./f"))
    assert [world.outcomes[name][0] for name in (b"l", b"m", b"n")] == [
        Result.BAD_NAME, Result.BAD_NAME, Result.DONE]


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link(world, outside, force):
    """Goal: neither through one that was planted, nor through one of the same transfer, whatever is announced behind
    it: a file, a directory, a link, another name."""
    world.into._force = force
    (world.directory / "out").symlink_to(outside)
    (world.directory / "d").mkdir()
    world.bring(link(0, b"in", b"d"), announce(1, b"in/f"), announce(2, b"out/f"),
          announce(3, b"in/d", 0, FileKind.DIRECTORY), announce(4, b"out/d", 0, FileKind.DIRECTORY),
          link(5, b"out/l", b"x"), second_name(6, b"out/s", b"f"), announce(7, b"in", 0, FileKind.DIRECTORY),
          announce(8, b"out", 0, FileKind.DIRECTORY))
    assert world.outcomes.pop(b"in")[0] == Result.BAD_NAME  # the last answer: it is a link, not a directory
    assert {code for code, _text in world.outcomes.values()} == {Result.BAD_NAME}
    world.bring(messages.pack_bye())  # directories get their times
    assert os.listdir(outside) == ["secret"]
    assert os.listdir(world.directory / "d") == []


def test_a_directory_that_becomes_a_link(world, outside):
    """Goal: whoever replaces a directory in mid-transfer, what is announced below it goes nowhere else, and the times
    that directories get at the end are not those of what the link leads to."""
    before = outside.stat().st_mtime_ns
    world.bring(announce(0, b"d", 0, FileKind.DIRECTORY), link(1, b"d", b"x"))
    assert world.outcomes[b"d"][0] == Result.EXISTS
    (world.directory / "d").rmdir()
    (world.directory / "d").symlink_to(outside)
    world.bring(announce(2, b"d/f"), messages.pack_result(2, Result.CHANGED), messages.pack_bye())
    assert world.outcomes[b"d/f"][0] == Result.BAD_NAME
    assert os.listdir(outside) == ["secret"]
    assert outside.stat().st_mtime_ns == before


@pytest.mark.parametrize("force", [False, True])
def test_a_file_in_the_place_of_a_link(world, outside, force):
    """Goal: with --force the link is replaced; what it leads to never is."""
    world.into._force = force
    (world.directory / "f").symlink_to(outside / "secret")
    world.bring(announce(0, b"f"))
    if force:
        world.bring(block(0, 0, b"data") + end(0, b"data"))
        assert (world.directory / "f").read_bytes() == b"data"
    assert world.outcomes[b"f"][0] == (Result.DONE if force else Result.EXISTS)
    assert (outside / "secret").read_bytes() == b"ours"


# ---- further names

def arrive(world, index, name, data=b"data"):
    world.bring(announce(index, name, len(data)), block(index, 0, data) + end(index, data))


def test_a_second_name(world):
    arrive(world, 0, b"f")
    world.bring(second_name(1, b"g", b"f"), second_name(2, b"h", b"f"),
          end(1, b"data"), end(2, b"data"))
    assert world.link.answers(MessageType.WANT)[1:] == [(1, ()), (2, ())]
    status = (world.directory / "f").stat()
    assert status.st_nlink == 3
    assert all((world.directory / name).stat().st_ino == status.st_ino for name in "gh")
    world.bring(second_name(3, b"g", b"f"), end(3, b"data"))
    assert {code for code, _text in world.outcomes.values()} == {Result.DONE}
    assert (world.directory / "f").stat().st_nlink == 3


def test_a_second_name_of_something_else_is_a_file_of_its_own(world):
    """Goal: who does not know the contents gets no name for a file that is here."""
    (world.directory / "ours").write_bytes(b"ours")
    (world.directory / "ours").chmod(0o600)
    world.bring(second_name(0, b"g", b"ours"), end(0, b"data"))
    world.bring(block(0, 0, b"data") + end(0, b"data"))
    assert world.outcomes[b"g"] == (Result.DONE, "")
    assert (world.directory / "g").read_bytes() == b"data"
    assert (world.directory / "ours").read_bytes() == b"ours"
    assert (world.directory / "ours").stat().st_nlink == 1
    assert stat.S_IMODE((world.directory / "ours").stat().st_mode) == 0o600


@pytest.mark.parametrize("first", [b"/etc/passwd", b"../outside/secret", b"link", b"out/secret", b"none", b"d"])
def test_a_second_name_of_something_outside(world, outside, first):
    """Goal: it is received as if nothing had been said of the other name."""
    (world.directory / "d").mkdir()
    (world.directory / "link").symlink_to(outside / "secret")
    (world.directory / "out").symlink_to(outside)
    world.bring(second_name(0, b"g", first), block(0, 0, b"ours") + end(0, b"ours"))
    assert world.outcomes[b"g"] == (Result.DONE, "")
    assert (outside / "secret").stat().st_nlink == 1
    assert (world.directory / "g").stat().st_nlink == 1


def test_where_there_are_no_hard_links(world, monkeypatch):
    from mproxy.transfer import present
    arrive(world, 0, b"f")

    def fail(*_arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(present, "link_open", fail)
    world.bring(second_name(1, b"g", b"f"), end(1, b"data"))
    assert world.link.answers(MessageType.WANT)[1:] == [(1, ()), (1, ((0, 1),))]
    world.bring(block(1, 0, b"data") + end(1, b"data"))
    assert world.outcomes[b"g"] == (Result.DONE, "")
    assert (world.directory / "g").stat().st_nlink == 1


# ---- finding

@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "t"
    (top / "d" / "e").mkdir(parents=True)
    (top / "d" / "f").write_bytes(b"data")
    os.link(top / "d" / "f", top / "a second")
    (top / "in").symlink_to("d/f")
    (top / "up").symlink_to("../../etc")
    (top / "absolute").symlink_to("/etc")
    (top / "d" / "around").symlink_to("..")
    os.mkfifo(top / "pipe")
    return top


def found(tree, links):
    left_out = {}
    sources = find_sources([str(tree)], lambda path, why: left_out.update({os.path.relpath(path, tree): str(why)}),
                           links)
    return [(source.name.decode(), source.kind.name) for source in sources], left_out


def test_links_are_left_out(tree):
    sources, left_out = found(tree, "omit")
    assert sources == [("t", "DIRECTORY"), ("t/d", "DIRECTORY"), ("t/a second", "FILE"), ("t/d/e", "DIRECTORY"),
                       ("t/d/f", "FILE")]
    assert left_out == {**dict.fromkeys(("in", "up", "absolute", "d/around"), "a symbolic link"),
                        "pipe": "neither a file nor a directory"}


def test_links_are_kept(tree):
    sources, left_out = found(tree, "keep")
    assert ("t/in", "LINK") in sources
    assert ("t/d/around", "LINK") in sources
    assert set(left_out) == {"up", "absolute", "pipe"}
    assert "out of the directory" in left_out["up"]
    assert "absolute" in left_out["absolute"]


def test_links_are_followed(tree):
    (tree / "up").unlink()
    (tree / "absolute").unlink()
    sources, left_out = found(tree, "copy")
    assert dict(sources)["t/in"] == "FILE"
    assert "a directory that it lies in" in left_out.pop("d/around")
    assert left_out == {"pipe": "neither a file nor a directory"}


def test_a_second_name_comes_last_and_names_the_first(tree):
    sources = find_sources([str(tree)], lambda *_what: None)
    assert [(source.name, source.same_as) for source in sources if source.same_as] == [(b"t/d/f", b"t/a second")]
    assert sources[-1].name == b"t/d/f"
    again = sources[-1].again()
    assert again.same_as == b"t/a second"
    file = again.open(4)
    again.close()
    assert parse_payload(MessageType.FILE, messages.pack_file(file)[HEADER.size:]) == file
