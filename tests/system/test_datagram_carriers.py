"""A session over UDP, whatever happens to network and proxies; and which way is taken where UDP does not pass."""

import os
import random
import signal
import socket
import time
from subprocess import PIPE

import mortal
import pytest
from asking import ask, session_of
from capture import Capture, is_to
from lab import until
from proxies import DAEMON_PORT, SPROXY, SPROXY_PORT, keep_key, state_dir
from traffic import Traffic, read_exactly

from mproxy.ground.config import CproxyConfig
from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.policy.keys import find_spki, public_line
from mproxy.policy.race_dialer import HEAD_START_US
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport.datagram_config import for_session
from mproxy.transport.keying import SESSION_PURPOSE, Keying, KeyPair
from mproxy.transport.observers import LinkHandler
from tests import keys

DATAGRAM = ["--carrier", "datagram"]


@pytest.fixture
def joined(pair):
    """Both proxies, and an application that has been echoed over UDP."""
    pair.echo()
    pair.start(cproxy=[*DATAGRAM, "--name", "laptop"])
    return echoed(pair)


def echoed(pair, text=b"hello"):
    app = pair.app()
    app.sendall(text)
    assert read_exactly(app, len(text)) == text
    return app


def roam(pair, come, gone, number):
    """The client's address changes at once, and so does its way."""
    come.give(number, metric=10 + number)
    gone.pull()


def test_a_session_over_udp(pair, joined):
    """Goal: log and status name the carrier, and no byte of the session went over TCP."""
    for proxy in (pair.cproxy, pair.sproxy):
        assert proxy.event("connected")["carrier"] == "datagram"
    carrier = session_of(pair.lab.client, "laptop")["carrier"]
    assert carrier["kind"] == "datagram" and carrier["peer"] == [pair.lab.server_address, SPROXY_PORT]
    assert carrier["local"][0] == pair.lab.wifi.address(2)
    assert "ESTAB" not in pair.lab.client.run("ss", "-tnH", f"dport = :{SPROXY_PORT}")


def test_bulk_both_ways(pair, joined):
    """Goal: 16 MiB each way at once arrive as they were sent, beside what somebody types."""
    bulk = Traffic([pair.app() for _ in range(3)], in_flight=1 << 20)
    bulk.goes_on(more=16 << 20, within=60)
    joined.sendall(b"key")
    assert read_exactly(joined, 3) == b"key"
    bulk.finish(within=60)


def test_an_address_change_is_a_packet(pair, joined):
    """Goal: five changes of address in full traffic, without a gap between them: one line in each log for each, no loss
    and no resume."""
    going = Traffic([pair.app() for _ in range(3)])
    going.goes_on()
    for change in range(5):
        gone, come = (pair.lab.wifi, pair.lab.phone) if change % 2 == 0 else (pair.lab.phone, pair.lab.wifi)
        roam(pair, come, gone, 20 + change)
        for proxy, end in ((pair.sproxy, "peer"), (pair.cproxy, "local")):
            assert proxy.event("moved", count=change + 1)[end].startswith(come.address(20 + change) + ":")
        going.goes_on(more=1000)
    going.finish()
    for proxy in (pair.cproxy, pair.sproxy):
        assert not proxy.events("lost") and not proxy.events("resumed"), proxy
        assert len(proxy.events("moved")) == 5


def names_and_numbers(packets):
    """Ids and numbers of the sealed packets to and from sproxy's port, of captured IPv4 packets."""
    names, numbers = set(), set()
    for packet in packets:
        ports = packet[34:36], packet[36:38]
        if packet[23] == socket.IPPROTO_UDP and SPROXY_PORT.to_bytes(2, "big") in ports and packet[42] == 5:
            names.add(packet[46:54])
            numbers.add(int.from_bytes(packet[54:62], "big"))
    return names, numbers


def test_who_watches_two_networks(pair, joined):
    """Goal: no id of a packet is seen in both, and no number shows that it counts on from another; not even when the
    change of networks is not noticed at once, and somebody types."""
    watched = Capture(pair.lab.client, "wifi"), Capture(pair.lab.client, "phone")
    joined.sendall(b"before")
    assert read_exactly(joined, 6) == b"before"
    pair.cproxy.signal(signal.SIGSTOP)
    roam(pair, pair.lab.phone, pair.lab.wifi, 30)
    joined.sendall(b"typed")
    pair.cproxy.signal(signal.SIGCONT)
    assert read_exactly(joined, 5) == b"typed"
    pair.sproxy.event("moved")
    joined.sendall(b"after")
    assert read_exactly(joined, 5) == b"after"
    for capture in watched:
        capture.end()
    (before, numbers), (after, more_numbers) = (names_and_numbers(capture.packets) for capture in watched)
    assert len(before) >= 2 and len(after) >= 2 and not before & after
    assert min(numbers | more_numbers) > 1 << 40, "random bits of 64: not a number that began below 2^32"


def test_a_black_hole_is_outlasted(pair, joined):
    """Goal: the session goes on once packets pass again, over this carrier or another one."""
    going = Traffic([pair.app()])
    going.goes_on()
    pair.lab.wifi.cut()
    pair.cproxy.event("lost")
    pair.lab.wifi.mend()
    going.goes_on(more=1000)
    going.finish()


# Of what goes to sproxy only sealed packets of links that it has pass: their first byte is 5.
NO_DIALS = f"""
table inet old {{
  chain forward {{
    type filter hook forward priority 0
    udp dport {SPROXY_PORT} @th,64,8 != 5 drop
  }}
}}
"""


@pytest.fixture
def cut_off(pair):
    """An application that has typed since both proxies gave up the link between them; no dial passes, nor will one."""
    quick = ["--heartbeat", "400ms"]
    pair.echo()
    pair.start(sproxy=quick, cproxy=[*DATAGRAM, *quick, "--name", "laptop"])
    app = echoed(pair)
    pair.lab.router.run("nft", "-f", "-", input=NO_DIALS)
    pair.lab.wifi.cut()
    for proxy in (pair.cproxy, pair.sproxy):
        until(lambda proxy=proxy: is_away(proxy), 30, f"the link is given up: {proxy}")
    app.settimeout(60)
    app.sendall(b"typed")
    return app


def is_away(proxy):
    """Whether its session has no working carrier; a slow host may have lost one before."""
    told = [event.name for event in proxy.events() if event.name in ("lost", "resumed")]
    return told[-1:] == ["lost"]


@pytest.mark.parametrize("moves", [False, True], ids=["same-address", "another-address"])
def test_an_outage_that_both_have_noticed(pair, cut_off, moves):
    """Goal: the session goes on over the link that it had; both say so, and status, too."""
    lab = pair.lab
    until(lambda: session_of(lab.client, "laptop")["state"] == "away", 30, "status says so")
    seen = [len(proxy.events("resumed")) for proxy in (pair.cproxy, pair.sproxy)]
    if moves:
        roam(pair, lab.phone, lab.wifi, 31)
    else:
        lab.wifi.mend()
    assert read_exactly(cut_off, 5) == b"typed"
    for proxy, before in zip((pair.cproxy, pair.sproxy), seen, strict=True):
        resumed = proxy.event("resumed", before + 1)
        assert resumed["carrier"] == "datagram" and resumed["resent"] == "0"
    until(lambda: session_of(lab.client, "laptop")["state"] == "connected", 30, "status says so")


def test_an_outage_in_which_the_session_is_killed(pair, cut_off):
    """Goal: sproxy's last words reach cproxy by the link that both had given up."""
    ask(pair.lab.server, "kill", "--reason", "moving house", pair.sproxy.event("connected")["session"])
    pair.lab.wifi.mend()
    assert "moving house" in pair.cproxy.event("ended")["why"]


def test_an_outage_in_which_the_worker_dies(pair, cut_off):
    """Goal: the link is gone with it, and the next one is dialled."""
    os.kill(pair.sproxy.worker_pid, signal.SIGKILL)
    pair.sproxy.event("taken-over")
    pair.lab.router.run("nft", "delete", "table", "inet", "old")
    pair.lab.wifi.mend()
    assert read_exactly(cut_off, 5) == b"typed"


@pytest.mark.parametrize("who", ["sproxy", "cproxy"])
def test_workers_may_die(pair, joined, who):
    """Goal: the keys of a link die with its process; the next one dials, or is dialled, and the session goes on."""
    going = Traffic([pair.app()])
    going.goes_on()
    os.kill(getattr(pair, who).worker_pid, signal.SIGKILL)
    pair.sproxy.event("resumed")
    going.goes_on(more=1000)
    going.finish()


def test_who_takes_over_says_so(pair):
    """Goal: cproxy does not have to wait for silence when sproxy's worker is another one: that one's answer makes it
    dial."""
    pair.echo()
    pair.start(cproxy=[*DATAGRAM, "--heartbeat", "1m", "--log-level", "debug"])
    app = echoed(pair)
    mortal.kill_worker(pair.sproxy)
    app.sendall(b"again")
    assert read_exactly(app, 5) == b"again"
    assert pair.cproxy.event("in-doubt")["why"] == "sproxy does not know the carrier any more"
    assert pair.cproxy.event("resumed")["session"] == pair.cproxy.event("connected")["session"]


def test_a_daemon_may_speak_first_after_a_death(pair):
    """Goal: cproxy has nothing to send for a minute, and still hears at once that sproxy's worker is another one."""
    with pair.lab.server.listen(DAEMON_PORT) as listener:
        pair.start(cproxy=[*DATAGRAM, "--heartbeat", "1m", "--log-level", "debug"], sproxy=["--heartbeat", "1m"])
        app, daemon = pair.joined(listener)
        mortal.kill_worker(pair.sproxy)
        daemon.sendall(b"news")
        assert read_exactly(app, 4) == b"news"
        assert pair.cproxy.event("in-doubt")["why"] == "sproxy does not know the carrier any more"


def test_a_goodbye_arrives(pair, joined):
    """Goal: whoever ends says so, although there is no kernel that would say it afterwards."""
    assert pair.cproxy.stop() == 0
    assert pair.sproxy.event("ended")["why"].startswith("cproxy ended it")
    pair.start_cproxy(*DATAGRAM)
    echoed(pair)
    assert pair.sproxy.stop() == 0
    assert pair.cproxy.event("ended")["why"].startswith("sproxy ended it")


def test_the_end_of_an_idle_session(pair):
    pair.echo()
    pair.start(cproxy=[*DATAGRAM, "--idle", "100ms"])
    echoed(pair).close()
    assert pair.cproxy.event("ended")["why"] == "idle"
    assert pair.sproxy.event("ended")["why"].startswith("cproxy ended it")
    echoed(pair)


def test_stdio(pair):
    """Goal: the last byte of a copy arrives before cproxy ends."""
    pair.echo()
    pair.start_sproxy()
    cproxy = pair.start_stdio(*DATAGRAM, stdin=PIPE)
    cproxy.process.stdin.write(b"all of it")
    cproxy.process.stdin.close()
    assert cproxy.wait() == 0
    assert cproxy.out.text == "all of it"


def test_who_may_come_in(pair):
    """Goal: the same keys are judged by the same files as over TCP."""
    pair.echo()
    allowed = state_dir(pair.lab.server) / "authorized_keys"
    allowed.write_text(public_line(find_spki(keys.pem(1), "key"), "somebody else") + "\n")
    pair.start(cproxy=DATAGRAM)
    assert pair.app_is_reset()
    assert "key" in pair.cproxy.event("dial-failed")["why"]
    assert pair.sproxy.event("refused")
    allowed.write_text(public_line(find_spki(keys.pem(2), "key"), "laptop") + "\n")
    pair.sproxy.event("keys-read", count=2)
    echoed(pair)


def test_where_a_key_may_not_be_it_gets_nothing(pair):
    """Goal: in full traffic a session moves to another listed address at once; to one that is not listed goes nothing
    of it, neither before nor after the challenge is answered; back at a listed one it goes on."""
    lab = pair.lab
    listed = f'from="{lab.wifi.address(2)},{lab.phone.address(20)}"'
    (state_dir(lab.server) / "authorized_keys").write_text(
        f"{listed} {public_line(find_spki(keys.pem(2), 'key'), 'laptop')}\n")
    pair.echo()
    pair.start(cproxy=DATAGRAM)
    going = Traffic([pair.app() for _ in range(3)], in_flight=1 << 18)
    going.goes_on()
    roam(pair, lab.phone, lab.wifi, 20)
    assert pair.sproxy.event("moved")["peer"].startswith(lab.phone.address(20) + ":")
    going.goes_on(more=1000)
    watched = Capture(lab.client, "wifi")
    roam(pair, lab.wifi, lab.phone, 9)
    pair.sproxy.event("moved", count=2)
    assert "address" in pair.sproxy.event("lost")["why"]
    watched.end()
    down = [packet for packet in watched.packets if packet[23] == socket.IPPROTO_UDP
            and packet[34:36] == SPROXY_PORT.to_bytes(2, "big") and packet[42] == 5]
    assert down and max(map(len, down)) < 600, "challenges, and the end of this carrier"
    roam(pair, lab.phone, lab.wifi, 20)
    going.goes_on(more=1000)
    going.finish()


def test_another_server_is_refused(pair, joined):
    """Goal: known_hosts counts for UDP: nothing is said to a server with another key."""
    assert pair.cproxy.stop() == 0
    assert pair.sproxy.stop() == 0
    keep_key(pair.lab.server, "host-key.pem", 3)
    pair.start(cproxy=DATAGRAM)
    assert pair.app_is_reset()
    assert "known_hosts" in pair.cproxy.event("dial-failed")["why"]
    assert not pair.sproxy.events("connected")


def test_nobody_there(pair):
    """Goal: without an answer over UDP the application is told, as with a refused connection."""
    pair.start_sproxy("--no-udp")
    pair.start_cproxy(*DATAGRAM, "--connect-timeout", "500ms")
    assert pair.app_is_reset()
    assert "UDP: no answer" in pair.cproxy.event("dial-failed")["why"]


# ---- strangers

def stranger(pair):
    """A UDP socket on the client that reaches sproxy's port."""
    with pair.lab.client.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((pair.lab.server_address, SPROXY_PORT))
    sock.setblocking(False)
    return sock


def test_garbage_disturbs_nobody(pair, joined):
    """Goal: random packets, and packets of every kind with random contents, are dropped; the session goes on."""
    seed = int.from_bytes(os.urandom(4))
    pick = random.Random(seed)
    going = Traffic([pair.app()])
    with stranger(pair) as sock:
        for number in range(5000):
            data = pick.randbytes(pick.choice((0, 1, 35, 36, 62, 200, 1200, 1472)))
            if number % 2 and data:
                data = bytes([pick.randrange(8)]) + data[1:]
            try:
                sock.send(data)
            except BlockingIOError:
                pass
    going.goes_on(more=1000)
    going.finish()
    assert len(pair.sproxy.events("connected")) == 1, f"seed {seed}"


# ---- beside TCP

def block_udp(pair, verb="add"):
    """Have UDP packets to sproxy vanish on the router."""
    pair.lab.router.ip(f"rule {verb} pref 50 ipproto udp dport {SPROXY_PORT} blackhole")


def on_tcp(event):
    """Whether `connected` or `resumed` is about a carrier over TCP."""
    return "carrier" not in event.fields


def first_byte_ms(pair):
    """How long the first byte of the first application takes."""
    app = pair.app()
    began = time.monotonic()
    app.sendall(b"?")
    assert read_exactly(app, 1) == b"?"
    return 1000 * (time.monotonic() - began)


def test_udp_is_the_default(pair):
    pair.echo()
    pair.start()
    echoed(pair)
    assert pair.cproxy.event("connected")["carrier"] == "datagram"
    assert pair.sproxy.event("listening")["udp"] == "yes"
    assert "ESTAB" not in pair.lab.client.run("ss", "-tnH", f"dport = :{SPROXY_PORT}")


def test_where_udp_was_blocked_the_next_cproxy_does_not_wait(pair):
    pair.echo()
    block_udp(pair)
    pair.start()
    assert first_byte_ms(pair) > HEAD_START_US / 1000
    pair.cproxy.stop()
    watched = Capture(pair.lab.client, "wifi")
    pair.start_cproxy()
    echoed(pair)
    assert on_tcp(pair.cproxy.event("connected"))
    watched.end()
    first = next(packet for packet in watched.packets if is_to(packet, socket.IPPROTO_TCP, SPROXY_PORT)
                 or is_to(packet, socket.IPPROTO_UDP, SPROXY_PORT))
    assert is_to(first, socket.IPPROTO_TCP, SPROXY_PORT), "later ones may try UDP anew, when the network changes"


def test_where_udp_is_blocked(pair):
    """Goal: TCP carries the session after the head start; when UDP passes again, and the network changes, the session
    moves there and nothing is lost."""
    pair.echo()
    block_udp(pair)
    pair.start()
    going = Traffic([pair.app()])
    going.goes_on()
    assert on_tcp(pair.cproxy.event("connected"))
    block_udp(pair, "del")
    pair.lab.phone.give(7, metric=1000)
    assert pair.cproxy.event("resumed")["carrier"] == "datagram"
    going.goes_on(more=1000)
    going.finish()


def test_without_udp_at_sproxy(pair):
    """Goal: cproxy learns from the first answer that UDP is not to be had, and from a later one that it is."""
    pair.echo()
    pair.start(sproxy=["--no-udp"])
    echoed(pair).close()
    assert on_tcp(pair.cproxy.event("connected"))
    remembered = state_dir(pair.lab.client) / "udp" / f"{pair.lab.server_address}:{SPROXY_PORT}"
    assert remembered.read_text() == "no\n"
    pair.cproxy.stop()
    pair.sproxy.stop()
    pair.start()
    app = echoed(pair)
    assert on_tcp(pair.cproxy.event("connected"))
    assert pair.cproxy.event("resumed")["carrier"] == "datagram"
    assert not remembered.exists()
    app.sendall(b"there?")
    assert read_exactly(app, 6) == b"there?"


def test_the_udp_port_is_taken(pair):
    """Goal: sproxy starts with a warning that says what is in the way, and does not with --udp."""
    pair.echo()
    with pair.lab.server.inside():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("0.0.0.0", SPROXY_PORT))
    with taken:
        pair.start()
        assert "port is in use" in pair.sproxy.event("no-udp")["why"]
        echoed(pair)
        assert on_tcp(pair.cproxy.event("connected"))
        pair.sproxy.stop()
        asked = pair.lab.server.start(SPROXY, "--udp", SPROXY_PORT)
        assert asked.wait() != 0
        assert "port is in use" in asked.log.text and len(asked.log.text.splitlines()) <= 2


def test_stdio_begins_over_tcp_and_moves(pair):
    pair.echo()
    pair.start_sproxy()
    cproxy = pair.start_stdio("--log-level", "info", stdin=PIPE)
    cproxy.process.stdin.write(b"first")
    cproxy.process.stdin.flush()
    assert on_tcp(cproxy.event("connected"))
    assert cproxy.event("resumed")["carrier"] == "datagram"
    cproxy.process.stdin.write(b" and last")
    cproxy.process.stdin.close()
    assert cproxy.wait() == 0
    assert cproxy.out.text == "first and last"


@pytest.mark.parametrize("options", [["--plaintext"], ["--stay"], ["--carrier", "tcp"]])
def test_what_stays_with_tcp(pair, options):
    pair.echo()
    pair.start(sproxy=[option for option in options if option == "--plaintext"], cproxy=options)
    echoed(pair)
    assert on_tcp(pair.cproxy.event("connected"))


def test_a_better_route_that_leads_nowhere(pair):
    """Goal: the session goes on over TCP on the device that carried it over UDP."""
    pair.echo()
    pair.start()
    going = Traffic([pair.app()])
    going.goes_on()
    assert not on_tcp(pair.cproxy.event("connected"))
    pair.lab.phone.give(5, metric=1)
    pair.lab.phone.cut()
    going.goes_on(more=1000, within=30)
    going.finish()


def test_when_udp_is_blocked_in_the_middle(pair):
    """Goal: a session over UDP falls back to TCP by itself, and is back soon after UDP passes again."""
    pair.echo()
    pair.start()
    going = Traffic([pair.app()])
    going.goes_on()
    assert pair.cproxy.event("connected")["carrier"] == "datagram"
    block_udp(pair)
    assert on_tcp(pair.cproxy.event("resumed"))
    going.goes_on(more=1000)
    block_udp(pair, "del")
    until(lambda: not on_tcp(pair.cproxy.events("resumed")[-1]), 45, "UDP carries the session again")
    going.goes_on(more=1000)
    going.finish()


class Silent(LinkHandler):
    """Agrees on keys, and says nothing."""

    def __init__(self):
        self.keying = Keying(KeyPair(keys.pem(4), "the key"), True, lambda _spki, _link: None, SESSION_PURPOSE)

    def on_handshake(self, link, data):
        self.keying.take(link, data)

    def on_established(self, link):
        link.probe()  # so that sproxy sees that we have them


def test_who_says_nothing_costs_nobody_else(pair, joined):
    """Goal: a stranger with keys of its own and no preamble is refused, and no worker dies of it."""
    loop = Loop()

    def look():
        if pair.sproxy.events("refused"):
            loop.stop()
        else:
            loop.call_later(50_000, look)
    with pair.lab.client.inside(), open_udp(None, 0) as sock:
        endpoint = DatagramEndpoint(loop, sock.fileno(), for_session(CproxyConfig().session, 1500))
        endpoint.connect(Target("sproxy", [(socket.AF_INET, (pair.lab.server_address, SPROXY_PORT))]), Silent())
        late = loop.call_later(30_000_000, loop.stop)
        look()
        loop.run()
        late.cancel()
        endpoint.close()
    assert "no preamble within" in pair.sproxy.event("refused")["why"]
    joined.sendall(b"still here")
    assert read_exactly(joined, 10) == b"still here"
    assert not pair.sproxy.events("internal-error") and not pair.sproxy.events("worker-died")
