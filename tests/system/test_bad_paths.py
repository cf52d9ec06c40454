"""Paths that half work: they are slow, drop large packets, lose their NAT entries, lead nowhere, or come back."""

import shutil
import signal
import time

import pytest
from lab import SLOWNESS_S, outage, until
from long_cable import LongCable, need_tun
from proxies import CPROXY_PORT, DAEMON_PORT, OVER_TCP, SPROXY_PORT, state_dir
from traffic import Flow, Traffic, ends_by_reset, read_exactly

# For so long a key is refused until that is the last word: refusals.KEY_REFUSED_US.
KEY_REFUSED_S = 5

MIB = 1 << 20

# What reaches sproxy's port goes to the next one; existing connections are reset, or hear nothing more.
ELSEWHERE = f"""table ip t {{ chain c {{ type nat hook prerouting priority -100;
meta l4proto {{ tcp, udp }} th dport {SPROXY_PORT} redirect to :{SPROXY_PORT + 1}; }};
chain d {{ type filter hook input priority 0; tcp dport {SPROXY_PORT} reject with tcp reset; }};
chain e {{ type filter hook output priority -150; udp sport {SPROXY_PORT} drop; }}; }}"""

# ICMP that would tell of a narrow path is filtered, and the path is narrower than what leads to it.
NO_ICMP = """table inet t { chain o { type filter hook output priority 0;
icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }"""


@pytest.fixture
def session(pair):
    """An application that has typed and been echoed, through a pair with these options."""
    def start(*options, server=None):
        pair.echo()
        pair.start_sproxy(*options)
        pair.start_cproxy(*options, server=server)
        return typed(pair.app())
    return start


def typed(app, text=b"key"):
    """Types, and reads the echo."""
    app.sendall(text)
    assert read_exactly(app, len(text)) == text
    return app


def answered_within(app, seconds, text=b"key"):
    """Types and returns how long the echo took, at most `seconds`."""
    begun = time.monotonic()
    typed(app, text)
    took = time.monotonic() - begun
    assert took < seconds + SLOWNESS_S, f"{took:.1f} s"
    return took


def long_cable(ends, end, router, delay_s):
    """A further link of `end`, with the address number 2."""
    need_tun()
    cable = LongCable(end, router, 4, delay_s)
    ends.callback(cable.close)
    cable.give(2)
    return cable


@pytest.fixture
def slow_cable(lab, ends):
    """The client's only path: a round trip takes 7 s."""
    lab.wifi.pull()
    return long_cable(ends, lab.client, lab.router, 3.5)


@pytest.mark.long
@pytest.mark.parametrize("carrier_options", [OVER_TCP, []], ids=["tls", "udp"])
def test_seven_seconds_to_and_fro(pair, slow_cable):
    """Goal: with a round trip of 7 s the first contact takes four (SYN, TLS, HELLO, key), and no carrier is lost."""
    pair.echo()
    pair.start()
    app = pair.app()
    app.settimeout(60)
    answered_within(app, 40)
    assert not pair.cproxy.events("dial-failed")
    assert not pair.cproxy.events("lost")
    assert not pair.sproxy.events("lost")


def make_narrow(lab, link, mtu):
    """From now on the router drops larger packets on this link, and nobody is told."""
    lab.router.run("nft", "-f", "-", input=NO_ICMP)
    for host in (lab.client, lab.server):
        host.run("sysctl", "-qw", "net.ipv4.tcp_mtu_probing=0")
    lab.router.ip(f"link set {link.name} mtu {mtu}")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("narrow", ["core", "wifi"], ids=["up", "down"])
def test_full_packets_vanish(pair, session, narrow, family):
    """Goal: a path begins to drop packets above 1,280 bytes in the middle of a copy: this goes on within 10 s, and then
    from another address of the network, too."""
    core, wifi = pair.lab.core, pair.lab.wifi
    app = session(server=core.address(2) if family == 4 else core.address6(2))
    traffic = Traffic([app])
    traffic.goes_on(more=100_000)
    make_narrow(pair.lab, getattr(pair.lab, narrow), 1280)
    begun = time.monotonic()
    traffic.goes_on(more=1_000_000)
    assert time.monotonic() - begun < 10 + SLOWNESS_S
    wifi.pull()
    wifi.give(9)
    traffic.goes_on(more=1_000_000)
    traffic.finish()


def test_full_packets_of_sproxy_vanish_while_cproxy_only_listens(pair, lab):
    """Goal: as above, for a daemon that sends and an application that reads: it is sproxy that must send less."""
    with lab.server.listen(DAEMON_PORT) as daemon:
        pair.start()
        app, connection = pair.joined(daemon)
    flow = Flow(connection, app)
    until(lambda: flow.received > MIB, 10, "a copy")
    make_narrow(lab, lab.wifi, 1280)
    before = flow.received
    until(lambda: flow.received > before + 16 * MIB, 10 + SLOWNESS_S, "the copy goes on")
    flow.stop()


@pytest.mark.parametrize("kind", ["many streams", "few"])
def test_a_session_comes_to_a_narrow_path(pair, lab, kind):
    """Goal: full packets vanish in the network to which the client has changed, also those in which a list of many
    streams is said: a copy goes on within 10 s."""
    pair.echo()
    pair.start()
    apps = [typed(pair.app()) for _ in range(1000 if kind == "many streams" else 1)]
    traffic = Traffic([pair.app()])
    traffic.goes_on(more=100_000)
    make_narrow(lab, lab.phone, 1280)
    lab.wifi.pull()
    lab.phone.give(5)
    begun = time.monotonic()
    traffic.goes_on(more=10_000_000)
    assert time.monotonic() - begun < 10 + SLOWNESS_S
    traffic.finish()
    for app in apps:
        typed(app, b"more")


# Over UDP no packet of the first contact passes, so TCP does it.
@pytest.mark.parametrize(("mtu", "carrier_options"), [(576, []), (1000, OVER_TCP)], ids=["576-udp", "1000-tls"])
def test_first_contact_where_only_small_packets_pass(pair, mtu):
    """Goal: certificates and HELLO are larger than what the path takes, in both directions: the first application is
    served all the same, and a copy gets through."""
    pair.lab.router.run("nft", "-f", "-", input=NO_ICMP)
    for host in (pair.lab.client, pair.lab.server):
        host.run("sysctl", "-qw", "net.ipv4.tcp_mtu_probing=0")
    pair.lab.router.ip(f"link set core mtu {mtu}")
    pair.echo()
    pair.start()
    traffic = Traffic([pair.app()])
    traffic.goes_on(more=100_000)
    traffic.finish()
    assert not pair.cproxy.events("ended")


def test_a_forgotten_entry_is_found_by_the_next_key(pair, session):
    """Goal: when the NAT has lost its entry, a key is echoed within seconds, despite a heartbeat of a minute."""
    app = session("--heartbeat", "1m")
    port = pair.cproxy.event("connected")["local"].rpartition(":")[2]
    pair.lab.router.run("nft", "-f", "-", input=(
        "table inet t { chain c { type filter hook forward priority 0;"
        f" th dport {SPROXY_PORT} th sport {port} drop; th sport {SPROXY_PORT} th dport {port} drop; }}; }}"))
    answered_within(app, 4)
    assert pair.cproxy.event("resumed")


def test_a_silent_carrier_goes_on_when_its_path_is_back(pair, session):
    """Goal: when sproxy is frozen for a while, the carrier that was considered lost continues afterwards."""
    app = session()
    pair.sproxy.signal(signal.SIGSTOP)
    pair.cproxy.event("lost")
    outage(1)
    pair.sproxy.signal(signal.SIGCONT)
    resumed = pair.cproxy.event("resumed")
    answered_within(app, 2)
    assert resumed["resent"] == "0"
    assert len(pair.cproxy.events("connected")) == 1


@pytest.mark.parametrize("names", [{}, {"server": "10.3.0.99"}], ids=["no name service", "another answer"])
def test_the_address_that_worked_is_tried_beside_the_lookup(pair, session, names):
    """Goal: if the path is back but the name service is not, the session goes on."""
    pair.lab.client.knows(server=pair.lab.server_address)
    app = session(server="server")
    pair.lab.wifi.pull()
    pair.lab.client.knows(**names)
    outage(0.5)
    pair.lab.wifi.give(7)
    answered_within(app, 2)


@pytest.mark.parametrize("carrier_options", [OVER_TCP], ids=["tls"])
def test_a_better_route_that_leads_nowhere(pair, session):
    """Goal: if a dead cable has the better metric, the session goes on over the Wi-Fi it had."""
    app = session()
    pair.lab.phone.cut()
    pair.lab.phone.give(5, metric=10)
    resumed = pair.cproxy.event("resumed")
    assert resumed["local"].startswith(pair.lab.wifi.address(2) + ":")
    answered_within(app, 2)
    assert len(pair.cproxy.events("resumed")) == 1


@pytest.mark.parametrize("carrier_options", [[]], ids=["udp"])
def test_a_key_refused_elsewhere_is_a_hint(pair, session):
    """Goal: the address leads for a while to another sproxy with the same key, whose list does not have ours: the
    session goes on when it leads back, however often that one has said so."""
    app = session()
    copy = pair.lab.server.home / "copy"
    shutil.copytree(state_dir(pair.lab.server), copy)
    (copy / "authorized_keys").touch(mode=0o600)
    other = pair.start_sproxy("--state-dir", copy, port=SPROXY_PORT + 1)
    pair.lab.server.run("nft", "-f", "-", input=ELSEWHERE)
    app.sendall(b"key")
    other.event("refused")
    outage(KEY_REFUSED_S + 3)
    pair.lab.server.run("nft", "delete", "table", "ip", "t")
    assert read_exactly(app, 3) == b"key"
    assert "another sproxy" in pair.cproxy.event("dial-failed")["why"]
    assert not pair.cproxy.events("ended")


def test_of_two_sproxies_behind_one_name_the_own_one_is_found_again(pair, lab, ends):
    """Goal: they have the same key, and the one that does not have the session is nearer: after changes of the address
    the session goes on, and is given up by nobody."""
    far = long_cable(ends, lab.server, lab.router, 0.4)
    own = far.address(2)
    lab.client.knows(server=own)
    pair.echo()
    pair.start_sproxy("--bind", own)
    copy = lab.server.home / "copy"
    shutil.copytree(state_dir(lab.server), copy)
    pair.start_sproxy("--bind", lab.server_address, "--state-dir", copy)
    pair.start_cproxy(server="server")
    app = typed(pair.app())
    lab.client.knows(server=f"{lab.server_address} {own}")
    for change in (1, 2):
        lab.wifi.pull()
        if pair.uses_udp:  # which is only moved by a change of address
            pair.cproxy.event("lost", count=change)
        lab.wifi.give(10 + change)
        answered_within(app, 4)
        assert pair.comes_from(lab.wifi.address(10 + change))["peer"].startswith(own + ":")
    assert not pair.cproxy.events("ended")


def test_carriers_given_up_leave_nothing_in_the_kernel(pair, session):
    """Goal: after address changes under load no socket of a former carrier is left, on either side."""
    session()
    traffic = Traffic([pair.app()])
    for number in range(20, 24):
        traffic.goes_on(more=100_000)
        pair.lab.wifi.pull()
        pair.lab.wifi.give(number)
        pair.comes_from(pair.lab.wifi.address(number))
    traffic.goes_on(more=100_000)
    for host, side in ((pair.lab.client, "dport"), (pair.lab.server, "sport")):
        def sockets(host=host, side=side):
            # SYN-RECV is the kernel's alone: no program has been told of it.
            return host.run("ss", "-Htan", "state", "connected", "exclude", "syn-recv",
                            f"{side} = :{SPROXY_PORT}").splitlines()
        # A connection that stood when its address went is sproxy's until the patience for its HELLO is over (30 s), and
        # the kernel's while its end may be told to somebody (10 s).
        # Over UDP there is none, unless it was too slow for this host.
        until(lambda: len(sockets()) in ((0, 1) if pair.uses_udp else (1,)), 60, "one carrier")
    traffic.finish()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["no answer", "stopped"])
def test_first_contact_into_silence_is_told(pair, kind):
    """Goal: if SYNs vanish, or a port accepts and stays silent, the application is reset after --connect-timeout, and
    a line says why."""
    pair.start_sproxy()
    pair.start_cproxy("--connect-timeout", "2s")
    if kind == "no answer":
        pair.lab.wifi.cut()
    else:
        pair.sproxy.signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert ends_by_reset(pair.app(CPROXY_PORT))
    assert 1.9 < time.monotonic() - begun < 3 + SLOWNESS_S
    why = pair.cproxy.event("dial-failed")["why"]
    assert "within 2s" in why
    assert ("no welcome" in why) == (kind == "stopped")
