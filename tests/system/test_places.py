"""How many sessions and streams a client may have at sproxy, which give way, and how a daemon tells clients apart."""

import os
import signal
import subprocess
import time

import pytest
from lab import until
from middle import Member
from proxies import DAEMON_PORT, SPROXY_PORT, cut_power, keep_key, state_dir
from traffic import read_exactly
from wire_peer import (
    DATA,
    GOODBYE,
    OPEN,
    REPLACED,
    RESET,
    TOO_MANY,
    LyingClient,
    frame,
    hello,
    preamble,
)

from mproxy.ground.errors import PeerError
from mproxy.policy.keys import public_line
from mproxy.programs.daemons import loopback_of
from tests import keys

STREAM_LIMIT = 6

# Of one event and source at once: log_rate.SOURCE_INFO.
LINES = 100


def spki(number):
    return keys.context(number, True).spki


def authorize(lab, **lines):
    """Write sproxy's authorized_keys: key2="options"."""
    keep_key(lab.server, "host-key.pem", 1)
    file = state_dir(lab.server) / "authorized_keys"
    file.touch(mode=0o600)
    file.write_text("".join(f"{options} {public_line(spki(int(name[3:])))}\n".lstrip()
                            for name, options in lines.items()))


def member(lab, number):
    """Another cproxy with that key, in a session of its own."""
    joined = Member(lab.client.connect(SPROXY_PORT, lab.server_address), number, instance=os.urandom(16))
    joined.welcome = joined.join()
    return joined


def turned_away(lab, number):
    with pytest.raises(PeerError) as caught:
        member(lab, number)
    return caught.value.code == TOO_MANY


def open_streams(session, *numbers):
    for number in numbers:
        session.send(frame(OPEN, stream=number) + frame(DATA, stream=number, payload=b"stream %d!" % number))


def stdio(pair):
    """A `cproxy --stdio` in use."""
    program = pair.start_stdio("--log-level", "info", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    program.process.stdin.write(b"x\n")
    program.process.stdin.flush()
    program.expect("x")
    return program


def test_max_streams_is_for_all_sessions_of_a_key(pair, lab):
    """Goal: a second session of a key does not get more streams; another key has its own."""
    pair.echo()
    authorize(lab, key2="max-streams=2", key3="")
    pair.start_sproxy()
    one, other, neighbour = member(lab, 2), member(lab, 2), member(lab, 3)
    open_streams(one, 1, 2)
    one.wait_for(b"stream 2!")
    open_streams(other, 1)
    other.wait_for(frame(RESET, stream=1, seq=STREAM_LIMIT))
    open_streams(neighbour, 1, 2, 3)
    neighbour.wait_for(b"stream 3!")
    one.send(frame(RESET, stream=1))
    one.send(frame(DATA, stream=2, seq=9, payload=b"after it"))
    one.wait_for(b"after it")
    open_streams(other, 3)
    other.wait_for(b"stream 3!")


def test_max_sessions_of_a_key(pair, lab):
    """Goal: at a key's limit its own sessions without a carrier give way, and no others."""
    pair.echo()
    authorize(lab, key2="max-sessions=2", key3="")
    pair.start_sproxy()
    neighbour = member(lab, 3)
    first, second = member(lab, 2), member(lab, 2)
    open_streams(second, 1)
    second.wait_for(b"stream 1!")
    assert turned_away(lab, 2)
    assert "max-sessions=" in pair.sproxy.event("refused")["why"]
    second.connection.close()
    pair.sproxy.event("lost")
    third = member(lab, 2)
    assert "it made room" in pair.sproxy.event("ended")["why"]
    assert turned_away(lab, 2), "the two that are there stay"
    for session in (neighbour, first, third):
        open_streams(session, 1)
        session.wait_for(b"stream 1!")


def test_one_key_leaves_places_to_others(pair, lab):
    """Goal: if one key holds all places, with sessions in use, another one gets in all the same."""
    pair.echo()
    authorize(lab, key2="", key3="")
    pair.start_sproxy("--max-sessions", "4")
    held = [member(lab, 2) for _ in range(4)]
    for session in held:
        open_streams(session, 1)
        session.wait_for(b"stream 1!")
    assert turned_away(lab, 2)
    other = member(lab, 3)
    for session in (*held[:3], other):
        open_streams(session, 2)
        session.wait_for(b"stream 2!")
    assert turned_away(lab, 2), "and stays"


def test_dead_stdio_clients_lock_nobody_out(pair, lab):
    """Goal: if ssh's proxies died silently and hold all places, the next one gets in, even with the same key."""
    pair.echo()
    pair.start_sproxy("--max-sessions", "3")
    for program in [stdio(pair) for _ in range(3)]:
        cut_power(program)
    pair.sproxy.event("lost", count=3)
    assert member(lab, 2)
    assert "it made room" in pair.sproxy.event("ended")["why"]
    assert stdio(pair)


def test_one_address_leaves_places_to_others_at_an_open_door(pair, lab):
    """Goal: if a stranger holds all places, with sessions in use, a client from elsewhere gets in, and the stranger's
    newest session ends."""
    pair.echo()
    pair.start_sproxy("--plaintext", "--max-sessions", "4")
    held = []
    for _ in range(4):
        held.append(LyingClient(lab, SPROXY_PORT))
        held[-1].join()
        held[-1].send(frame(OPEN, stream=1) + frame(DATA, stream=1, payload=b"here"))
        assert held[-1].next_frame(DATA).payload == b"here"
    fifth = LyingClient(lab, SPROXY_PORT)
    fifth.send(preamble() + hello())
    assert fifth.turned_away()[0] == TOO_MANY
    elsewhere = LyingClient(lab, SPROXY_PORT, lab.router)
    elsewhere.join()
    elsewhere.send(frame(OPEN, stream=1) + frame(DATA, stream=1, payload=b"let me in"))
    assert elsewhere.next_frame(DATA).payload == b"let me in"
    assert held[3].next_frame(GOODBYE).seq == REPLACED
    held[0].send(frame(DATA, stream=1, seq=4, payload=b"still"))
    assert held[0].next_frame(DATA).payload == b"still"


def test_sessions_without_end_do_not_fill_the_log(pair, lab):
    """Goal: what one client can make sproxy say is bounded, though every session has another id."""
    pair.start_sproxy("--plaintext")
    for _ in range(LINES + 100):
        client = LyingClient(lab, SPROXY_PORT)
        client.join()
        client.send(frame(GOODBYE))
        client.connection.close()
    begun = pair.sproxy.event("connected").at
    client = LyingClient(lab, SPROXY_PORT)
    client.join()
    client.send(frame(OPEN, stream=1))
    pair.sproxy.event("daemon-unreachable")  # whatever came before is served
    seconds = time.monotonic() - begun
    for name in ("connected", "ended"):
        assert 10 < len(pair.sproxy.events(name)) <= LINES + seconds + 1, name


def test_sessions_of_stdio_have_a_time_of_their_own(pair, lab):
    """Goal: nobody can come back to the session of a dead --stdio, so it ends before others do."""
    pair.echo()
    pair.start(sproxy=["--stdio-ttl", "1s"])
    app = pair.app()
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    pair.cproxy.stop(signal.SIGKILL)
    pair.sproxy.event("lost")
    cut_power(stdio(pair))
    ended = pair.sproxy.event("ended")
    assert "--stdio-ttl" in ended["why"] and ended["session"] == pair.sproxy.events("lost")[1]["session"]


def test_a_daemon_on_this_host_can_tell_keys_apart(pair, lab):
    """Goal: with --source-per-key each key has its own address in 127.0.0.0/8, the same for each connection; daemons
    elsewhere, or on ::1, are reached as always."""
    authorize(lab, key2="", key3="")
    listener = lab.server.listen(DAEMON_PORT)
    pair.start_sproxy("--source-per-key", "--allow", f"[::1]:{DAEMON_PORT}")
    seen = []
    for number in (2, 3, 2):
        session = member(lab, number)
        open_streams(session, 1)
        connection, address = listener.accept()
        seen.append(address[0])
        connection.sendall(b"welcome, stranger")
        session.wait_for(b"welcome, stranger")
    expected = [".".join(map(str, loopback_of(spki(number)))) for number in (2, 3, 2)]
    assert seen == expected and len(set(seen)) == 2
    assert [event["source"] for event in pair.sproxy.events("connected")] == expected
    six = lab.server.listen(DAEMON_PORT, "::1")
    session.send(frame(OPEN, stream=2, payload=b"[::1]:%d" % DAEMON_PORT))
    assert six.accept()[1][0] == "::1"


def test_without_the_option_it_is_the_usual_address(pair, lab):
    listener = lab.server.listen(DAEMON_PORT)
    pair.start_sproxy()
    open_streams(member(lab, 2), 1)
    assert listener.accept()[1][0] == "127.0.0.1"
    assert until(lambda: pair.sproxy.events("connected"), 5, "log")[0].fields.get("source") is None


