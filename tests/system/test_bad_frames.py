"""A peer that has a session and breaks its rules: that session alone ends, with a reason on both sides."""

import random

import pytest
from lab import until
from proxies import DAEMON_PORT, SPROXY_PORT
from traffic import ends_by_reset, pattern, read_exactly
from wire_peer import (
    ACK,
    DATA,
    DONE,
    END,
    FIN,
    FRAME_ERROR,
    GOODBYE,
    HEARTBEAT,
    HELLO,
    IGNORABLE,
    LIMIT_ERROR,
    MIB,
    OFFSET_ERROR,
    OPEN,
    RESET,
    RESUME,
    STATE_ERROR,
    STREAM_ERROR,
    WELCOME,
    LyingClient,
    LyingServer,
    frame,
    hello,
    preamble,
)

# Sent on a session whose stream 1 is open, has sent the daemon 5 bytes, and has got and acknowledged 5.
WRONG_FRAMES = {
    "reserved bits": (frame(HEARTBEAT, reserved=1, payload=b"s" * 16), FRAME_ERROR),
    "type 0": (frame(0), FRAME_ERROR),
    "unknown type": (frame(42), FRAME_ERROR),
    "unknown type too long to skip": (frame(42, IGNORABLE, length=4097), FRAME_ERROR),
    "flag of another type": (frame(ACK, FIN, stream=1, ack=5), FRAME_ERROR),
    "data of 4 GiB": (frame(DATA, stream=1, seq=5, length=0xFFFFFFFF), FRAME_ERROR),
    "data of 1 MiB and a byte": (frame(DATA, stream=1, seq=5, ack=5, length=MIB + 1), FRAME_ERROR),
    "data without bytes": (frame(DATA, stream=1, seq=5, ack=5), FRAME_ERROR),
    "data on stream 0": (frame(DATA, seq=5, payload=b"x"), FRAME_ERROR),
    "ack with a payload": (frame(ACK, stream=1, ack=5, payload=b"x"), FRAME_ERROR),
    "open of stream 0": (frame(OPEN), FRAME_ERROR),
    "target of 301 bytes": (frame(OPEN, stream=2, payload=b"x" * 301), FRAME_ERROR),
    "reason of 201 bytes": (frame(RESET, stream=1, payload=b"x" * 201), FRAME_ERROR),
    "end mark with a stream": (frame(RESUME, END, stream=1), FRAME_ERROR),
    "hello again": (hello(), STATE_ERROR),
    "welcome from the client": (frame(WELCOME, payload=bytes(168)), STATE_ERROR),
    "resume without a new carrier": (frame(RESUME, stream=1, seq=5, ack=5), STATE_ERROR),
    "heartbeat of another session": (frame(HEARTBEAT, payload=b"someone else's.."), STATE_ERROR),
    "data for a stream never opened": (frame(DATA, stream=7, payload=b"x"), STREAM_ERROR),
    "ack for a stream never opened": (frame(ACK, stream=7, ack=1), STREAM_ERROR),
    "reset of a stream never opened": (frame(RESET, stream=7), STREAM_ERROR),
    "open of an open stream": (frame(OPEN, stream=1), STREAM_ERROR),
    "gap": (frame(DATA, stream=1, seq=6, ack=5, payload=b"x"), OFFSET_ERROR),
    "offset near 2^64": (frame(DATA, stream=1, seq=(1 << 64) - 1, ack=5, payload=b"xx"), OFFSET_ERROR),
    "ack of what was not sent": (frame(ACK, stream=1, ack=6), OFFSET_ERROR),
    "ack near 2^64": (frame(ACK, stream=1, ack=(1 << 64) - 1), OFFSET_ERROR),
    "ack going backwards": (frame(ACK, stream=1, ack=4), OFFSET_ERROR),
    "end before what was sent": (frame(DATA, FIN, stream=1, seq=3, ack=5, payload=b"x"), OFFSET_ERROR),
}


@pytest.fixture
def carrier_options():
    """The peers of wire_peer.py do not encrypt."""
    return ["--plaintext"]


def liar_with_a_stream(lab):
    """A session whose stream 1 has been echoed once, as WRONG_FRAMES expects."""
    liar = LyingClient(lab, SPROXY_PORT)
    liar.join()
    liar.send(frame(OPEN, stream=1) + frame(DATA, stream=1, payload=b"hello"))
    assert liar.next_frame(DATA).payload == b"hello"
    liar.send(frame(ACK, stream=1, ack=5))
    return liar


def test_wrong_frames_close_their_session_alone(pair, lab, bystander):
    """Goal: each wrong frame is answered with GOODBYE, its code and a reason; the log has the same reason
    once."""
    bystander()
    for number, (name, (wrong, code)) in enumerate(WRONG_FRAMES.items(), 1):
        liar = liar_with_a_stream(lab)
        liar.send(wrong)
        goodbye = liar.next_frame(GOODBYE)
        assert goodbye.seq == code, f"{name}: {goodbye}"
        assert liar.is_ended(), name
        assert goodbye.payload.decode() in pair.sproxy.event("ended", count=number)["why"], name
    assert len(pair.sproxy.events("ended")) == len(WRONG_FRAMES)


def test_daemon_connection_of_a_liar_is_reset(pair, lab):
    """Goal: the daemon behind a session that was closed for a protocol error sees a reset, not an orderly end."""
    pair.start_sproxy()
    with lab.server.listen(DAEMON_PORT) as listener:
        liar = LyingClient(lab, SPROXY_PORT)
        liar.join()
        liar.send(frame(OPEN, stream=1))
        connection, _ = listener.accept()
        connection.settimeout(15)
        liar.send(frame(OPEN, stream=1))
        assert liar.next_frame(GOODBYE).seq == STREAM_ERROR
        assert ends_by_reset(connection)


def test_more_than_the_window_is_not_taken(pair, lab, bystander):
    """Goal: a peer that ignores the window: sproxy takes no more than it offered, however fast it comes."""
    bystander("--window", "64KiB", "--session-budget", "256KiB")
    with lab.server.listen(DAEMON_PORT + 1):
        pair_memory = pair.sproxy.anonymous_bytes()
        liar = LyingClient(lab, SPROXY_PORT)
        welcome = liar.join()
        assert (welcome.window, welcome.budget) == (65536, 262144)
        liar.send(frame(OPEN, stream=1))
        try:
            for start in range(0, 32 * MIB, 65536):  # the echo daemon is stuck soon: its answers are not acknowledged
                liar.send(frame(DATA, stream=1, seq=start, payload=pattern(start, 65536)))
        except OSError:
            pass
        assert pair.sproxy.event("ended")["why"]
        assert pair.sproxy.anonymous_bytes() - pair_memory < 4 * MIB


def test_ignorable_types_are_skipped(pair, lab, bystander):
    """Goal: frames of a later version that are marked as ignorable are skipped, and the session goes on."""
    bystander()
    liar = liar_with_a_stream(lab)
    liar.send(frame(200, IGNORABLE, stream=9, seq=1, payload=b"future" * 600) + frame(99, IGNORABLE))
    liar.send(frame(DATA, stream=1, seq=5, ack=5, payload=b"again"))
    assert liar.next_frame(DATA).payload == b"again"


@pytest.mark.parametrize(("resume", "code"), [
    (frame(RESUME, stream=1, seq=6, ack=5), OFFSET_ERROR),
    (frame(RESUME, stream=1, seq=5, ack=6), OFFSET_ERROR),
    (frame(RESUME, stream=1, seq=(1 << 64) - 1, ack=(1 << 64) - 1), OFFSET_ERROR),
    (frame(OPEN, stream=2), STATE_ERROR),
    (frame(DATA, stream=1, seq=5, payload=b"x"), STATE_ERROR),
], ids=["received beyond sent", "ack beyond received", "near 2^64", "open before the end mark",
        "data before the end mark"])
def test_resume_with_impossible_offsets(pair, lab, bystander, resume, code):
    """Goal: offsets in a resume are checked: if they are outside of what is held, the session is closed."""
    bystander()
    first = LyingClient(lab, SPROXY_PORT)
    welcome = first.join()
    first.send(frame(OPEN, stream=1) + frame(DATA, stream=1, payload=b"hello"))
    assert first.next_frame(DATA).payload == b"hello"
    again = LyingClient(lab, SPROXY_PORT)
    again.send(preamble() + hello(welcome.session, welcome.secret, epoch=2, resume_list=resume) + resume)
    again.read_preamble()
    again.session = welcome.session
    assert again.next_frame(WELCOME)
    assert again.next_frame(GOODBYE).seq == code
    assert again.is_ended()


def test_resume_repeats_what_the_peer_does_not_have(pair, lab):
    """Goal: if the peer says it received less than was sent, which is allowed, the rest is sent again. A stream that
    it once opened and no longer names is reset."""
    pair.start_sproxy()
    with lab.server.listen(DAEMON_PORT) as listener:
        first = LyingClient(lab, SPROXY_PORT)
        welcome = first.join()
        daemons = {}
        for stream in (1, 2):
            first.send(frame(OPEN, stream=stream))
            daemons[stream], _ = listener.accept()
            daemons[stream].settimeout(15)
            daemons[stream].sendall(b"hello")
            assert first.next_frame(DATA).payload == b"hello"
        again = LyingClient(lab, SPROXY_PORT)
        again.join(frame(RESUME, stream=1, seq=2, ack=2), newest=2, session=welcome.session, secret=welcome.secret,
                   epoch=2)
        data = again.next_frame(DATA)
        assert (data.stream, data.seq, data.payload) == (1, 2, b"llo")
        again.send(frame(DATA, stream=1, ack=5, payload=b"!"))
        assert read_exactly(daemons[1], 1) == b"!"
        assert ends_by_reset(daemons[2])


def test_random_frames(pair, lab, bystander, seed):
    """Goal: 300 sessions of random frames, right and wrong ones: sproxy lives and the bystander notices
    nothing."""
    bystander()
    chance = random.Random(seed)
    for _ in range(300):
        liar = LyingClient(lab, SPROXY_PORT)
        liar.join()
        try:
            liar.send(b"".join(random_frame(chance) for _ in range(chance.randrange(1, 20))))
        except OSError:
            pass
        liar.connection.close()
    assert pair.sproxy.running


def random_frame(chance):
    kind = chance.choice([HELLO, RESUME, HEARTBEAT, OPEN, OPEN, DATA, DATA, DATA, ACK, RESET, GOODBYE,
                          chance.randrange(256)])
    flags = chance.choice([0, 0, FIN, END, DONE, chance.randrange(256)])
    small = chance.choice([0, 1, 2, 3, 5, 100, (1 << 32) - 1])
    payload = chance.randbytes(chance.choice([0, 0, 1, 16, 100, 5000]))
    length = chance.choice([None, None, None, None, 0, 1, 1 << 31])
    return frame(kind, flags, small, small, chance.choice([0, small]), payload, length)


@pytest.mark.parametrize("wrong", [
    frame(OPEN, stream=2), frame(DATA, stream=9, payload=b"x"), frame(DATA, stream=1, seq=1, payload=b"x"),
    frame(ACK, stream=1, ack=6), frame(WELCOME, payload=bytes(168)), frame(55), frame(DATA, stream=1, length=1 << 31),
    frame(HEARTBEAT, payload=b"someone else's.."),
], ids=["open", "unknown stream", "gap", "ack of the unsent", "welcome again", "unknown type", "2 GiB", "heartbeat"])
def test_cproxy_closes_the_session_of_a_lying_server(pair, lab, wrong):
    """Goal: cproxy does not trust its server, as sproxy does not trust its clients: the application is reset, GOODBYE
    and one log line say why, and the next application starts a new session."""
    with lab.server.listen(SPROXY_PORT, "0.0.0.0") as listener:
        pair.start_cproxy()
        app = pair.app()
        app.sendall(b"hello")
        liar = LyingServer(listener)
        liar.welcome()
        liar.next_frame(OPEN)
        assert liar.next_frame(DATA).payload == b"hello"
        liar.send(wrong)
        assert liar.next_frame(GOODBYE).seq in (FRAME_ERROR, STREAM_ERROR, OFFSET_ERROR, STATE_ERROR, LIMIT_ERROR)
        assert ends_by_reset(app)
        assert until(lambda: pair.cproxy.events("ended"), 5, "log line")[0]["why"]
        app = pair.app()
        app.sendall(b"hello")
        honest = LyingServer(listener)
        honest.welcome(session=b"t" * 16)
        honest.next_frame(OPEN)
        assert honest.next_frame(DATA).payload == b"hello"
        honest.send(frame(DATA, FIN, stream=1, ack=5, payload=b"welcome"))
        assert read_exactly(app, 7) == b"welcome"


def test_who_takes_all_descriptors_leaves_some(pair, lab):
    """Goal: sproxy may open 1,000 files, and one session after the other opens as many streams as it is let; each gets
    its promised six, and the last one, which wants one, too."""
    pair.echo()
    pair.start_sproxy("--max-sessions", "20", "--max-unfinished", "20", prefix=("prlimit", "--nofile=1000:1000"))
    pair.start_cproxy()
    sessions = []
    for _ in range(19):
        session = LyingClient(lab, SPROXY_PORT)
        sessions.append(session)
        session.join()
        session.send(b"".join(frame(OPEN, stream=number) for number in range(1, 1001)))
        session.send(frame(DATA, stream=6, payload=b"x"))
        got = session.next_frame(DATA, RESET)
        while got.type == RESET:
            assert got.stream > 6
            got = session.next_frame(DATA, RESET)
        assert got.stream == 6
    assert pair.sproxy.open_fds() > 900
    app = pair.app()
    app.sendall(b"x")
    assert read_exactly(app, 1) == b"x"
    assert not pair.sproxy.events("accept-paused")
    for session in sessions:
        session.connection.close()
