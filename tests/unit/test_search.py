"""Sources are found while they are sent: in order, no more of them than there is room for, and none is lost."""

import os
import queue
import tracemalloc

import pytest

from mproxy.transfer import walk as walking
from mproxy.transfer.messages import FileKind
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.source_queue import AHEAD, AT_ONCE, Search, SourceQueue
from mproxy.transfer.walk import Walk
from tests.walked import find_sources

WITHIN_S = 30
FILES = 500  # in a directory


class Soon:
    """A loop that the test turns."""

    def __init__(self):
        self.calls = queue.SimpleQueue()

    def call_soon_threadsafe(self, function):
        self.calls.put(function)

    def turn(self):
        """Wait for a call, and make it."""
        self.calls.get(timeout=WITHIN_S)()


def all_of(sources):
    """Everything, in order."""
    found = []
    while not sources.ended:
        source = sources.take(True)
        if source is None:
            sources._began._changed.acquire()
            sources._began._changed.wait(0.01)
            sources._began._changed.release()
        else:
            found.append(source)
    return found


def file(number, same_as=b""):
    return SourceFile(b"%d" % number, FileKind.FILE, str(number), expected_bytes=2, same_as=same_as)


def test_in_order_and_no_more_than_there_is_room_for():
    made = []

    def walk(_leave_out):
        for number in range(5 * AHEAD):
            made.append(number)
            yield file(number)

    loop = Soon()
    search = Search(walk, loop.call_soon_threadsafe)
    sources = SourceQueue(search=search)
    search.wait()
    assert len(made) <= AHEAD + 2 * AT_ONCE and sources.total_bytes is None
    assert [source.name for source in all_of(sources)] == [b"%d" % number for number in range(5 * AHEAD)]
    assert sources.total_bytes == 10 * AHEAD


def test_whoever_waits_is_called():
    found = queue.SimpleQueue()

    def walk(leave_out):
        while (number := found.get(timeout=WITHIN_S)) is not None:
            if number < 0:
                leave_out("x", "why")
            else:
                yield file(number)

    loop, told = Soon(), []
    sources = SourceQueue(search=Search(walk, loop.call_soon_threadsafe))
    sources.on_more = lambda: told.append("more")
    sources.on_left_out = lambda path, why: told.append((path, why))
    assert sources.take(True) is None and not sources.ended
    found.put(-1)
    loop.turn()
    assert told == [("x", "why"), "more"]
    for number in range(AT_ONCE):
        found.put(number)
    while (first := sources.take(True)) is None:
        loop.turn()
    assert first.name == b"0"
    found.put(None)
    while not sources.ended:
        if sources.take(True) is None:
            loop.turn()


def test_a_search_that_fails_is_told():
    def walk(_leave_out):
        yield file(1)
        raise ValueError("of all things")

    told = []
    sources = SourceQueue(search=Search(walk, Soon().call_soon_threadsafe))
    sources.on_left_out = lambda path, why: told.append((path, why.strerror))
    assert [source.name for source in all_of(sources)] == [b"1"]
    assert told == [(".", "the search has failed: ValueError: of all things")]


def test_nobody_wants_more():
    search = Search(lambda _leave_out: map(file, range(10 * AHEAD)), Soon().call_soon_threadsafe)
    search.close()
    search.wait()
    assert search.ended and search.found_bytes < 20 * AHEAD
    assert not search.fetch()


def test_further_names_wait_for_the_others():
    sources = SourceQueue([file(1), file(2, b"1"), file(3)])
    assert [sources.take(False).name for _ in range(2)] == [b"1", b"3"]
    assert sources.take(False) is None and not sources.ended
    assert sources.take(True).name == b"2" and sources.ended


def test_what_is_put_back_goes_first():
    sources = SourceQueue(map(file, range(5)))
    taken = [sources.take(True) for _ in range(3)]
    sources.put_back([*taken[1:], file(9, b"1")])
    assert [source.name for source in all_of(sources)] == [b"1", b"2", b"3", b"4", b"9"]


def test_a_pipe_has_no_total():
    sources = SourceQueue(search=Search(lambda _leave_out: iter([SourceFile(b"p", FileKind.PIPE, fd=0)]),
                                    Soon().call_soon_threadsafe))
    all_of(sources)
    assert sources.total_bytes is None


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """A directory with more in it than is sorted."""
    monkeypatch.setattr(walking, "SORTED_ENTRIES", 50)
    top = tmp_path / "t"
    (top / "d").mkdir(parents=True)
    (top / "d/f").write_bytes(b"")
    for number in range(FILES):
        os.close(os.open(top / f"{number:05}", os.O_CREAT, 0o644))
    return top


def test_a_large_directory_is_read_as_it_is_sent(wide):
    names = [source.name for source in find_sources([str(wide)], None)]
    assert sorted(names) == sorted([b"t", b"t/d", b"t/d/f", *(b"t/%05d" % n for n in range(FILES))])
    assert names.index(b"t/d") < names.index(b"t/d/f")


def test_nothing_is_kept_of_what_was_found(wide):
    walk = iter(Walk([str(wide)], None))
    next(walk)
    for _ in range(100):
        next(walk)
    tracemalloc.start()
    try:
        for _ in walk:
            pass
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


def test_what_was_named_and_is_gone(tmp_path):
    left_out = []
    assert not list(Walk([str(tmp_path / "none")], lambda path, why: left_out.append((path, type(why)))))
    assert left_out == [(str(tmp_path / "none"), FileNotFoundError)]


@pytest.mark.parametrize("options", [
    {}, {"links": "keep"}, {"links": "copy"}, {"rules": [(False, "*3"), (False, "b/")]}])
def test_counting_finds_what_the_search_finds(tmp_path, options):
    """Goal: what people are told that is left to send is right, whatever is left out, and whatever links lead back."""
    for number in range(50):
        (tmp_path / f"top/{'abc'[number % 3]}/{number}").mkdir(parents=True)
        (tmp_path / f"top/{'abc'[number % 3]}/{number}/f{number}").write_bytes(bytes(number))
    os.link(tmp_path / "top/a/0/f0", tmp_path / "top/second")
    os.link(tmp_path / "top/b/7/f7", tmp_path / "top/third")
    (tmp_path / "top/a/up").symlink_to("..")
    (tmp_path / "top/c/file").symlink_to("../a/9/f9")
    (tmp_path / "one").write_bytes(bytes(1000))
    paths = [str(tmp_path / name) for name in ("top", "one")]
    found = find_sources(paths, lambda _path, _why: None, **options)
    assert Walk(paths, lambda _path, _why: None, **options).count() == sum(one.expected_bytes for one in found) > 1000
    assert Walk([*paths, "-"], lambda _path, _why: None, **options).count() is None


def test_what_was_counted_is_known_before_all_is_found():
    found = queue.SimpleQueue()

    def walk(_leave_out):
        while (number := found.get(timeout=WITHIN_S)) is not None:
            yield file(number)

    loop, told = Soon(), []
    sources = SourceQueue(search=Search(walk, loop.call_soon_threadsafe))
    sources.on_more = lambda: told.append(sources.total_bytes)
    sources.note_counted(77)
    assert told == [77] and sources.total_bytes == 77
    found.put(1)
    found.put(None)
    assert len(all_of(sources)) == 1
    assert sources.total_bytes == 2, "what was found in the end counts"
