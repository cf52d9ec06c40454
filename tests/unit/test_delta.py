"""--delta and --compress: what is sent of a file that the receiver has in an older state, and what either side may do
to the other with it."""

import os
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mproxy.ground.errors import MproxyError, PeerError
from mproxy.transfer import coding, messages, zstd
from mproxy.transfer._rolling import KEY_BYTES, SUM_BYTES, Sketch, sums_of
from mproxy.transfer.basis import SKETCH_BYTES_AHEAD, block_bytes_for, open_basis
from mproxy.transfer.coding import NEW, decode, pieces_of
from mproxy.transfer.messages import HEADER, PACKED, REBUILT, Coded, File, FileKind, MessageType, Result
from mproxy.transfer.source_file import SourceFile
from mproxy.transfer.squeezer import FAST_BYTES, STAY_BLOCKS, TRIAL_BLOCKS, Squeezer
from mproxy.transfer.tree import LEAF_BYTES, leaf
from tests.unit.joined import Joined
from tests.unit.test_receiver import World

KEY = b"k" * KEY_BYTES
MIB = LEAF_BYTES


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def places(tmp_path):
    """Where files come from, and where they go."""
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    return tmp_path / "there", tmp_path / "here"


def clock():
    """As long as it takes on a slow path."""
    clock.now += 1_000_000
    return clock.now


clock.now = 0


def deliver(places, new, old=None, **options):
    """`new` replaces `old`; the Joined."""
    there, here = places
    (there / "f").write_bytes(new)
    if old is not None:
        (here / "f").write_bytes(old)
    joined = Joined([there / "f"], here, **{"delta": True, **options})
    assert joined.run() is None
    assert (here / "f").read_bytes() == new
    assert joined.said.outcomes == {b"f": Result.DONE}
    assert os.listdir(here) == ["f"], "nothing is left behind"
    return joined


OLD = noise(3 * MIB + 12_345)
CHANGES = {
    "a byte in front": b"x" + OLD,
    "an insertion": OLD[:1_500_000] + b"something new" * 10 + OLD[1_500_000:],
    "a deletion": OLD[:700_000] + OLD[700_321:],
    "appended": OLD + noise(3_000, 2),
    "cut": OLD[:2 * MIB + 77],
    "one byte": OLD[:2_000_000] + b"!" + OLD[2_000_001:],
    "halves exchanged": OLD[1_600_001:] + OLD[:1_600_001],
    "twice": OLD + OLD,
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_has_changed_is_sent(places, change):
    """Goal: for a change at one place a few blocks at most are sent, wherever it is and whatever it moves."""
    joined = deliver(places, CHANGES[change], OLD)
    new = 3_000 if change == "appended" else 0
    assert joined.sent() < new + 8 * block_bytes_for(len(OLD)) + 3_000
    assert joined.receiving.bytes_out[MessageType.SKETCH] < len(OLD) // 100
    assert joined.sender.done_bytes == len(CHANGES[change])


@pytest.mark.parametrize("old", [None, b"", noise(70_000, 9), bytes(3 * MIB)])
def test_another_file_is_sent_as_it_is(places, old):
    joined = deliver(places, OLD, old)
    assert joined.sent() > len(OLD)


def test_zeros_of_one_file_serve_another(places):
    joined = deliver(places, OLD[:100_000] + bytes(2 * MIB) + OLD[100_000:], bytes(MIB) + OLD)
    assert joined.sent() < 20 * block_bytes_for(len(OLD) + MIB)


@pytest.mark.parametrize("options", [{"delta": False}, {"sketches": False}])
def test_without_it_nobody_is_told_anything(places, options):
    joined = deliver(places, OLD + b"x", OLD, **options)
    assert MessageType.SKETCH not in joined.receiving.bytes_out and joined.sent() > len(OLD)


def date(path):
    os.utime(path, ns=(10**18, 10**18))


def test_the_same_file_is_compared_by_its_hash(places):
    """Goal: what has size and time of the sender's is read once on either side, and stays what it is."""
    there, here = places
    (there / "f").write_bytes(OLD)
    (here / "f").write_bytes(OLD)
    date(there / "f")
    date(here / "f")
    number = (here / "f").stat().st_ino
    joined = Joined([there / "f"], here, delta=True)
    assert joined.run() is None
    assert joined.sent() < 1_000 and MessageType.SKETCH not in joined.receiving.bytes_out
    assert (here / "f").stat().st_ino == number


def test_a_file_of_another_time_is_not_compared_first(places):
    """Goal: of a file that has changed and kept its size, as those of databases do, all is read once at the sender."""
    new = OLD[:MIB] + b"!" + OLD[MIB + 1:]
    there, here = places
    (there / "f").write_bytes(new)
    (here / "f").write_bytes(OLD)
    date(here / "f")
    joined = Joined([there / "f"], here, delta=True)
    asked = []
    joined.receiving.change = lambda kind, message: (kind == MessageType.WANT and asked.append(
        messages.parse_payload(kind, message[HEADER.size:]).ranges)) or message
    assert joined.run() is None
    assert (here / "f").read_bytes() == new and asked == [((0, 4),)]
    assert (here / "f").stat().st_mtime_ns == (there / "f").stat().st_mtime_ns


def test_a_file_that_was_only_touched(places):
    """Goal: it has the sender's time then, and of its contents nothing was sent."""
    there, here = places
    joined = deliver(places, OLD, OLD)
    assert joined.sent(MessageType.BLOCK) == 0 and joined.sent() < 1_000
    assert (here / "f").stat().st_mtime_ns == (there / "f").stat().st_mtime_ns


def test_a_link_in_its_place_is_no_older_file(places):
    """Goal: what a symbolic link leads to is not summed up."""
    there, here = places
    (here.parent / "secret").write_bytes(OLD)
    (here / "f").symlink_to(here.parent / "secret")
    (there / "f").write_bytes(OLD + b"x")
    joined = Joined([there / "f"], here, delta=True)
    assert joined.run() is None
    assert MessageType.SKETCH not in joined.receiving.bytes_out
    assert not (here / "f").is_symlink() and (here.parent / "secret").read_bytes() == OLD


def test_an_older_file_that_changes_meanwhile(places):
    """Goal: what was made of it wrongly is found by its hash, and asked for once more."""
    there, here = places
    (there / "f").write_bytes(OLD + b"x")
    (here / "f").write_bytes(OLD)
    joined = Joined([there / "f"], here, delta=True)

    def overwrite(kind, message):
        if kind == MessageType.WANT:
            with open(here / "f", "r+b") as file:
                file.seek(MIB + 17)
                file.write(b"changed")
        return message

    joined.receiving.change = overwrite
    assert joined.run() is None
    assert (here / "f").read_bytes() == OLD + b"x"
    assert MIB < joined.sent(MessageType.BLOCK) < MIB + 1_000, "one block, once more"


def test_an_older_file_that_changes_in_many_places(places):
    """Goal: what was copied wrongly and what was put together wrongly is asked for once, together."""
    there, here = places
    new = bytearray(OLD)
    new[100_000] ^= 1
    (there / "f").write_bytes(new)
    (here / "f").write_bytes(OLD)
    joined = Joined([there / "f"], here, delta=True)

    def overwrite(kind, message):
        if kind == MessageType.WANT:
            (here / "f").write_bytes(noise(len(OLD), 6))
        return message

    joined.receiving.change = overwrite
    assert joined.run() is None
    assert (here / "f").read_bytes() == new
    assert joined.said.outcomes == {b"f": Result.DONE} and os.listdir(here) == ["f"]
    assert len(OLD) < joined.sent(MessageType.BLOCK) < len(OLD) + 1_000


def test_an_older_file_that_is_cut_meanwhile(places):
    there, here = places
    (there / "f").write_bytes(OLD + b"x")
    (here / "f").write_bytes(OLD)
    joined = Joined([there / "f"], here, delta=True)
    joined.receiving.change = lambda kind, message: (
        os.truncate(here / "f", 5) if kind == MessageType.WANT else None) or message
    assert joined.run() is None
    assert (here / "f").read_bytes() == OLD + b"x"


def test_sums_that_meet(places):
    """Goal: a receiver whose sums fit, and whose file does not, gets the file all the same."""
    there, here = places
    (there / "f").write_bytes(OLD + b"x")
    (here / "f").write_bytes(noise(len(OLD), 5))
    (here.parent / "other").write_bytes(OLD)
    joined = Joined([there / "f"], here, delta=True)
    fd = os.open(here.parent, os.O_RDONLY)
    lie = open_basis(fd, b"other")
    os.close(fd)
    lie.look(lambda function, items: [function(item) for item in items], lambda: False)

    def replace(kind, message):
        if kind == MessageType.SKETCH:
            return messages.pack_sketch(0, lie.block_bytes, lie.key, lie.sums)
        return message

    joined.receiving.change = replace
    assert joined.run() is None
    lie.close()
    assert (here / "f").read_bytes() == OLD + b"x"


def test_it_goes_on_after_an_interruption(places):
    """Goal: what was rebuilt before the connection ended is kept, and the rest is rebuilt from the same file."""
    there, here = places
    (there / "f").write_bytes(OLD + b"x")
    (here / "f").write_bytes(OLD)
    first = Joined([there / "f"], here, delta=True)
    count = 0

    def cut(kind, message):
        nonlocal count
        count += kind == MessageType.CODED
        if count == 3:
            first.receiving.abort(1, b"cut")
        return message

    first.sending.change = cut
    assert first.run() == "cut"
    first.threads.work()
    assert {".f.mproxy-part", ".f.mproxy-state"} < set(os.listdir(here))
    second = Joined([there / "f"], here, delta=True)
    assert second.run() is None
    assert second.receiver.kept_bytes >= MIB and second.sent() < 50_000
    assert (here / "f").read_bytes() == OLD + b"x" and os.listdir(here) == ["f"]


def test_many_files_at_once(places):
    there, here = places
    for number in range(20):
        (there / str(number)).write_bytes(noise(200_000, number) + b"x")
        (here / str(number)).write_bytes(noise(200_000, number))
    joined = Joined(sorted(there.iterdir()), here, delta=True)
    assert joined.run() is None
    assert joined.sent() < 60_000
    assert all((here / str(number)).read_bytes() == noise(200_000, number) + b"x" for number in range(20))


@given(st.integers(0, 1 << 32), st.integers(1, 2500), st.sampled_from([1024, 2048]))
@settings(max_examples=60, deadline=None)
def test_pieces_are_what_was_there(seed, edits, width):
    """Goal: any mixture of old and new parts is rebuilt exactly, whatever lies around the block."""
    pick = random.Random(seed)
    old = pick.randbytes(60_000) + bytes(pick.randrange(9_000))
    new = bytearray()
    while len(new) < 50_000:
        at = pick.randrange(len(old))
        new += old[at:at + pick.randrange(1, 20 * edits)] if pick.random() < 0.8 else pick.randbytes(pick.randrange(99))
    sketch = Sketch(width, KEY, sums_of(old, width, KEY))
    before, behind = pick.randrange(3_000), pick.randrange(3_000)
    found = sketch.find(bytes(new), before, len(new) - behind, pick.randrange(-1, 99))
    done = before
    for at, offset, length in found:
        assert done <= at and length > 0 and at + length <= len(new) - behind
        assert new[at:at + length] == old[offset:offset + length]
        done = at + length


@pytest.mark.parametrize("width", [1024, 1031, 1040, 4099])
def test_sums_of_many_blocks_are_those_of_each(width):
    """Goal: blocks that are summed up together have the sums that they have alone, whatever their length."""
    data = noise(width * 11 + 5)
    each = [sums_of(data[at:at + width], width, KEY) for at in range(0, width * 11, width)]
    assert sums_of(data, width, KEY) == b"".join(each)
    block = data[:width]
    weak = sum(block) & 0xFFFF | (sum((width - i) * byte for i, byte in enumerate(block)) & 0xFFFF) << 16
    assert each[0][:4] == struct.pack(">I", weak)


def test_a_sum_rolls_as_it_begins():
    """Goal: every block is found at every offset."""
    old = noise(8 * 1024)
    sketch = Sketch(1024, KEY, sums_of(old, 1024, KEY))
    for shift in (0, 1, 2, 3, 500, 1023, 1024, 1025):
        text = noise(shift, 3) + old
        assert sum(length for _at, _offset, length in sketch.find(text, 0, len(text), -1)) == len(old)


def test_sums_of_a_hostile_receiver_cost_little():
    """Goal: where every window fits a sum, and no block, looking ends."""
    sums = struct.pack(">II", 0, 1) * 5_000
    sketch = Sketch(1 << 17, KEY, sums)
    assert sketch.find(bytes(2 * MIB), 0, MIB, -1) == []
    equal = Sketch(1024, KEY, sums_of(bytes(5 * MIB), 1024, KEY))
    assert equal.find(bytes(MIB), 0, MIB, 0) == [(0, 0, MIB)]


@pytest.mark.parametrize("wrong", [(0, KEY, b"s" * SUM_BYTES), (1024, b"k", b"s" * SUM_BYTES), (1024, KEY, b""),
                                   (1024, KEY, b"s" * (SUM_BYTES + 1))])
def test_no_such_sketch(wrong):
    with pytest.raises(ValueError):
        Sketch(*wrong)


def test_holes_of_the_older_file_are_not_read(places, monkeypatch):
    """Goal: of a disk image that is nearly empty only what is in it is read, on both sides."""
    there, here = places
    for place in places:
        with open(place / "f", "wb") as file:
            file.truncate(20 << 30)
            file.seek(7 << 30)
            file.write(OLD[:MIB])
    with open(there / "f", "r+b") as file:
        file.seek((7 << 30) + 500_000)
        file.write(b"changed")
    read = 0
    real = os.preadv

    def preadv(fd, buffers, at):
        nonlocal read
        read += sum(map(len, buffers))
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)
    joined = Joined([there / "f"], here, delta=True)
    assert joined.run() is None and joined.sent() < 300_000
    assert read < 50 * MIB
    with open(here / "f", "rb") as file:
        file.seek(7 << 30)
        assert file.read(MIB) == OLD[:500_000] + b"changed" + OLD[500_007:MIB]
    assert (here / "f").stat().st_blocks * 512 < 3 * MIB


# ---- what a peer may say

def test_sketches_there_and_back():
    packed = messages.pack_sketch(3, 4096, KEY, b"s" * SUM_BYTES * 12_000)
    parts = []
    while packed:
        kind, length = messages.parse_header(packed)
        parts.append(messages.parse_payload(kind, packed[HEADER.size:HEADER.size + length]))
        packed = packed[HEADER.size + length:]
    assert len(parts) > 1 and all(part[:4] == (3, 4096, KEY, 12_000) for part in parts)
    assert b"".join(part.sums for part in parts) == b"s" * SUM_BYTES * 12_000


@pytest.mark.parametrize("part", [(3, 4096, KEY, b"s" * SUM_BYTES * 2, 1), (3, 1023, KEY, b"s" * SUM_BYTES, 1),
                                  (3, MIB + 1, KEY, b"s" * SUM_BYTES, 1), (3, 4096, KEY, b"s" * (SUM_BYTES + 1), 1),
                                  (3, 4096, KEY, b"s" * SUM_BYTES, messages.MOST_SKETCH_BLOCKS + 1)])
def test_malformed_sketches(part):
    index, width, key, sums, count = part
    with pytest.raises(PeerError):
        messages.parse_payload(MessageType.SKETCH, struct.pack(">II16sI", index, width, key, count) + sums)


def refuse(places, change, new=OLD + b"x", old=OLD, **options):
    """A peer says something else than it should: how that ends."""
    there, here = places
    (there / "f").write_bytes(new)
    (here / "f").write_bytes(old)
    joined = Joined([there / "f"], here, **{"delta": True, **options})
    link, kind, other = change
    getattr(joined, link).change = lambda said, message: other(message) if said == kind else message
    error = joined.run()
    assert (here / "f").read_bytes() == old, "the old file is as it was"
    return error


BIG = struct.pack(">IQI", 1, NEW, 1 << 31)
CODED_LIES = {
    "a coding that was not offered": lambda header: header._replace(coding=PACKED),
    "no coding": lambda header: header._replace(coding=0),
    "a coding of tomorrow": lambda header: header._replace(coding=REBUILT | 128),
    "a block longer than any": lambda header: header._replace(length=MIB + 1),
    "a block of another length": lambda header: header._replace(length=5),
    "a block outside": lambda header: header._replace(number=77),
}


def recoded(message, change, data=None):
    header = Coded(*messages.CODED.unpack_from(message, HEADER.size))
    data = message[HEADER.size + messages.CODED.size:] if data is None else data
    return messages.pack_coded_header(change(header), len(data)) + data


@pytest.mark.parametrize("lie", CODED_LIES)
def test_a_sender_that_codes_as_it_must_not(places, lie):
    error = refuse(places, ("sending", MessageType.CODED, lambda message: recoded(message, CODED_LIES[lie])))
    assert error is not None


@pytest.mark.parametrize("data", [b"", b"\0\0\0", BIG, BIG + b"x", struct.pack(">I", 1 << 30),
                                  struct.pack(">IQI", 1, 0, 7), struct.pack(">IQI", 1, 0, MIB) + b"more",
                                  struct.pack(">IQIQI", 2, 0, MIB, 0, 1), struct.pack(">I", 4097) + bytes(12 * 4097)])
def test_pieces_that_no_sender_writes(places, data):
    """Goal: its session ends; nothing is written, no memory is taken for what it says."""
    error = refuse(places, ("sending", MessageType.CODED, lambda message: recoded(message, lambda head: head, data)))
    assert error is not None and ("piece" in error or "block" in error)


@given(st.binary(max_size=200), st.integers(0, MIB), st.sampled_from([PACKED, REBUILT, PACKED | REBUILT]))
@settings(max_examples=300, deadline=None)
def test_whatever_is_coded_is_a_block_or_the_peers_fault(data, length, how):
    """Goal: any bytes make a block of the length that was said, none, or a PeerError."""
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        made = decode(Coded(0, 0, bytes(32), how, length), data, fd)
        assert made is None or len(made) == length
    except PeerError:
        pass
    finally:
        os.close(fd)


def test_a_block_is_coded_once(places):
    """Goal: a few bytes become a mebibyte on the disk no more often than the file has blocks."""
    error = refuse(places, ("sending", MessageType.CODED, lambda message: message * 9))
    assert error == "a block in a coding that was not agreed on"


@pytest.mark.parametrize("twice", [MessageType.SKETCH, MessageType.WANT])
def test_a_receiver_that_asks_twice(places, twice):
    error = refuse(places, ("receiving", twice, lambda message: message * 3))
    assert error is not None and "makes no sense" in error


def test_sketches_of_a_receiver_are_bounded(places):
    """Goal: a receiver cannot fill the sender's memory with sums of many files."""
    there, here = places
    (there / "d").mkdir()
    for number in range(40):
        (there / f"d/{number:02}").write_bytes(noise(70_000, number))
        os.makedirs(here / "d", exist_ok=True)
        (here / f"d/{number:02}").write_bytes(noise(70_000, 99))
        date(there / f"d/{number:02}")
        date(here / f"d/{number:02}")
    joined = Joined([there / "d"], here, delta=True)
    sums = b"s" * SUM_BYTES * messages.MOST_SKETCH_BLOCKS
    indexes = iter(range(1, 41))
    joined.receiving.change = lambda kind, message: (
        messages.pack_sketch(next(indexes), 1024, KEY, sums) if kind == MessageType.WANT else message)
    assert "sketches" in joined.run()
    assert joined.sender._sketch_bytes <= SKETCH_BYTES_AHEAD + 70_000


# ---- compression

TEXT = b"".join(b"line %d of a text that says little\n" % number for number in range(90_000))


def test_text_becomes_shorter(places):
    joined = deliver(places, TEXT, squeezer=Squeezer(clock))
    assert joined.sent() < len(TEXT) // 4
    assert joined.sender.done_bytes == len(TEXT)
    assert joined.sender.sent_bytes + joined.sender.saved_bytes == len(TEXT)


def test_both(places):
    """Goal: what is new in a changed file is compressed."""
    new = OLD[:MIB] + TEXT[:500_000] + OLD[MIB:]
    joined = deliver(places, new, OLD, squeezer=Squeezer(clock))
    assert joined.sent() < 150_000


def test_noise_is_hardly_tried(monkeypatch, places):
    """Goal: of data that do not become shorter ever fewer blocks are tried."""
    tries = []
    real = zstd.compress
    monkeypatch.setattr(zstd, "compress", lambda data: tries.append(1) or real(data))
    joined = deliver(places, noise(40 * MIB), squeezer=Squeezer(clock))
    assert len(tries) <= 5
    assert joined.sender.saved_bytes == 0
    squeezer = Squeezer(clock)
    for _ in range(100):
        squeezer.squeeze(noise(1_000))
    assert any(squeezer.squeeze(TEXT[:1_000]) for _ in range(200)), "text behind it is noticed"


def test_what_is_not_sent_tells_nothing_of_the_path(places):
    """Goal: many blocks that the receiver has make no path a fast one, on which compressing is tried to be left."""
    old = noise(2 * TRIAL_BLOCKS * MIB)
    joined = deliver(places, old + TEXT, old, squeezer=Squeezer(clock))
    assert joined.sent() < len(TEXT) // 4


@pytest.mark.parametrize("fast", [True, False])
def test_whether_it_pays_is_tried(fast):
    """Goal: on a fast path the faster way is taken, on a slow one no block goes out as it is."""
    now = 0
    squeezer = Squeezer(lambda: now)
    modes = []
    for _ in range(3 * TRIAL_BLOCKS + STAY_BLOCKS):
        modes.append(squeezer.is_on)
        per_us = FAST_BYTES * (3 if squeezer.is_on else 9) / 1e6 if fast else 0.5
        now += int(MIB / per_us)
        squeezer.note(MIB)
    assert modes[0] and modes[-1] and all(modes) is not fast
    if fast:
        assert modes.count(False) >= STAY_BLOCKS, "until it is tried again"


def test_a_trial_that_is_slow_ends_soon():
    now = 0
    squeezer = Squeezer(lambda: now)
    off = 0
    for _ in range(20 * TRIAL_BLOCKS):
        off += not squeezer.is_on
        now += int(MIB / (60 if squeezer.is_on else 1))
        squeezer.note(MIB)
    assert off <= 4


def packed(data):
    return lambda message: recoded(message, lambda head: head._replace(coding=PACKED), data)


def bomb(size):
    """A frame that claims this many bytes, and has them."""
    return zstd.compress(bytes(size))


@pytest.mark.parametrize("data", [b"", b"no frame", bomb(MIB + 1), bomb(400 * MIB), bomb(MIB) + b"x", bomb(MIB)[:-1],
                                  bomb(MIB - 1), b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8 + b"\1\0\0"])
def test_frames_that_no_sender_writes(places, data):
    """Goal: a bomb costs its session, and no memory: its length is looked at before anything is unpacked."""
    error = refuse(places, ("sending", MessageType.CODED, packed(data)), new=TEXT, delta=False,
                   squeezer=Squeezer(clock))
    assert error is not None


def test_a_pipe_is_compressed(tmp_path):
    """Goal: what comes from standard input, too."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, TEXT[:60_000])
    os.close(write_fd)
    joined = Joined([], tmp_path, squeezer=Squeezer(clock))
    joined.sources = [SourceFile(b"p", FileKind.PIPE, fd=read_fd)]
    assert joined.run() is None
    assert (tmp_path / "p").read_bytes() == TEXT[:60_000]
    assert joined.sent() < 20_000


def test_a_receiver_that_has_no_zstandard(monkeypatch, places):
    def missing():
        raise MproxyError("missing")
    monkeypatch.setattr(zstd, "load", missing)
    joined = deliver(places, TEXT, squeezer=Squeezer(clock))
    assert joined.sent() > len(TEXT) and joined.sender.takes_codings == REBUILT


def test_an_old_receiver_gets_everything_as_it_is(tmp_path):
    """Goal: a receiver whose HELLO says nothing of codings is sent none, and told of none."""
    world = World(tmp_path)
    digest = leaf(b"data", 0, True)
    world.link.bring(messages.pack_file(File(0, FileKind.FILE, 0o644, 0, 4, b"i" * 16, b"f")))
    world.threads.work()
    world.link.bring(messages.pack_coded_header(Coded(0, 0, digest, PACKED, 4), 4) + b"data")
    assert world.link.ended == "a block in a coding that was not agreed on", "none was offered"


def test_pieces_of_a_block_are_shorter_than_it(tmp_path):
    (tmp_path / "f").write_bytes(OLD)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        sketch = Sketch(2048, KEY, sums_of(OLD, 2048, KEY))
        data, text = OLD[MIB:2 * MIB], memoryview(OLD)[MIB - 2047:2 * MIB + 2047]
        pieces = pieces_of(sketch, text, 2047, MIB, 1)
        assert len(pieces) < 100
        assert bytes(decode(Coded(0, 1, b"", REBUILT, MIB), pieces, fd)) == data
        assert pieces_of(Sketch(2048, KEY, b"s" * SUM_BYTES), text, 2047, MIB, 1) is None
        assert coding.MOST_PIECES >= 2 * MIB // 1024
    finally:
        os.close(fd)
