"""Bundles: small files that go without waiting for an answer, and whatever else either side may say or find."""

import gc
import os
import shutil
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.ground.errors import PeerError
from mproxy.transfer import bundle, bundles_out, messages, source_queue
from mproxy.transfer.bundle import ENTRY, WITH_DATA, BundleAnswer, FileGroup, entries_of, parse_bundle
from mproxy.transfer.messages import BY_TIME, File, FileKind, MessageType, Result
from mproxy.transfer.sender import FileSender, SendObserver
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.source_queue import Search, SourceQueue
from mproxy.transfer.tree import leaf, root
from mproxy.transfer.walk import Walk
from tests.unit.test_receiver import Link, Threads, World
from tests.unit.test_search import Soon
from tests.walked import find_in_runs, find_sources

TIME_NS = 10**18 + 7
DONE, MADE, WANTED, ALONE = BundleAnswer


def pack_entry(kind, flags, mode, mtime_ns, size, name, root):
    """All of an entry but its contents."""
    return ENTRY.pack(kind, flags, mode & 0o777, mtime_ns, size, len(name), root) + name


def parse_all(data, count):
    """The entries of a bundle, each by itself."""
    entries = []
    for part in parse_bundle(data, count):
        entries += entries_of(data, part) if isinstance(part, FileGroup) else [part]
    return entries


def hash_of(data):
    return root(leaf(data, 0, True))


def file_entry(name, data=b"data", with_data=True, flags=0, digest=None, mode=0o640):
    head = pack_entry(FileKind.FILE, flags | WITH_DATA * with_data, mode, TIME_NS, len(data), name,
                      hash_of(data) if digest is None else digest)
    return head + data * with_data


def directory_entry(name, mode=0o755):
    return pack_entry(FileKind.DIRECTORY, 0, mode, TIME_NS, 0, name, bytes(32))


def new_world(tmp_path):
    """One that has made the directory `d`."""
    (tmp_path / "to").mkdir()
    made = World(tmp_path / "to")
    made.link.bring(messages.pack_file(File(0, FileKind.DIRECTORY, 0o755, TIME_NS, 0, b"i" * 16, b"d")))
    made.threads.work()
    return made


@pytest.fixture
def world(tmp_path):
    return new_world(tmp_path)


def give(world, *entries):
    """The receiver's answer to a bundle of these."""
    world.link.bring(messages.pack_bundle(len(entries), b"".join(entries)))
    world.threads.work()
    answers = world.link.answers(MessageType.ANSWER)
    return list(answers[-1].codes) if answers else None


# ---- the receiver

def test_directories_and_files_arrive_as_they_were(world):
    assert world.link.answers(MessageType.RESULT)[0].made
    assert give(world, directory_entry(b"d/e", 0o700), file_entry(b"d/e/f", mode=0o4604), file_entry(b"d/empty", b""),
                directory_entry(b"d/e"), file_entry(b"d/e/g", b"x" * 16384)) == [MADE, DONE, DONE, DONE, DONE]
    top = world.directory / "d"
    assert (top / "e/f").read_bytes() == b"data" and (top / "empty").read_bytes() == b""
    assert (top / "e/g").stat().st_size == 16384
    assert stat.S_IMODE((top / "e/f").stat().st_mode) == 0o604
    assert (top / "e/f").stat().st_mtime_ns == TIME_NS
    assert sorted(os.listdir(top)) == ["e", "empty"], "nothing is left beside them"
    assert world.outcomes[b"d/e/f"] == (Result.DONE, "")
    assert world.receiver.received_bytes == 4 + 16384
    world.link.bring(messages.pack_bye())
    world.threads.work()
    assert (top / "e").stat().st_mtime_ns == TIME_NS
    assert stat.S_IMODE((top / "e").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", [b"d/../out", b"/out", b"d//f", b"d/.", b"", b"d/.f.mproxy-part", b"d/" + b"x" * 256,
                                  b"d/none/f", b"d/link/f", b"d/file/f", b"d/a\0b", b"d/" + b"e/" * 200 + b"f"])
def test_no_name_leads_out(world, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (world.directory / "d/link").symlink_to(tmp_path / "elsewhere")
    (world.directory / "d/file").write_bytes(b"")
    for data in (True, False):
        assert give(world, file_entry(b"d/before"), file_entry(name, with_data=data), file_entry(b"d/after")) in (
            [DONE, ALONE, DONE], [ALONE, ALONE, ALONE])
    assert sorted(os.listdir(world.directory)) == ["d"] and sorted(os.listdir(world.directory / "d")) == [
        "after", "before", "file", "link"]
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("name", [b"d/link/e", b"../e", b"d/file"])
def test_no_directory_leads_out(world, tmp_path, name):
    (world.directory / "d/link").symlink_to(tmp_path)
    (world.directory / "d/file").write_bytes(b"")
    assert give(world, directory_entry(name)) == [ALONE]
    assert sorted(os.listdir(tmp_path)) == ["to"]


def test_what_is_hidden_is_not_for_everybody(tmp_path):
    world = World(tmp_path, dots=False)
    world.link.bring(messages.pack_file(File(0, FileKind.DIRECTORY, 0o755, TIME_NS, 0, b"i" * 16, b"d")))
    world.threads.work()
    assert give(world, file_entry(b"d/.ssh"), file_entry(b".ssh"), directory_entry(b"d/.e"), file_entry(b"d/f"),
                file_entry(b"d/.second")) == [ALONE, ALONE, ALONE, DONE, ALONE]


def test_only_what_was_asked_for(tmp_path):
    world = World(tmp_path, expects=lambda name: name == b"d")
    world.link.bring(messages.pack_file(File(0, FileKind.DIRECTORY, 0o755, TIME_NS, 0, b"i" * 16, b"d")))
    world.threads.work()
    assert give(world, file_entry(b"d/f"), file_entry(b"g"), directory_entry(b"h")) == [DONE, ALONE, ALONE]


def test_a_wrong_hash_makes_no_file(world):
    assert give(world, file_entry(b"d/f", digest=bytes(32)), file_entry(b"d/g")) == [ALONE, DONE]
    assert os.listdir(world.directory / "d") == ["g"]


@pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo"])
@pytest.mark.parametrize("with_data", [True, False])
def test_nothing_that_is_there_is_touched(world, kind, with_data):
    there = world.directory / "d/f"
    {"file": lambda: there.write_bytes(b"other"), "link": lambda: there.symlink_to("nowhere"),
     "directory": there.mkdir, "fifo": lambda: os.mkfifo(there)}[kind]()
    before = os.lstat(there)
    assert give(world, file_entry(b"d/f", with_data=with_data)) == [ALONE]
    assert os.lstat(there) == before


@pytest.mark.parametrize("case", ["same", "other", "none", "twice"])
def test_what_is_there_is_compared_by_its_hash(world, case):
    there = world.directory / "d/f"
    if case != "none":
        there.write_bytes(b"data" if case != "other" else b"DATA")
    entry = file_entry(b"d/f", with_data=False)
    assert give(world, entry) == {"same": [DONE], "other": [ALONE], "none": [WANTED], "twice": [DONE]}[case]
    assert world.receiver.kept_bytes == 4 * (case in ("same", "twice"))


def test_what_is_the_same_gets_mode_and_time_where_files_are_replaced(tmp_path):
    world = World(tmp_path)
    world.into._force = True
    world.link.bring(messages.pack_file(File(0, FileKind.DIRECTORY, 0o755, TIME_NS, 0, b"i" * 16, b"d")))
    world.threads.work()
    (tmp_path / "d/f").write_bytes(b"data")
    for _again in range(2):
        assert give(world, file_entry(b"d/f", with_data=False)) == [DONE]
        assert (tmp_path / "d/f").stat().st_mtime_ns == TIME_NS and (tmp_path / "d/f").stat().st_mode & 0o777 == 0o640


def test_size_and_time_are_enough_where_that_was_said(world):
    there = world.directory / "d/f"
    there.write_bytes(b"DATA")
    os.utime(there, ns=(0, TIME_NS))
    assert give(world, file_entry(b"d/f", with_data=False, flags=BY_TIME, digest=bytes(32))) == [DONE]
    os.utime(there, ns=(0, TIME_NS + 1))
    assert give(world, file_entry(b"d/f", with_data=False, flags=BY_TIME, digest=bytes(32))) == [ALONE]


def test_a_file_system_without_unnamed_files(world, monkeypatch):
    monkeypatch.setattr("mproxy.transfer.bundle_store.make_group", lambda _data, _at, count, *_rest: [95] * count)
    (world.directory / "d/there").write_bytes(b"other")
    assert give(world, file_entry(b"d/f"), file_entry(b"d/there"), file_entry(b"d/g", b"")) == [DONE, ALONE, DONE]
    assert sorted(os.listdir(world.directory / "d")) == ["f", "g", "there"]
    assert (world.directory / "d/there").read_bytes() == b"other"


def test_what_is_announced_later_waits_for_the_bundle(world):
    world.link.bring(messages.pack_bundle(1, directory_entry(b"d/e"))
                     + messages.pack_file(File(7, FileKind.FILE, 0o644, TIME_NS, 3, b"i" * 16, b"d/e/f"))
                     + messages.pack_file(File(3, FileKind.DIRECTORY, 0o755, TIME_NS, 0, b"i" * 16, b"d/g"))
                     + messages.pack_bundle(1, file_entry(b"d/g/h")))
    world.threads.work()
    assert world.link.answers(MessageType.WANT) == [(7, ((0, 1),))]
    assert [list(answer.codes) for answer in world.link.answers(MessageType.ANSWER)] == [[MADE], [DONE]]


@pytest.mark.parametrize("broken", [
    messages.pack_bundle(0, b""),
    messages.pack_bundle(1025, b"x" * 100_000),
    messages.pack_bundle(2, file_entry(b"d/f")),
    messages.pack_bundle(1, file_entry(b"d/f") + b"x"),
    messages.pack_bundle(1, file_entry(b"d/f")[:-1]),
    messages.pack_bundle(1, file_entry(b"d/f", b"x" * 16385)),
    messages.pack_bundle(1, pack_entry(FileKind.PIPE, 0, 0, 0, 0, b"d/f", bytes(32))),
    messages.pack_bundle(1, pack_entry(FileKind.DIRECTORY, WITH_DATA, 0, 0, 0, b"d/f", bytes(32))),
    messages.pack_bundle(1, pack_entry(FileKind.FILE, 64, 0, 0, 0, b"d/f", bytes(32))),
    messages.pack_bundle(1, pack_entry(FileKind.FILE, 0, 0, -1 << 63, 0, b"d/f", bytes(32))),
    messages.pack_answer(b"\0"),
    messages.pack_bye() + messages.pack_bundle(1, file_entry(b"d/f")),
    messages.pack_bundle(1, file_entry(b"d/f")) + messages.pack_bye(),
], ids=str)
def test_a_sender_that_breaks_the_rules_costs_itself(world, broken):
    world.link.bring(broken)
    world.threads.work()
    assert world.link.ended not in (None, "finished")
    assert world.error


def test_no_bundle_before_the_first_file(tmp_path):
    world = World(tmp_path)
    world.link.bring(messages.pack_bundle(1, file_entry(b"f")))
    assert "before the first file" in world.link.ended


def test_many_directories_in_bundles_are_too_many(world, monkeypatch):
    monkeypatch.setattr("mproxy.transfer.arrived_directories.MOST_DIRECTORY_BYTES", 600)
    give(world, directory_entry(b"d/1"), directory_entry(b"d/2"), directory_entry(b"d/3"))
    assert "more directories" in world.link.ended


@given(st.binary(max_size=200), st.integers(1, 3))
def test_whatever_comes_is_a_bundle_or_the_peers_fault(data, count):
    try:
        parse_bundle(data, count)
    except PeerError:
        pass


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_changed_byte_does_no_harm(place, change):
    data = bytearray(directory_entry(b"d/e") + file_entry(b"d/e/f") + file_entry(b"d/g", with_data=False))
    data[place % len(data)] ^= change
    try:
        for entry in parse_all(data, 3):
            assert entry.at < 0 or entry.at + entry.file.size <= len(data)
    except PeerError:
        pass


# ---- the sender

class Outcomes(SendObserver):
    def __init__(self):
        self.said, self.error = {}, "nothing"

    def on_file(self, _sender, source):
        self.said[source.name] = source.outcome.code

    def on_over(self, _sender, error, _code, _local):
        self.error = error


class OutLink(Link):
    """Has room for everything."""

    unsent = 0

    def __init__(self):
        super().__init__()
        self.raw = []

    def send(self, data):
        self.raw.append(bytes(data))
        kind, length = messages.parse_header(data[:8])
        if kind == MessageType.BUNDLE:
            [count] = messages.BUNDLE.unpack_from(data, 8)
            self.said.append((kind, parse_all(data[12:], count)))
        elif kind != MessageType.BLOCK:
            self.said.append((kind, messages.parse_payload(kind, bytes(data[8:8 + length]))))


class Waiting:
    """A search that has found nothing yet."""

    ended = all_taken = False

    @staticmethod
    def fetch():
        return []


class Sending:
    """A sender of a tree, and a receiver that is the test."""

    def __init__(self, top, found=None, takes_bundles=True, search=None, takes_notes=False, before=None,
                 **options):
        self.link, self.threads, self.outcomes = OutLink(), Threads(), Outcomes()
        self.sender = FileSender(self.link, self.threads, self.outcomes)
        self.link.handler = self.sender
        sources = find_in_runs([str(top)], lambda path, why: None, **options) if found is None else found
        self.sender.start(SourceQueue(sources, search=search or (None if found is None else Waiting())))
        if before is not None:
            before(self.sender)
        self.sender.on_established(self.link)
        self.link.bring(messages.pack_hello(256, True, False, takes_bundles, messages.NOTES * takes_notes))

    def work(self):
        self.threads.work()
        self.sender.on_sent(self.link)
        self.threads.work()

    @property
    def bundles(self):
        return self.link.answers(MessageType.BUNDLE)

    def announced(self):
        return [file.name for file in self.link.answers(MessageType.FILE)]

    def settle(self, made):
        """Answer what was announced by itself."""
        for file in self.link.answers(MessageType.FILE):
            if file.index in self.sender._announced:
                self.link.bring(messages.pack_result(
                    file.index, Result.DONE, made=made and file.kind == FileKind.DIRECTORY))


@pytest.fixture
def top(tmp_path):
    """100 directories, so that what is announced before the receiver's hello are directories only; and 1,500 files."""
    top = tmp_path / "d"
    for number in range(100):
        (top / f"{number:02}").mkdir(parents=True)
        for inner in range(15):
            (top / f"{number:02}/{inner}").write_bytes(b"%d" % inner)
    return top


def test_all_small_files_leave_without_an_answer(top):
    """Goal: once it is known that their directory is new, no answer is waited for, however many they are."""
    sending = Sending(top)
    sending.settle(made=True)
    for _ in range(20):
        sending.work()
    names = [entry.file.name for one in sending.bundles for entry in one]
    assert len(names) + len(sending.announced()) == 1601
    assert not any(b"/" in name[5:] for name in sending.announced()), "files are in bundles"
    assert all(entry.at >= 0 for one in sending.bundles for entry in one if entry.file.kind == FileKind.FILE)
    assert max(map(len, sending.bundles)) <= bundle.BUNDLE_ENTRIES
    for one in sending.bundles:
        sending.link.bring(messages.pack_answer(bytes([DONE] * len(one))))
    assert len(sending.outcomes.said) == 1601
    assert sending.link.said[-1] == (MessageType.BYE, None)
    assert sending.link.ended == "finished", "the receiver's goodbye need not be waited for"
    assert sending.sender.sent_bytes == sum(len(b"%d" % inner) for inner in range(15)) * 100


def test_what_is_found_after_the_hello(tmp_path, top):
    """Goal: whatever is found first is announced by itself, however late."""
    sending = Sending(tmp_path / "nothing", ())
    assert sending.announced() == []
    sending.sender._sources.put_back(find_sources([str(top)], None))
    sending.sender._sources.on_more()
    sending.work()
    assert sending.announced() == [b"d"] and not sending.bundles
    sending.settle(made=True)
    sending.work()
    assert sending.announced() == [b"d"] and sending.bundles


@pytest.mark.parametrize("takes_notes", [True, False])
def test_a_receiver_that_wants_to_know_is_told_of_the_rest(top, takes_notes):
    """Goal: what cannot be read, and what was left out before there was a connection; and how much there is in all."""
    os.unlink(top / "50/3")
    os.symlink("/etc/passwd", top / "50/3")
    sending = Sending(top, search=Search(lambda leave_out: Walk([str(top)], leave_out, "keep"), lambda _call: None),
                      found=(), takes_notes=takes_notes, before=lambda sender: sender.leave_out(b"pipe", "no file"))
    sending.sender._sources._began.wait()
    sending.sender._sources.on_more()
    sending.settle(made=True)
    os.unlink(top / "50/4")
    for _ in range(20):
        sending.work()
    assert [tuple(message) for message in sending.link.answers(MessageType.LEFT_OUT)] == [
        (b"pipe", "no file"), (b"d/50/4", "cannot read: No such file or directory")] * takes_notes
    assert sending.link.answers(MessageType.TOTAL) == [(100 * 20 - 1,)] * takes_notes


def test_of_any_number_of_files_only_some_are_kept(tmp_path, monkeypatch):
    """Goal: with twice the files no more of them are known at a time."""
    monkeypatch.setattr(bundles_out, "MOST_UNANSWERED", 2000)
    monkeypatch.setattr(source_queue, "AHEAD", 1000)
    (tmp_path / "f").write_bytes(b"")
    most = {}

    def count_sources():
        return sum(type(one) is SourceFile for one in gc.get_objects())

    gc.collect()
    others = count_sources()
    for count in (10_000, 20_000):
        def walk(_leave_out, count=count):
            yield SourceFile(b"d", FileKind.DIRECTORY, str(tmp_path))
            for number in range(count):
                yield SourceFile(b"d/%d" % number, FileKind.FILE, str(tmp_path / "f"))

        soon = Soon()
        sending = Sending(tmp_path, (), search=Search(walk, soon.call_soon_threadsafe))
        sending.outcomes.on_file = lambda _sender, _source: None
        said = sending.link.said
        most[count] = settled = 0
        while settled < count:
            sending.settle(made=True)
            sending.work()
            most[count] = max(most[count], count_sources() - others)
            unanswered = [len(entries) for kind, entries in said if kind == MessageType.BUNDLE]
            said.clear()
            sending.link.raw.clear()
            for entries in unanswered:
                settled += entries
                sending.link.bring(messages.pack_answer(bytes([DONE] * entries)))
            if not unanswered:
                soon.turn()
        sending.work()
        assert (MessageType.BYE, None) in said
    assert max(most.values()) < 2000 + 1000 + 2000


def test_what_may_be_there_is_asked_for(top):
    """Goal: where the directory was there before, hashes go first, and contents of what is wanted."""
    sending = Sending(top)
    sending.settle(made=False)
    for _ in range(20):
        sending.work()
    first = sending.bundles
    assert all(entry.at < 0 for one in first for entry in one)
    assert sending.sender.sent_bytes == 0
    for one in first:
        sending.link.bring(messages.pack_answer(bytes(
            WANTED if entry.file.name.endswith(b"/3") else DONE for entry in one)))
        sending.work()
    wanted = [entry for one in sending.bundles[len(first):] for entry in one]
    assert [entry.file.name[-2:] for entry in wanted] == [b"/3"] * 100 and all(entry.at >= 0 for entry in wanted)


def test_a_receiver_of_before_gets_no_bundles(top):
    sending = Sending(top, takes_bundles=False)
    for _ in range(20):
        sending.settle(made=True)
        sending.work()
    assert sending.bundles == [] and len(sending.announced()) == 1601


def test_of_a_run_each_is_what_it_is(top):
    """Goal: what was asked for, refused and stored of files that are kept as one; and what was never answered."""
    sending = Sending(top)
    sending.settle(made=False)
    for _ in range(20):
        sending.work()
    codes = {b"d/00/%d" % number: code for number, code in enumerate([DONE, WANTED, ALONE])}
    first = sending.bundles[0]
    sending.link.bring(messages.pack_answer(bytes(codes.get(entry.file.name, DONE) for entry in first)))
    for _ in range(5):
        sending.work()
    said = sending.outcomes.said
    assert said[b"d/00/0"] == Result.DONE and said.keys().isdisjoint({b"d/00/1", b"d/00/2"})
    assert b"d/00/2" in sending.announced()
    assert [entry.file.name for one in sending.bundles for entry in one if entry.at >= 0] == [b"d/00/1"]
    left = {source.name: source for source in sending.sender.unsettled}
    assert len(left) + len(said) == 1601 and left[b"d/99/3"].path == str(top / "99/3")
    assert sending.sender.kept_bytes == sum(
        len(str(name).rpartition("/")[2]) - 1 for name in said if name.count(b"/") == 2)


def test_a_directory_that_is_gone_costs_its_files_alone(top):
    sending = Sending(top)
    shutil.rmtree(top / "50")
    sending.settle(made=True)
    for _ in range(20):
        sending.work()
    said = sending.outcomes.said
    assert {said[b"d/50/%d" % number] for number in range(15)} == {Result.UNREADABLE}
    names = [entry.file.name for one in sending.bundles for entry in one]
    assert b"d/51/0" in names and b"d/50/0" not in names


def test_what_is_no_longer_as_it_was_goes_alone(top):
    sending = Sending(top)
    for name, change in (("50/1", os.unlink), ("50/2", lambda path: os.truncate(path, 20_000))):
        change(top / name)
    os.unlink(top / "50/3")
    os.symlink("/etc/passwd", top / "50/3")
    os.unlink(top / "50/4")
    os.mkfifo(top / "50/4")
    sending.settle(made=True)
    for _ in range(20):
        sending.work()
    names = [entry.file.name for one in sending.bundles for entry in one]
    assert not {b"d/50/1", b"d/50/2", b"d/50/3", b"d/50/4"} & set(names) and b"d/50/5" in names
    assert sending.announced()[-1:] == [b"d/50/2"]
    assert [sending.outcomes.said[b"d/50/%d" % number] for number in (1, 3, 4)] == [Result.UNREADABLE] * 3


def test_what_the_receiver_cannot_do_goes_alone(top):
    sending = Sending(top)
    sending.settle(made=True)
    sending.work()
    [first, *_] = sending.bundles
    sending.link.bring(messages.pack_answer(bytes([ALONE] * len(first))))
    sending.work()
    assert {entry.file.name for entry in first} <= set(sending.announced())


@pytest.mark.parametrize("answer", [b"\0", b"\4" * 256, b"\2" * 256, b"\1" * 256, b"\0" * 257])
def test_a_receiver_that_answers_nonsense_costs_itself(top, answer):
    sending = Sending(top)
    sending.settle(made=True)
    sending.work()
    sending.link.bring(messages.pack_answer(answer))
    assert "answer" in sending.link.ended


def test_an_answer_to_nothing(top):
    sending = Sending(top)
    sending.link.bring(messages.pack_answer(b"\0"))
    assert "that was not sent" in sending.link.ended
