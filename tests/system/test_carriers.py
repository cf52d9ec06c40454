"""How carriers are lost and replaced: black holes, other paths, cables, names, stopped processes."""

import signal
import socket
import time

import pytest
from lab import SLOWNESS_S, outage, until
from proxies import CPROXY_PORT, DAEMON_PORT
from traffic import Traffic, read_exactly


@pytest.fixture
def traffic(pair):
    """Starts both proxies with the options given, and three applications in traffic with an echo daemon."""
    def start(*options, server=None, **traffic_options):
        pair.echo()
        pair.start_sproxy(*options)
        pair.start_cproxy(*options, server=server)
        going = Traffic([pair.app() for _ in range(3)], **traffic_options)
        going.goes_on(more=1000)
        return going
    return start


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("heartbeat_s", [0.1, 1])
def test_silent_black_hole_is_noticed_in_time(pair, traffic, heartbeat_s, busy):
    """Goal: packets vanish without RST, ICMP or address event. Both sides notice within misses x heartbeat + 20 %, and
    not much earlier than after misses - 1 heartbeats; the best of three, for a busy machine is late with everything."""
    going = traffic("--heartbeat", f"{round(heartbeat_s * 1000)}ms", "--misses", "3")
    if not busy:
        going.finish()
        app = pair.app()
        app.sendall(b"one")
        assert read_exactly(app, 3) == b"one"
    noticed, proxies = [], (pair.cproxy, pair.sproxy)
    for _attempt in range(3):
        counts = [len(proxy.events("lost")) + 1 for proxy in proxies]  # a busy machine may lose one without our doing
        pair.lab.wifi.cut()
        cut_at = time.monotonic()
        noticed.append([proxy.event("lost", count=count).at - cut_at
                        for proxy, count in zip(proxies, counts, strict=True)])
        pair.lab.wifi.mend()
        until(lambda: len(pair.cproxy.events("lost")) == len(pair.cproxy.events("resumed")), 30, "a carrier again")
        if all(2 * heartbeat_s - 0.05 <= after <= 3 * heartbeat_s * 1.2 + 0.02 for after in noticed[-1]):
            break
    else:
        raise AssertionError(f"seconds from the cut until it was noticed: {noticed}")
    if busy:
        going.goes_on(more=1000)
        going.finish()
    else:
        app.sendall(b"two")
        assert read_exactly(app, 3) == b"two"


@pytest.mark.long
def test_long_black_hole_loses_nothing(pair, traffic):
    """Goal: after 6 s of silence with 100 ms heartbeats, the next dial comes no later than the longest pause."""
    going = traffic("--heartbeat", "100ms")
    pair.lab.wifi.cut()
    outage(6)
    pair.lab.wifi.mend()
    pair.cproxy.event("resumed")
    going.goes_on(more=1000)
    going.finish()


def test_half_dead_carrier_does_not_block_the_return(pair, traffic):
    """Goal: while the old path drops everything and sproxy has not noticed yet, a client that comes by another path is
    served at once: a higher epoch supersedes."""
    going = traffic("--heartbeat", "30s")
    pair.lab.wifi.cut()
    pair.lab.phone.give(4, metric=50)
    given_at = time.monotonic()
    resumed = pair.cproxy.event("resumed")
    assert resumed["local"].startswith(pair.lab.phone.address(4) + ":")
    going.goes_on(more=1000)
    assert time.monotonic() - given_at < 15  # the heartbeat alone would take longer
    assert pair.sproxy.event("resumed")["epoch"] == resumed["epoch"]
    going.finish()


def test_from_wifi_to_phone_and_back(pair, traffic):
    """Goal: five changes between two networks, in full traffic, without a gap between them."""
    going = traffic()
    for change in range(5):
        gone, come = (pair.lab.wifi, pair.lab.phone) if change % 2 == 0 else (pair.lab.phone, pair.lab.wifi)
        come.give(20 + change)
        gone.pull()
        pair.cproxy.event("resumed", count=change + 1)
        going.goes_on(more=1000)
    going.finish()


def loose_cable(pair, going, moves):
    """The phone's route is the better one six times, for a moment each time; both networks work all the time."""
    phone = pair.lab.phone
    phone.give(20, metric=1000)
    for change in range(6):
        verb = "del" if change % 2 else "replace"
        phone.end.ip(f"route {verb} default via {phone.address(1)} dev {phone.name} metric 50")
        if moves:
            pair.cproxy.event("resumed")
        going.goes_on(more=1000)
    going.finish()


def test_planned_change_is_no_loss(pair, traffic):
    """Goal: a better route moves the carrier while the old one still works, but not to and fro; no loss is logged."""
    loose_cable(pair, traffic(), moves=True)
    told = [event for program in (pair.cproxy, pair.sproxy) for event in program.events("lost")]
    assert not [event for event in told if event.level == "warning"], told
    assert pair.cproxy.event("resumed")["local"].startswith(pair.lab.phone.address(20) + ":")
    assert len(pair.cproxy.events("resumed")) == 1


def test_stay(pair, lab, ends):
    """Goal: with --stay a better network moves nothing, and packets go where they went before; when its own network is
    gone the session goes on over the better one."""
    pair.echo()
    pair.start(cproxy=["--stay"])
    going = Traffic([pair.app()])
    going.goes_on(more=1000)
    loose_cable(pair, going, moves=False)
    app = pair.app()
    lab.phone.end.ip(f"route replace default via {lab.phone.address(1)} dev {lab.phone.name} metric 50")
    lab.phone.cut()
    app.sendall(b"over Wi-Fi")
    assert read_exactly(app, 10) == b"over Wi-Fi"
    assert not pair.cproxy.events("lost") and not pair.cproxy.events("resumed")
    lab.phone.mend()
    lab.wifi.pull()
    app.sendall(b"by phone")
    assert read_exactly(app, 8) == b"by phone"
    assert pair.cproxy.event("resumed")["local"].startswith(lab.phone.address(20) + ":")


def test_cable_unplugged(pair, traffic):
    """Goal: the link goes down and up again; the address stays."""
    going = traffic()
    pair.lab.wifi.unplug()
    outage(4)
    pair.lab.wifi.plug(2)
    going.goes_on(more=1000)
    going.finish()


def test_short_interruption_costs_no_carrier(pair, traffic):
    """Goal: packets vanish for less than the heartbeats allow: the carrier lives on."""
    going = traffic()
    pair.lab.wifi.cut()
    outage(0.8)
    pair.lab.wifi.mend()
    going.goes_on(more=1000)
    going.finish()
    assert not pair.sproxy.events("lost")


def test_server_changes_its_address(pair, traffic):
    """Goal: the server comes back at another address under the same name: the name is resolved again at every dial."""
    pair.lab.client.knows(server=pair.lab.server_address)
    going = traffic(server="server")
    pair.lab.core.pull()
    outage(1)
    pair.lab.core.give(40)
    pair.lab.client.knows(server=pair.lab.core.address(40))
    resumed = pair.cproxy.event("resumed")
    assert resumed["peer"].startswith(pair.lab.core.address(40) + ":")
    going.goes_on(more=1000)
    going.finish()


@pytest.mark.parametrize("family", [4, 6])
def test_both_families(pair, traffic, family):
    """Goal: the carrier over IPv4 and over IPv6, by numeric address, with a change of address."""
    core = pair.lab.core
    going = traffic(server=core.address(2) if family == 4 else core.address6(2))
    assert ("[" in pair.cproxy.event("connected")["peer"]) == (family == 6)
    pair.lab.wifi.pull()
    outage(0.3)
    pair.lab.wifi.give(8)
    pair.cproxy.event("resumed")
    going.goes_on(more=1000)
    going.finish()


def test_ipv6_that_leads_nowhere_does_not_delay(pair, lab):
    """Goal: the server's name has an IPv6 address that swallows every packet, and an IPv4 address that works: the first
    application is served within a second (RFC 8305)."""
    pair.echo()
    with lab.client.hosts_file.open("a") as hosts:
        hosts.write(f"{lab.core.address6(99)} server\n{lab.server_address} server\n")
    lab.router.ip(f"rule add pref 5 to {lab.core.address6(99)} blackhole", family=["-6"])
    pair.start_sproxy()
    pair.start_cproxy(server="server")
    app = pair.app()
    began_at = time.monotonic()
    app.sendall(b"served?")
    assert read_exactly(app, 7) == b"served?"
    assert time.monotonic() - began_at < 1 + SLOWNESS_S


@pytest.mark.long
def test_stopped_process_loses_nothing(pair):
    """Goal: SIGSTOP for 10 s, then SIGCONT, of a cproxy and, in another pair, of an sproxy: the other side declares the
    carrier dead, and nothing is lost."""
    pair.echo()
    traffics, stopped, others = [], [], []
    for port, which in ((CPROXY_PORT, "cproxy"), (CPROXY_PORT + 1, "sproxy")):
        sproxy = pair.start_sproxy(port=port + 1000)
        cproxy = pair.start_cproxy(port=port, server_port=port + 1000)
        traffics.append(Traffic([pair.app(port) for _ in range(3)]))
        traffics[-1].goes_on(more=1000)
        stopped.append(cproxy if which == "cproxy" else sproxy)
        others.append(sproxy if which == "cproxy" else cproxy)
    for program in stopped:
        program.signal(signal.SIGSTOP)
    outage(10)
    for program, other in zip(stopped, others, strict=True):
        assert other.event("lost")
        program.signal(signal.SIGCONT)
    for traffic in traffics:
        traffic.goes_on(more=1000)
        traffic.finish()


def test_carrier_reset_from_outside(pair, traffic):
    """Goal: if something resets the carrier's TCP connection (here `ss -K`), a new one follows at once, since the
    network itself works."""
    going = traffic()
    if not pair.lab.client.run("ss", "-K", "dst", pair.lab.server_address, check=False).count("6200"):
        pytest.skip("the kernel cannot destroy sockets (INET_DIAG_DESTROY)")
    lost = pair.cproxy.event("lost")
    assert pair.cproxy.event("resumed").at - lost.at < 1 + SLOWNESS_S
    going.goes_on(more=1000)
    going.finish()


def test_application_may_connect_during_an_outage(pair, traffic):
    """Goal: a connection that is made while the network is away is served when it is back, with what it sent."""
    going = traffic()
    pair.lab.wifi.pull()
    pair.cproxy.event("lost")
    app = pair.app(CPROXY_PORT)
    app.sendall(b"early bird")
    app.settimeout(0.5)
    with pytest.raises(socket.timeout):
        app.recv(1)
    pair.lab.wifi.give(6)
    app.settimeout(10)
    assert read_exactly(app, 10) == b"early bird"
    going.finish()


def test_application_on_either_loopback_address(pair, lab):
    """Goal: an application on IPv6 loopback is served like one on IPv4."""
    pair.echo(DAEMON_PORT)
    pair.start()
    for address in ("127.0.0.1", "::1"):
        app = lab.client.connect(CPROXY_PORT, address)
        app.sendall(b"x")
        assert read_exactly(app, 1) == b"x"
    assert until(lambda: len(pair.cproxy.events("connected")) == 1, 10, "one session for both")
