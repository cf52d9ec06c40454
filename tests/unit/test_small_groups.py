"""Small files, many in one go: groups of a bundle as they are made, runs as they are packed, and the calls of both."""

import errno
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.ground.errors import PeerError
from mproxy.transfer import bundle, messages
from mproxy.transfer._making import find_group, make_files, make_group
from mproxy.transfer._small import HERE, pack_files, pack_run, read_files
from mproxy.transfer.bundle import WITH_DATA, BundleAnswer, FileGroup, parse_bundle
from mproxy.transfer.file_names import PART, STATE, BadName, check_part
from mproxy.transfer.messages import BY_TIME, FileKind, MessageType
from tests.unit.descriptors import open_descriptors
from tests.unit.test_bundles import (
    TIME_NS,
    directory_entry,
    file_entry,
    give,
    hash_of,
    new_world,
    pack_entry,
    parse_all,
)

DONE, MADE, WANTED, ALONE = BundleAnswer


@pytest.fixture
def world(tmp_path):
    return new_world(tmp_path)


def pack_group(*entries):
    return b"".join(entries), len(entries)


def test_what_lies_in_one_directory_is_one_group():
    data, count = pack_group(file_entry(b"d/f"), file_entry(b"d/g", b""), directory_entry(b"d/e"), file_entry(b"d/e/f"),
                             file_entry(b"d/h", with_data=False), file_entry(b"d/i", flags=BY_TIME), file_entry(b"j"))
    kinds = [part if isinstance(part, FileGroup) else part.file.name for part in parse_bundle(data, count)]
    assert [(part[1:] if isinstance(part, FileGroup) else part) for part in kinds] == [
        (2, 4, b"d"), b"d/e", (1, 4, b"d/e"), b"d/h", (1, 4, b"d"), b"j"]
    assert {part[2] for part in (find_group(data, 0, 1), find_group(data, 0, 100))} == {4}
    assert find_group(data, len(data), 1) == (0, len(data), 0, b"") and find_group(data, 0, 1)[0] == 1
    assert find_group(data, -1, 1)[0] == 0


@given(st.integers(0, 300), st.integers(1, 255))
def test_a_group_is_read_as_each_of_its_entries(place, change):
    """Goal: two pieces of code read entries; they agree about whatever comes."""
    data = bytearray(file_entry(b"d/a", b"") + file_entry(b"d/b", b"12", flags=BY_TIME) + file_entry(b"d/c/d")
                     + file_entry(b"e/f") + directory_entry(b"e/g"))
    data[place % len(data)] ^= change
    single, at = [], 0
    try:
        while at < len(data):
            entry, at = bundle._parse_entry(memoryview(data), at)
            single.append(entry)
    except PeerError:
        single = None
    if single is None or len(single) != 5:
        with pytest.raises(PeerError):
            parse_all(data, 5)
    else:
        assert parse_all(data, 5) == single


@given(st.binary(max_size=4), st.sampled_from([b"", b".", b"..", b".mproxy-part", b".mproxy-state"]), st.booleans())
def test_a_name_is_accepted_or_not_as_elsewhere(begin, end, dots):
    name = begin + end
    try:
        check_part(name, dots)
        accepted = b"/" not in name
    except BadName:
        accepted = False
    data = file_entry(b"d/" + name)
    count, _end, _size, above = find_group(data, 0, 1)
    assert count == 1
    if above == b"d":  # else a slash has made another directory of it
        errors = make_group(data, 0, 1, -1, 0o777, dots, (PART, STATE))
        assert errors == [errno.EBADF if accepted else errno.EBADMSG]


def test_a_group_is_made_whole_and_nothing_beyond_it(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "there").write_bytes(b"x")
    before = open_descriptors()
    entries = [file_entry(b"any/%d" % number, b"%d" % number, mode=0o604) for number in range(200)]
    entries += [file_entry(b"any/there"), file_entry(b"any/wrong", digest=bytes(32)), file_entry(b"any/..", b"")]
    data, count = pack_group(*entries)
    assert make_group(data, 0, count, fd, 0o700, True, (PART, STATE)) == [
        *[0] * 200, errno.EEXIST, errno.EBADMSG, errno.EBADMSG]
    assert {(tmp_path / str(number)).read_bytes() for number in range(200)} == {b"%d" % number for number in range(200)}
    assert stat.S_IMODE((tmp_path / "7").stat().st_mode) == 0o600 and (tmp_path / "7").stat().st_mtime_ns == TIME_NS
    assert (tmp_path / "there").read_bytes() == b"x" and len(os.listdir(tmp_path)) == 201
    assert make_group(data, 0, 1, -1, 0o777, True, (PART, STATE)) == [errno.EBADF]
    for at, some in ((1, 1), (0, count + 1), (len(data), 1)):
        with pytest.raises(ValueError, match="outside"):
            make_group(data, at, some, -1, 0o777, True, (PART, STATE))
    os.close(fd)
    assert open_descriptors() == before - 1


@pytest.mark.parametrize("time_ns", [0, -1, -10**9, -10**9 - 1, 10**18 + 7, (1 << 63) - 1, 1 - (1 << 63)])
def test_a_file_of_a_group_has_its_time(tmp_path, time_ns):
    data = pack_entry(FileKind.FILE, WITH_DATA, 0o600, time_ns, 1, b"d/f", hash_of(b"1")) + b"1"
    (tmp_path / "g").write_bytes(b"")
    os.utime(tmp_path / "g", ns=(time_ns, time_ns))
    fd = os.open(tmp_path, os.O_RDONLY)
    assert make_group(data, 0, 1, fd, 0o777, True, (PART, STATE)) == [0]
    os.close(fd)
    assert (tmp_path / "f").stat().st_mtime_ns == (tmp_path / "g").stat().st_mtime_ns


def test_a_full_disk_costs_those_that_have_no_room(world, monkeypatch):
    real = make_group

    def full(data, at, count, *rest):
        return [*real(data, at, 1, *rest), *[errno.ENOSPC] * (count - 1)]
    monkeypatch.setattr("mproxy.transfer.bundle_store.make_group", full)
    assert give(world, *(file_entry(b"d/%d" % number) for number in range(3))) == [DONE, ALONE, ALONE]
    assert world.receiver.received_bytes == 4 and os.listdir(world.directory / "d") == ["0"]
    assert world.outcomes.keys() == {b"d", b"d/0"}


def test_bundles_are_answered_in_their_order(world):
    """Goal: the files of several are made at once, by whichever thread; a later one may be ready first."""
    for number in range(4):
        world.link.bring(messages.pack_bundle(2, directory_entry(b"d/%d" % number) + file_entry(b"d/%d/f" % number)
                                              if number != 1 else directory_entry(b"d/1") + directory_entry(b"d/g")))
    order = []
    while world.threads.jobs:
        world.threads.jobs.append(world.threads.jobs.pop(0))  # the second one first
        order.append(len(world.threads.jobs))
        world.threads.work(1)
    assert max(order) > 1, "some were made at the same time"
    assert [list(answer.codes) for answer in world.link.answers(MessageType.ANSWER)] == [
        [MADE, DONE], [MADE, MADE], [MADE, DONE], [MADE, DONE]]
    assert sorted(os.listdir(world.directory / "d")) == ["0", "1", "2", "3", "g"]


@pytest.mark.parametrize("jobs", range(5))
def test_a_sender_that_goes_leaves_no_descriptor_open(world, jobs):
    before = open_descriptors()
    for number in range(3):
        world.link.bring(messages.pack_bundle(1, file_entry(b"d/%d" % number)))
    world.threads.work(jobs)
    world.receiver.on_ended(world.link, 1, "gone", False)
    world.threads.work()
    assert open_descriptors() == before


# ---- system calls

def test_files_are_read_as_they_are_or_not_at_all(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "large").write_bytes(bytes(16385))
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "fifo")
    os.utime(tmp_path / "f", ns=(0, -5))

    def read(name, how):
        [found] = read_files([(HERE, os.fsencode(tmp_path / name), how)])
        return found and ((*found[1:3], found[4]) if how & 1 else True)

    assert read("f", 1) == (-5, 5, b"12345") and read("f", 5) == (-5, 5, b"")
    assert [read(name, 1) for name in ("large", "link", "fifo", "none", ".")] == [None] * 5
    assert read("link", 3) == (-5, 5, b"12345")
    assert read(".", 0) and not read("f", 0)
    [made_up] = read_files([(HERE, b"/proc/self/status", 1)])
    assert made_up is None, "its size tells nothing"
    many = read_files([(HERE, os.fsencode(tmp_path / "f"), 1)] * 300)
    assert len(many) == 300 and {one[4] for one in many} == {b"12345"}


def test_files_are_made_whole_or_not_at_all(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "there").write_bytes(b"x")
    before = open_descriptors()
    data = b"123456789a"
    wanted = [(fd, b"%d" % number, number % 5, 5, 0o604, -1, hash_of(data[number % 5:number % 5 + 5]))
              for number in range(200)]
    others = [(fd, b"there", 0, 5, 0o600, 0, hash_of(b"12345")), (fd, b"no/f", 0, 1, 0, 0, hash_of(b"1")),
              (fd, b"wrong", 0, 5, 0o600, 0, hash_of(b"12346"))]
    assert make_files(data, [*wanted, *others]) == [*[0] * 200, errno.EEXIST, errno.ENOENT, errno.EBADMSG]
    assert (tmp_path / "3").read_bytes() == b"45678" and (tmp_path / "3").stat().st_mtime_ns == -1
    assert (tmp_path / "there").read_bytes() == b"x"
    assert open_descriptors() == before and len(os.listdir(tmp_path)) == 201
    with pytest.raises(ValueError, match="outside"):
        make_files(b"123", [(fd, b"f", 1, 3, 0, 0, bytes(32))])
    with pytest.raises(ValueError, match="outside"):
        make_files(b"123", [(fd, b"f", 0, 3, 0, 0, bytes(31))])
    os.close(fd)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_files_get_their_mode_whatever_our_umask_is(tmp_path, umask):
    fd = os.open(tmp_path, os.O_RDONLY)
    modes = [0o600, 0o644, 0o755, 0o444, 0o000]
    before = os.umask(umask)
    try:
        assert not any(make_files(b"1", [(fd, b"%o" % mode, 0, 1, mode, 0, hash_of(b"1")) for mode in modes]))
    finally:
        os.umask(before)
    assert {int(name, 8): stat.S_IMODE((tmp_path / name).stat().st_mode) for name in os.listdir(tmp_path)} == {
        mode: mode for mode in modes}
    os.close(fd)


def test_entries_are_packed_as_they_are_read(tmp_path):
    """Goal: what is packed in one go is what a receiver reads, whatever of it is as it should be."""
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "d").mkdir(mode=0o750)
    for name in ("f", "empty", "d"):
        os.utime(tmp_path / name, ns=(0, TIME_NS))
    os.chmod(tmp_path / "f", 0o4640)
    os.chmod(tmp_path / "empty", 0o600)

    def wanted(path, how, kind, flags, name):
        return HERE, os.fsencode(tmp_path / path), how, kind.value, flags, name, b""
    entries, found = pack_files([
        wanted("f", 1, FileKind.FILE, WITH_DATA, b"n/f"), wanted("none", 1, FileKind.FILE, WITH_DATA, b"n/none"),
        wanted("d", 0, FileKind.DIRECTORY, 0, b"n/d"), wanted("f", 0, FileKind.DIRECTORY, 0, b"n/f"),
        wanted("f", 1, FileKind.FILE, 0, b"n/g"), wanted("f", 5, FileKind.FILE, BY_TIME, b"n/h"),
        wanted("empty", 1, FileKind.FILE, WITH_DATA, b"n/e")])
    assert found == [(5, hash_of(b"12345")), None, (0, bytes(32)), None, (5, hash_of(b"12345")), (5, bytes(32)),
                     (0, hash_of(b""))]
    assert entries == b"".join([
        file_entry(b"n/f", b"12345"), directory_entry(b"n/d", 0o750), file_entry(b"n/g", b"12345", False),
        file_entry(b"n/h", b"12345", False, BY_TIME, bytes(32)), file_entry(b"n/e", b"", mode=0o600)])


def test_a_run_is_packed_as_each_of_its_files(tmp_path):
    names = [b"a", b"\xff\n", b"empty", b"none"]
    for name in names[:3]:
        (tmp_path / os.fsdecode(name)).write_bytes(name * (name != b"empty"))
        os.chmod(tmp_path / os.fsdecode(name), 0o640)
        os.utime(tmp_path / os.fsdecode(name), ns=(0, TIME_NS))
    fd = os.open(tmp_path, os.O_RDONLY)
    for how, flags in ((1, WITH_DATA), (1, 0), (5, BY_TIME)):
        entries, sizes, roots, missing = pack_run(fd, names, how, flags, b"n/d")
        assert missing == [3] and list(memoryview(sizes).cast("H")) == [1, 2, 0, 0]
        one_by_one, found = pack_files([(fd, name, how, 1, flags, b"n/d/" + name, b"") for name in names])
        assert entries == one_by_one
        assert roots == b"".join(one[1] if one else bytes(32) for one in found)
    os.close(fd)


def test_what_has_grown_is_not_packed_beyond_its_room(tmp_path):
    (tmp_path / "f").write_bytes(bytes(16384))
    entries, found = pack_files([(HERE, os.fsencode(tmp_path / "f"), 1, 1, WITH_DATA, b"f", b"")] * 256)
    packed = [one for one in found if one is not None]
    assert 16 <= len(packed) < 20 and found[len(packed):] == [None] * (256 - len(packed))
    assert len(parse_all(entries, len(packed))) == len(packed)
