"""--delete: what goes and what stays, and what neither side can make the other do."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.ground.errors import PeerError
from mproxy.transfer import deletion_out, messages
from mproxy.transfer.deletion_messages import (
    ANSWERS,
    CONTINUES,
    LAST,
    Extra,
    Keep,
    Remove,
    Removed,
    pack_extra,
    pack_keep,
    pack_remove,
    pack_removed,
)
from mproxy.transfer.deletion_out import Deletion, DeletionObserver, removable
from mproxy.transfer.messages import MessageType
from mproxy.transfer.selection import Selection
from tests.unit.joined import Joined
from tests.walked import find_sources


class Person(DeletionObserver):
    """Who is asked."""

    def __init__(self, yes=True):
        self.yes = yes
        self.asked, self.told, self.why = [], None, None

    def on_surplus(self, surplus, answer):
        self.asked = [os.fsdecode(path) for path, _is_directory in surplus]
        if self.yes is not None:
            answer(self.yes)

    def on_deleted(self, surplus, removed):
        assert [os.fsdecode(path) for path, _is_directory in surplus] == self.asked
        self.told = removed

    def on_not_deleted(self, why):
        self.why = why


def make(place, *paths):
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (place / path).mkdir(exist_ok=True)
        else:
            (place / path).write_text(path)


def tree(place):
    return sorted(str(path.relative_to(place)) + "/" * (path.is_dir() and not path.is_symlink())
                  for path in place.rglob("*"))


@pytest.fixture
def places(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    make(there, "top/a", "top/d/b", "top/empty/")
    make(here, "top/a", "top/old", "top/d/b", "top/d/old", "top/gone/x", "top/gone/deep/y", "beside/z", "file")
    return there, here


def delete(places, person=None, rules=(), deletes=True, **options):
    """Send `top` with --delete; the Joined."""
    there, here = places
    joined = Joined([there / "top"], here, deletes=deletes, find={"rules": rules, **options})
    joined.person = person or Person()
    joined.deletion = Deletion(joined.sources, rules, joined.person)
    joined.error = joined.run()
    return joined


ALL = ["beside/", "beside/z", "file", "top/", "top/a", "top/d/", "top/d/b", "top/empty/"]


def test_what_the_sender_does_not_have_is_deleted(places):
    """Goal: in the directories that were sent, at any depth, and nowhere else."""
    joined = delete(places)
    assert joined.error is None
    assert joined.person.asked == ["top/gone", "top/gone/deep", "top/gone/deep/y", "top/gone/x", "top/old",
                                   "top/d/old"]
    assert joined.person.told == (6, 0, "")
    assert tree(places[1]) == ALL


def test_nothing_to_delete(places):
    delete(places)
    joined = delete(places)
    assert joined.error is None and joined.person.asked == [] and joined.person.told is None


def test_who_says_no(places):
    before = tree(places[1])
    joined = delete(places, Person(yes=False))
    assert joined.error is None and joined.person.asked and joined.person.told is None
    assert tree(places[1]) == sorted([*before, "top/empty/"])


def test_who_says_nothing_is_waited_for(places):
    joined = delete(places, Person(yes=None))
    assert joined.error == "not over" and (places[1] / "top/old").exists()


def test_a_receiver_that_deletes_nothing(places):
    """Goal: an older one, or one that was not told to, keeps everything, and the sender knows."""
    joined = delete(places, deletes=False)
    assert joined.error is None and "deletes nothing" in joined.person.why
    assert (places[1] / "top/old").exists()


@pytest.mark.parametrize("rules", [[(False, "old")], [(False, "gone/deep/"), (False, "old")]])
def test_what_is_excluded_stays(places, rules):
    """Goal: and what it lies in."""
    joined = delete(places, rules=rules)
    assert joined.error is None
    left = tree(places[1])
    assert "top/old" in left and "top/d/old" in left
    assert ("top/gone/deep/y" in left) == (len(rules) == 2) == ("top/gone/" in left)
    assert "top/gone/x" not in left


def test_what_is_there_and_not_sent_stays(places):
    """Goal: files of the same name as one that is excluded, or left out, at the sender."""
    there, here = places
    make(there, "top/old")
    os.symlink("a", there / "top/d/old")
    os.mkfifo(there / "top/gone")
    joined = delete(places, rules=[(False, "/top/old")])
    assert joined.person.asked == [] and joined.error is None
    assert (here / "top/gone/deep/y").exists() and (here / "top/d/old").exists()


@pytest.mark.parametrize("fault", ["a file", "the list", "elsewhere"])
def test_nothing_is_deleted_after_an_error(places, fault, monkeypatch):
    """Goal: when a source could not be read or found, an unmounted disk does not empty the copy."""
    there, here = places
    person = Person()
    joined = Joined([there / "top"], here, deletes=True)
    joined.deletion = Deletion(joined.sources, (), person)
    if fault == "a file":
        (there / "top/a").unlink()
    elif fault == "elsewhere":
        joined.deletion.spoil("something could not be read")
    else:
        def fail(path):
            raise PermissionError(13, "Permission denied", path)
        monkeypatch.setattr(deletion_out.os, "listdir", fail)
    assert joined.run() is None
    assert person.why and person.asked == [] and (here / "top/old").exists()


def test_links_lead_nowhere(places):
    """Goal: a link goes, and not what it leads to; nothing behind a link is looked at."""
    _there, here = places
    outside = here.parent / "outside"
    make(outside, "precious", "d/precious")
    os.symlink(outside, here / "top/link")
    os.symlink(outside / "precious", here / "top/gone/link")
    joined = delete(places)
    assert joined.error is None and "top/link" in joined.person.asked
    assert not any("precious" in path for path in joined.person.asked)
    assert tree(outside) == ["d/", "d/precious", "precious"] and tree(here) == ALL


def test_a_directory_that_becomes_a_link(places):
    """Goal: who exchanges a directory for a link, between the question and the answer, wins nothing."""
    _there, here = places
    outside = here.parent / "outside"
    make(outside, "x", "deep/y")

    class Slow(Person):
        def on_surplus(self, surplus, answer):
            super().on_surplus(surplus, lambda yes: None)
            os.rename(here / "top/gone", here / "moved")
            os.symlink(outside, here / "top/gone")
            answer(True)

    joined = delete(places, Slow())
    assert joined.error is None and joined.person.told.failed
    assert tree(outside) == ["deep/", "deep/y", "x"] and (here / "moved/deep/y").exists()


def test_what_cannot_be_deleted_is_named(places):
    _there, here = places
    make(here, "top/gone/.x.mproxy-part")
    joined = delete(places)
    assert joined.error is None
    assert joined.person.told == (5, 1, "top/gone: Directory not empty")
    assert (here / "top/gone/.x.mproxy-part").exists(), "what another transfer writes stays"


def test_names_of_any_bytes(places):
    _there, here = places
    name = bytes(range(1, 256)).replace(b"/", b"")
    for part in (name[:200], b"\\", b"n\n", b"d" * 255):
        open(os.fsencode(here / "top") + b"/" + part, "w").close()
    assert delete(places).error is None
    assert tree(here) == ALL


def test_many_names(places, monkeypatch):
    """Goal: directories that do not fit into one message, on either side."""
    there, here = places
    monkeypatch.setattr(deletion_out, "FULL_BYTES", 300)
    monkeypatch.setattr("mproxy.transfer.deletion_in.FULL_BYTES", 300)
    make(there, *(f"top/d/same{number}" for number in range(300)), *(f"top/d/{number}/x" for number in range(90)))
    make(here, *(f"top/d/{what}{number}" for number in range(300) for what in ("same", "old")),
         *(f"top/d/{number}/{what}" for number in range(90) for what in ("x", "y")))
    joined = delete(places)
    assert joined.error is None
    assert joined.person.told.count == 300 + 90 + 6
    assert tree(here) == sorted([*ALL, *(
        "top/" + path for path in tree(there / "top") if "same" in path or (path[0] == "d" and path[2:3].isdigit()))])


@given(st.lists(st.sampled_from(["a", "b", "c.o"]), min_size=1, max_size=4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_stays_has_all_it_lies_in(parts, deep):
    """Goal: no directory is deleted that something stays in, and nothing that is excluded."""
    extras = []
    for number in range(1, len(parts) + 1):
        extras.append(("/".join(["top", *parts[:number]]).encode(), number < len(parts) or deep))
    gone = {extras[number][0] for number in removable(extras, Selection([(False, "c.o")]))}
    for path, _is_directory in extras:
        if path in gone:
            assert all(other in gone for other, _is in extras if other.startswith(path + b"/"))
            assert b"c.o" not in path


# ---- what a peer may say

def test_there_and_back():
    for packed, message in (
            (pack_keep(Keep(LAST | CONTINUES, b"d\0a\0\0")), Keep(3, b"d\0a\0\0")),
            (pack_extra(Extra(ANSWERS, 7, b"fd/a\0dd/b")), Extra(4, 7, b"fd/a\0dd/b")),
            (pack_remove(Remove(LAST, ((0, 2), (5, 1)))), Remove(1, ((0, 2), (5, 1)))),
            (pack_removed(Removed(3, 1, "é")), Removed(3, 1, "é"))):
        kind, length = messages.parse_header(packed)
        assert messages.parse_payload(kind, packed[-length:]) == message


def lie(places, link, kind, other, **options):
    """One side says something else: how that ends."""
    there, here = places
    joined = Joined([there / "top"], here, deletes=True)
    joined.person = Person()
    joined.deletion = Deletion(joined.sources, (), joined.person)
    getattr(joined, link).change = lambda said, message: other(message) if said == kind else message
    error = joined.run()
    assert (here / "top/old").exists() and (here / "beside/z").exists()
    return error


@pytest.mark.parametrize("remove", [Remove(LAST, ((0, 7),)), Remove(LAST, ((6, 1),)), Remove(LAST, ((1 << 31, 9),))])
def test_only_what_was_found_can_be_deleted(places, remove):
    assert "not named" in lie(places, "sending", MessageType.REMOVE, lambda _: pack_remove(remove))


@pytest.mark.parametrize("names", [b"..\0\0", b"/\0\0", b"top/../beside\0\0", b"\0\0\0", b"beside/z\0\0", b"x" * 300,
                                   b"top/.a.mproxy-part\0\0"])
def test_directories_that_are_none(places, names):
    """Goal: a sender names what it likes: nothing outside is listed, and what cannot be listed is not deleted."""
    assert lie(places, "sending", MessageType.KEEP, lambda _: pack_keep(Keep(LAST, names))) is None


def test_a_sender_that_says_it_twice(places):
    assert "more directories" in lie(places, "sending", MessageType.KEEP, lambda message: message * 2)


def test_a_sender_that_deletes_before_it_knows(places):
    assert lie(places, "sending", MessageType.KEEP, lambda message: pack_remove(
        Remove(LAST, ((0, 1),)))) == "the sender would delete what it does not know yet"


@pytest.mark.parametrize("extra", [Extra(ANSWERS | LAST, 1, b"ftop/a"), Extra(ANSWERS | LAST, 0, b"xtop/a"),
                                   Extra(ANSWERS | LAST, 0, b"f\0f"), Extra(0, 0, b"f")])
def test_a_receiver_that_names_nonsense(places, extra):
    error = lie(places, "receiving", MessageType.EXTRA, lambda _: pack_extra(extra))
    assert error is not None and "deleted" in error


def test_a_receiver_that_names_without_end(places):
    endless = pack_extra(Extra(0, 0, b""))
    assert lie(places, "receiving", MessageType.EXTRA, lambda message: message * 2) is not None
    assert lie(places, "receiving", MessageType.EXTRA, lambda message: endless) == "not over", "it waits, and times out"


@pytest.mark.parametrize("early", [pack_extra(Extra(LAST, 0, b"")), pack_removed(Removed(1, 0, ""))])
def test_a_receiver_that_speaks_of_it_first(places, early):
    there, here = places
    joined = Joined([there / "top"], here)
    joined.receiving.change = lambda kind, message: early + message if kind == MessageType.RESULT else message
    assert "nobody has asked" in joined.run()


def test_a_sender_that_nobody_lets_delete(places):
    there, here = places
    joined = Joined([there / "top"], here)
    joined.sending.change = lambda kind, message: pack_keep(Keep(LAST, b"top\0\0")) + message if (
        kind == MessageType.BYE) else message
    assert joined.run() == "the sender would delete what this receiver keeps"
    assert (here / "top/old").exists()


@given(st.sampled_from([MessageType.KEEP, MessageType.EXTRA, MessageType.REMOVE, MessageType.REMOVED]),
       st.binary(max_size=60))
@settings(max_examples=400, deadline=None)
def test_whatever_comes_is_a_message_or_the_peers_fault(kind, payload):
    try:
        messages.parse_payload(*messages.parse_header(messages.HEADER.pack(kind, len(payload)))[:1], payload)
    except PeerError:
        pass


def test_sources_are_looked_at_again(places):
    """Goal: what appeared at the sender meanwhile is not deleted at the receiver."""
    there, _here = places
    sources = find_sources([str(there / "top")], lambda path, why: None)
    make(there, "top/old")
    keeps = list(deletion_out._keeps([source for source in sources if source.name == b"top"]))
    assert len(keeps) == 1 and b"\0old\0" in keeps[0].names and keeps[0].flags == LAST
