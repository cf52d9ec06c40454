"""sproxy behind a balancer: who its clients are, and when a session that is not here is lost for good."""

import os

import pytest
from asking import facts
from middle import Member
from proxies import DAEMON_PORT, SPROXY_PORT
from test_places import authorize, open_streams
from traffic import read_exactly
from wire_peer import UNKNOWN_SESSION, preamble

from mproxy.ground.errors import PeerError
from mproxy.relay._proxy_header import make_header

CLIENT, NEIGHBOUR = "203.0.113.7", "203.0.113.9"
BALANCERS = ("--accept-proxy", "10.1.0.0/24")  # the lab's client plays one
GARBAGE = 40  # more than a source may fail


def through(lab, client=CLIENT, port=SPROXY_PORT, version=2, words=b""):
    """A connection that a balancer has begun for that client."""
    connection = lab.client.connect(port, lab.server_address)
    connection.sendall(make_header(version, ((client, 4711), (lab.server_address, port))) + words)
    return connection


def member(lab, number=2, client=CLIENT, port=SPROXY_PORT, former=None):
    """A session through a balancer: a new one, or that of `former`, gone on with."""
    about = {} if former is None else {
        "session_id": former.welcome.session_id, "secret": former.welcome.secret, "tag": former.welcome.routing_tag}
    joined = Member(through(lab, client, port), number, instance=os.urandom(16), **about)
    joined.welcome = joined.join()
    return joined


@pytest.mark.parametrize("version", [1, 2])
def test_limits_log_status_and_from_see_the_client(pair, lab, version):
    """Goal: the address that the balancer names is the client's everywhere: for from=, in the log, for the daemon."""
    listener = lab.server.listen(DAEMON_PORT)
    authorize(lab, key2=f'from="{CLIENT}"')
    pair.start_sproxy(*BALANCERS, "--send-proxy", "v1")
    client = member(lab)
    open_streams(client, 1)
    daemon, _ = listener.accept()
    assert read_exactly(daemon, 6 + 5 + len(CLIENT)) == b"PROXY TCP4 " + CLIENT.encode()
    event = pair.sproxy.event("connected")
    assert event["peer"] == f"{CLIENT}:4711" and event["through"].startswith("10.1.0.2:")
    assert facts(lab.server, "sproxy")["sessions"][0]["peer"] == CLIENT
    with pytest.raises(PeerError, match="address"):
        member(lab, client=NEIGHBOUR)
    assert pair.sproxy.event("refused")["peer"] == f"{NEIGHBOUR}:4711"


def test_one_client_that_fails_blocks_nobody_else(pair, lab):
    """Goal: failures are counted to the client that the balancer names, not to the balancer."""
    pair.start_sproxy(*BALANCERS)
    for _ in range(GARBAGE):
        with through(lab, words=b"GET / HTTP/1.1\r\n\r\n") as connection:
            connection.recv(1000)
    assert pair.sproxy.event("source-blocked")["source"] == CLIENT
    with pytest.raises((EOFError, ConnectionError)):
        member(lab)
    member(lab, client=NEIGHBOUR)


def test_who_is_no_balancer_cannot_name_anybody(pair, lab):
    """Goal: a header from elsewhere is rubbish, and a balancer without one is told so; neither costs anybody else."""
    pair.echo()
    pair.start_sproxy("--accept-proxy", "10.1.0.77")
    with through(lab, words=preamble()) as stranger:
        stranger.recv(1000)
    assert "not an mproxy peer" in pair.sproxy.event("refused")["why"]
    assert pair.sproxy.event("refused")["peer"].startswith("10.1.0.2:")
    pair.start_cproxy()
    app = pair.app()
    app.sendall(b"direct")
    assert read_exactly(app, 6) == b"direct"
    pair.sproxy.stop()
    pair.start_sproxy(*BALANCERS)
    with lab.client.connect(SPROXY_PORT, lab.server_address) as plain:
        plain.sendall(preamble())
        plain.recv(1000)
    assert "--accept-proxy expects" in pair.sproxy.event("refused")["why"]


def test_a_header_in_pieces_and_probes(pair, lab):
    """Goal: however a balancer's packets are cut it is heard; its own probe has a header or LOCAL, and needs no key."""
    pair.start_sproxy(*BALANCERS)
    probe = bytes.fromhex("ab6d7078020200000000000000000000")
    whole = make_header(2, ((CLIENT, 1), (lab.server_address, 2)))
    for head in (whole, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"):
        with lab.client.connect(SPROXY_PORT, lab.server_address) as connection:
            for byte in head + probe:
                connection.sendall(bytes([byte]))
            assert read_exactly(connection, 5) == probe[:5]
    assert not pair.sproxy.events("refused")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_session_of_a_machine_that_is_gone_ends_at_once(pair, lab, workers):
    """Goal: with --routed what a balancer brings with another node's tag is final: no site in the refusal. Without a
    balancer, with a forged tag or without --routed the answer is a hint: it names the site."""
    routed = (*BALANCERS, "--routed")
    for node, options in ((1, routed), (2, routed), (3, BALANCERS)):
        pair.start_sproxy("--node", node, "--workers", workers, *options, port=SPROXY_PORT + node)
    clients = [member(lab, port=SPROXY_PORT + 1) for _ in range(2 * workers)]
    resumed = member(lab, port=SPROXY_PORT + 1, former=clients[0])  # at home it goes on
    assert resumed.welcome.session_id == clients[0].welcome.session_id

    def site(port, tag, connect):
        former = clients[1].welcome
        returning = Member(connect(port), 2, former.session_id, former.secret, tag=tag)
        with pytest.raises(PeerError, match="no such session") as caught:
            returning.join()
        assert caught.value.code == UNKNOWN_SESSION
        return returning.caller.detail

    def direct(port):
        return lab.server.connect(port, lab.server_address)

    def balanced(port):
        return through(lab, port=port)

    tag = clients[1].welcome.routing_tag
    for _ in range(2 * workers):
        assert site(SPROXY_PORT + 2, tag, balanced) == 0, "final"
    for port, shown, connect in [(SPROXY_PORT + 2, tag ^ 1, balanced), (SPROXY_PORT + 2, 0, balanced),
                                 (SPROXY_PORT + 2, tag, direct), (SPROXY_PORT + 3, tag, balanced)]:
        assert site(port, shown, connect) != 0, (port, shown)


def test_a_client_moves_to_the_address_that_is_advertised(pair, lab, relay):
    """Goal: cproxy reaches sproxy through a relay of TCP alone; WELCOME says where sproxy is itself, and the session
    goes on over UDP there. When UDP is blocked it comes back over TCP, and not a byte is lost."""
    pair.echo()
    relay.start(f"{SPROXY_PORT} -> {lab.server_address}:{SPROXY_PORT}")
    pair.start_sproxy("--advertise", lab.server_address)
    pair.start_cproxy("--carrier", "auto", server=lab.wifi.address(1))
    app = pair.app()
    app.sendall(b"one")
    assert read_exactly(app, 3) == b"one"
    event = pair.cproxy.event("resumed")
    assert event["peer"] == f"{lab.server_address}:{SPROXY_PORT}" and event["carrier"] == "datagram"
    app.sendall(b"two")
    assert read_exactly(app, 3) == b"two"
    lab.router.run("nft", "-f", "-", input="add table ip block\n"
                   "add chain ip block f { type filter hook forward priority 0; }\n"
                   "add rule ip block f meta l4proto udp drop\n")
    app.sendall(b"three")
    app.settimeout(60)
    assert read_exactly(app, 5) == b"three"
    assert "carrier" not in pair.cproxy.event("resumed", count=2).fields, "over TCP"
