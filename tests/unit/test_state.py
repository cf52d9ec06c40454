"""What of a session outlives its process: records without pointers, from which another session continues."""

import ctypes
import re

import pytest
from tests.drivers._pysession import PySession, image, revive, state_bytes

from mproxy._frames import encode_frame
from mproxy._session import EventKind, Session
from mproxy._wire import CloseCode, FrameType, ResetCode
from tests.meta.sources import PACKAGE
from tests.unit.session_pair import SECRET, SESSION_ID, Pair, end_mark, lone, make_config, take_all, take_none

WIDTHS = {f"{sign}int{bits}_t": getattr(ctypes, f"c_{sign}int{bits}")
          for sign in ("", "u") for bits in (8, 16, 32, 64)}
LENGTHS = {"SESSION_ID_BYTES": 16, "SECRET_BYTES": 32}
TEXT = bytes(i * 7 % 251 for i in range(20000))


def record(name, known):
    """The struct `name` of _ring.pxd or _state.pxd, as ctypes lays it out; KeyError for a field of another kind."""
    text = (PACKAGE / "_ring.pxd").read_text() + (PACKAGE / "_state.pxd").read_text()
    block = re.search(rf"^cdef struct {name}:\n((?:    .*\n|\n)+)", text, re.MULTILINE)[1]
    fields = []
    for line in block.splitlines():
        declaration = line.partition("#")[0].strip()
        if declaration:
            kind, field, length = re.fullmatch(r"(\S.*?) ?(\w+)(?:\[(\w+)\])?", declaration).groups()
            fields.append((field, {**WIDTHS, **known}[kind] * (LENGTHS[length] if length else 1)
                           if length else {**WIDTHS, **known}[kind]))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


RING = record("Ring", {})
STREAM = record("StreamState", {"Ring": RING})
SESSION = record("SessionState", {"Ring": RING})


def test_records_hold_numbers_of_a_fixed_width_and_nothing_else():
    """A pointer, an `int` or a `size_t` would be a KeyError above; the compiler's layout is the same."""
    assert state_bytes() == tuple(map(ctypes.sizeof, (RING, STREAM, SESSION)))


def test_a_stream_stays_small():
    assert ctypes.sizeof(STREAM) <= 112


def another(pair, name, *, held):
    """Another process takes the place of one end of the pair."""
    one = getattr(pair, name)
    setattr(pair, name, revive(pair.config, image(one), pair.now, held))


def die_both(pair, *held):
    """Both processes at once; `held` are the streams that still have applications."""
    pair.lose()
    for name in ("client", "server"):
        another(pair, name, held=held)


def told(events, stream):
    """All the bytes that these events bring to the stream's application."""
    return b"".join(event[2] for event in events if event[0] == EventKind.DATA and event[1] == stream)


@pytest.fixture
def pair():
    """Both on a carrier, with stream 1 open."""
    pair = Pair()
    pair.attach()
    assert pair.client.open(b"host:1") == 1
    pair.pump()
    return pair


# ---- what is on its way

def test_bytes_held_at_every_place_arrive_once(pair):
    """Read and not sent, sent and not received, received and not handed, both ways."""
    pair.client.write(1, TEXT[:1000])
    pair.server.write(1, TEXT[:700])
    pair.pump(take_none)
    pair.client.write(1, TEXT[1000:3000])
    pair.server.write(1, TEXT[700:900])
    pair.client.transmit(1 << 20)  # taken by the carrier, and lost
    pair.server.transmit(1 << 20)
    pair.client.write(1, TEXT[3000:3500])
    die_both(pair, 1)
    assert pair.server.hand(1, 400) == (TEXT[:400], False)
    pair.attach()
    at_client, at_server = pair.pump()
    assert pair.server.hand(1, 1 << 20)[0] + told(at_server, 1) == TEXT[400:3500]
    assert pair.client.hand(1, 1 << 20)[0] + told(at_client, 1) == TEXT[:900]
    pair.beat()
    assert (pair.client.session.streams.out_held, pair.server.session.streams.out_held) == (0, 0)


def test_bytes_sent_before_that_was_noted_may_be_acknowledged(pair):
    """The process died between the system call and its bookkeeping."""
    pair.client.write(1, TEXT[:500])
    pair.server.receive(pair.client.transmit(1 << 20, counted=False), pair.now, take_all)
    another(pair, "client", held=[1])
    assert pair.client.look(1)["peak"] == 500
    pair.attach()
    assert pair.client.look(1)["acked"] == 500
    pair.client.write(1, b"more")
    assert told(pair.pump()[1], 1) == b"more"


def test_a_full_ring_that_has_wrapped(pair):
    window = pair.config.window_bytes
    assert pair.client.write(1, TEXT[:window]) == window
    pair.server.receive(pair.client.transmit(1 << 20), pair.now, take_none)
    pair.server.hand(1, 5000)
    pair.down()
    assert pair.client.write(1, TEXT[window:window + 3000]) == 3000
    die_both(pair, 1)
    pair.attach()
    got = pair.server.hand(1, 1 << 20)[0]
    got += told(pair.pump()[1], 1)
    assert got == TEXT[5000:window + 3000]


def test_streams_go_on_to_any_number_of_deaths(pair):
    got = b""
    for at in range(0, 3000, 100):
        pair.client.write(1, TEXT[at:at + 100])
        die_both(pair, 1)
        pair.attach()
        got += told(pair.pump()[1], 1)
    assert got == TEXT[:3000]


# ---- ends

def test_ends_survive(pair):
    """A half-close that was sent and one that was not, told once each."""
    pair.client.write(1, TEXT[:10])
    pair.client.end(1)
    die_both(pair, 1)
    pair.attach()
    pair.pump()
    assert pair.server.hand(1, 99) == (b"", True)
    pair.server.end(1)
    die_both(pair, 1)
    pair.attach()
    pair.pump()
    assert pair.client.hand(1, 99) == (b"", True)
    for one in (pair.client, pair.server):
        one.release(1)
    pair.pump()
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_a_vanished_application_is_reset_behind_what_it_wrote(pair):
    pair.client.write(1, TEXT[:2000])
    pair.client.discard(1)
    die_both(pair, 1)
    assert pair.client.look(1)["out_capacity"] > 0
    pair.attach()
    events = pair.pump()[1]
    assert told(events, 1) == TEXT[:2000]
    assert events[-1] == (EventKind.RESET, 1, ResetCode.APPLICATION)


def test_a_reset_that_was_not_sent_is(pair):
    pair.client.reset(1, ResetCode.REFUSED)
    die_both(pair, 1)
    pair.attach()
    assert (EventKind.RESET, 1, ResetCode.REFUSED) in pair.server_events + pair.pump()[1]


def test_who_finished_is_not_asked_again(pair):
    """A finished stream, kept until the peer is sure to know, is neither opened nor reset by a resume."""
    pair.both_end(1)
    assert pair.streams() == (1, 1)
    die_both(pair)
    assert pair.streams() == (1, 1)
    events = pair.attach()
    assert [event[0] for side in events for event in side] == [EventKind.RESUMED] * 2
    pair.beat()
    pair.beat()
    assert pair.streams() == (0, 0)


def test_an_application_that_went_with_the_process_lets_go(pair):
    pair.client.write(1, TEXT[:10])
    pair.lose()
    another(pair, "client", held=[])
    pair.client.discard(1)
    pair.attach()
    assert told(pair.pump()[1], 1) == TEXT[:10]


# ---- a process that died in the midst of a change

def dies_amid(pair, name, stream, **stored):
    """One end's process dies when of a change only these fields of the stream were stored; its application lives."""
    whole = image(getattr(pair, name))
    changed = []
    for state, out, inp in whole[2]:
        state = STREAM.from_buffer_copy(state)
        head = state.inp.head
        if state.id == stream:
            for field, value in stored.items():
                ring, _, inner = field.rpartition("__")
                setattr(getattr(state, ring) if ring else state, inner, value)
        changed.append((bytes(state), out, inp[state.inp.head - head:]))
    setattr(pair, name, revive(pair.config, (*whole[:2], changed), pair.now, [stream]))


def test_handed_bytes_are_received_before_they_are_handed(pair):
    """They went from the carrier to the application, and lie in no ring."""
    pair.client.write(1, TEXT[:300])
    pair.pump()
    pair.client.write(1, TEXT[300:400])
    pair.client.transmit(1 << 20)
    pair.lose()
    dies_amid(pair, "server", 1, inp__tail=400)
    assert (pair.server.look(1)["handed"], pair.server.session.streams.in_held) == (400, 0)
    pair.attach()
    pair.client.write(1, b"more")
    assert told(pair.pump()[1], 1) == b"more"


def test_storage_of_a_ring_that_became_empty_goes_back(pair):
    pair.client.write(1, TEXT[:300])
    pair.pump(take_none)
    pair.lose()
    dies_amid(pair, "server", 1, inp__head=300)
    assert pair.server.look(1)["in_capacity"] == 0


def test_a_reset_in_the_midst_of_it_is_one(pair):
    """Of a stream that was not opened yet: it never is."""
    pair.lose()
    pair.client.open(b"host:2")
    dies_amid(pair, "client", 2, aborted=True)
    pair.client.release(2)
    assert pair.client.look(2) is None
    pair.attach()
    assert not [event for event in pair.pump()[1] if event[0] == EventKind.OPENED]


def test_a_reset_gives_back_what_the_stream_held(pair):
    pair.client.write(1, TEXT[:300])
    pair.lose()
    dies_amid(pair, "client", 1, aborted=True, reset_ours=True, reset_code=ResetCode.REFUSED)
    assert (pair.client.look(1)["out_capacity"], pair.client.session.streams.out_held) == (0, 0)
    pair.attach()
    assert (EventKind.RESET, 1, ResetCode.REFUSED) in pair.server_events + pair.pump()[1]


@pytest.mark.parametrize("stored", [{"deaf": True}, {"drain_reset": True}])
def test_an_application_that_takes_no_more_takes_no_more(pair, stored):
    pair.client.write(1, TEXT[:300])
    pair.client.end(1)
    pair.server.write(1, TEXT[:10])
    pair.pump(take_none)
    pair.server.write(1, TEXT[10:20])
    pair.lose()
    dies_amid(pair, "server", 1, **stored)
    look = pair.server.look(1)
    assert (look["handed"], look["in_done"], look["in_capacity"]) == (300, True, 0)
    pair.attach()
    pair.pump(take_none)
    assert pair.client.hand(1, 99)[0] == TEXT[:20]
    assert not [event for event in pair.server_events if event[0] == EventKind.CLOSED]


# ---- streams to be opened

def test_streams_that_were_not_opened_yet_are_with_their_targets(pair):
    pair.lose()
    targets = [b"host:2", b"", b"host:1", b"other.example:22"]
    ids = [pair.client.open(target) for target in targets]
    another(pair, "client", held=[1, *ids])
    ids.append(pair.client.open(b"host:2"))
    pair.attach()
    events = pair.pump()[1]
    assert [event[1:] for event in events if event[0] == EventKind.OPENED] == [
        *zip(ids, [*targets, b"host:2"], strict=True)]


def test_targets_are_kept_once():
    pair = Pair(make_config(max_streams=2000))
    pair.attach()
    before = len(image(pair.client)[1])
    for n in range(1000):
        pair.client.open(b"one.example:80" if n % 2 else b"another.example:443")
    assert len(image(pair.client)[1]) - before == 2 * 2 + len(b"one.example:80" b"another.example:443")


def test_ids_go_on(pair):
    die_both(pair, 1)
    assert pair.client.open() == 2


# ---- the session itself

def test_the_session_is_the_same(pair):
    pair.client.write(1, TEXT[:30])
    pair.pump()
    die_both(pair, 1)
    for one, is_server in ((pair.client, False), (pair.server, True)):
        session = one.session
        assert (session.session_id, session.secret, session.epoch) == (SESSION_ID, SECRET, 1)
        assert (session.is_server, session.streams.opened, session.streams.open_count) == (is_server, 1, 1)
    assert (pair.client.session.streams.out_bytes, pair.server.session.streams.in_bytes) == (30, 30)


def test_a_session_without_a_welcome_has_no_identity():
    pair = Pair()
    pair.client = PySession(Session(pair.config, is_server=False))
    pair.client.open()
    another(pair, "client", held=[1])
    assert (pair.client.session.session_id, pair.client.session.secret) == (b"", b"")
    pair.client.session.learn_identity(SESSION_ID, SECRET)
    pair.attach()
    assert (EventKind.OPENED, 1, b"") in pair.pump()[1]


def test_an_old_carrier_does_not_come_back(pair):
    die_both(pair, 1)
    with pytest.raises(Exception, match="epoch"):
        pair.client.session.attach(1, 4096, 4096, b"", pair.now)


def test_a_session_that_is_over_stays_over(pair):
    pair.server.session.close(CloseCode.SHUTDOWN, "bye")
    another(pair, "server", held=[1])
    with pytest.raises(Exception, match="closed"):
        pair.attach_server(b"")


@pytest.mark.parametrize("received, code", [(100, None), (101, CloseCode.OFFSET_ERROR)])
def test_the_peer_may_claim_no_more_than_was_planned(received, code):
    """What the process had planned to send may have left; what was only written has not."""
    one = lone(is_server=False)
    one.open()
    one.write(1, TEXT[:100])
    one.transmit(1 << 20, counted=False)
    one.write(1, TEXT[100:300])
    one = revive(make_config(), image(one), 2000, [1])
    one.session.attach(2, 16384, 65536, b"", 2000)
    claim = encode_frame(FrameType.RESUME, stream=1, seq=received)
    events = one.receive(claim + end_mark(), 2000, take_none)
    assert [event[1] for event in events if event[0] == EventKind.CLOSED] == ([] if code is None else [code])


def test_what_the_copy_holds_is_what_the_state_holds(pair):
    """An image of the second process is that of the first, but for where its storage lies."""
    pair.client.write(1, TEXT[:9000])
    pair.client.transmit(3000)
    pair.client.open(b"host:1")
    pair.lose()
    first = image(pair.client)
    second = image(revive(pair.config, first, pair.now, [1, 2]))
    assert second[1] == first[1]
    assert [one[1:] for one in second[2]] == [one[1:] for one in first[2]]
    for (before, *_), (after, *_) in zip(first[2], second[2], strict=True):
        was, became = STREAM.from_buffer_copy(before), STREAM.from_buffer_copy(after)
        for ring in ("out", "inp"):
            getattr(was, ring).block = getattr(became, ring).block = 0
        was.peak = max(was.peak, was.sent)
        assert bytes(was) == bytes(became)
