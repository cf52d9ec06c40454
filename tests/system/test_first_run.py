"""What programs say when they are started for the first time: few lines, each of which tells what to do next, or that
all is well."""

import re

from proxies import CPROXY, CPROXY_PORT, DAEMON_PORT, SPROXY, SPROXY_PORT
from relays import MPROXY
from traffic import read_exactly

MOST_LINES = 5


def said(program):
    return program.log.text.splitlines() + program.out.text.splitlines()


def test_the_first_session_takes_five_lines_at_each_end(lab, pair):
    """Goal: without keys, lists and a state directory, from the start until an application has been served."""
    pair.echo()
    sproxy = lab.server.start(SPROXY, "--state-dir", lab.server.home / "new", SPROXY_PORT, f"127.0.0.1:{DAEMON_PORT}")
    sproxy.event("listening", count=2)
    cproxy = lab.client.start(CPROXY, "--state-dir", lab.client.home / "new", CPROXY_PORT, lab.server_address,
                              SPROXY_PORT)
    cproxy.event("listening", count=2)
    for program in (sproxy, cproxy):
        assert len(said(program)) <= MOST_LINES - 1, program.log.text
    app = lab.client.connect(CPROXY_PORT)
    app.sendall(b"hello")
    assert read_exactly(app, 5) == b"hello"
    sproxy.event("connected")
    cproxy.event("connected")
    for program in (sproxy, cproxy):
        assert len(said(program)) <= MOST_LINES, program.log.text


def test_others_say_less(lab):
    host = lab.client
    (host.home / "in").mkdir()
    relay = host.start(MPROXY, "relay", "8080", "127.0.0.1", "80")
    relay.event("ready")
    recv = host.start(MPROXY, "recv", "--open", "7000", "-o", host.home / "in")
    recv.event("listening")
    for program in (relay, recv):
        assert 0 < len(said(program)) <= MOST_LINES, program.log.text


def test_times_are_local_and_say_so(lab):
    relay = lab.client.start(MPROXY, "relay", "8080", "127.0.0.1", "80", env={"TZ": "XYZ-05:30"})
    relay.event("ready")
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+05:30 ", line) for line in relay.log.text.splitlines())
