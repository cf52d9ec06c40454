"""A real telnet session, the oldest use of these programs, while the client's address changes."""

import re
import shutil

import pytest
from lab import SLOWNESS_S, outage
from proxies import CPROXY_PORT

TELNETD = shutil.which("telnetd") or shutil.which("in.telnetd") or "/usr/sbin/telnetd"
TELNETD_PORT = 2323

needs_telnet = pytest.mark.skipif(not (shutil.which("telnet") and shutil.which(TELNETD)),
                                  reason="no inetutils-telnet and inetutils-telnetd")


def log_in(pair, port=CPROXY_PORT):
    """A telnet client on a terminal, at the prompt of a shell on the server, without a login."""
    telnet = pair.lab.client.start_on_terminal("telnet", "127.0.0.1", port)
    telnet.expect(r"[#$] $")
    return telnet


def sequence_numbers(telnet):
    return [int(number) for number in re.findall(r"icmp_seq=(\d+) ", telnet.out.text)]


@pytest.fixture
def telnetd(pair):
    return pair.peer("inetd", TELNETD_PORT, TELNETD, "-h", "-E", "/bin/sh")


@pytest.mark.long
@needs_telnet
def test_running_ping_keeps_every_line_while_the_address_changes(pair, telnetd):
    """Goal: `ping -i 0.2` in a telnet session shows every icmp_seq once and in order, though the client's address
    was away for 8 s and came back as another one. Twice at the same time: with the default heartbeat and 100 ms."""
    pings = []
    for port, heartbeat in ((CPROXY_PORT, "1s"), (CPROXY_PORT + 1, "100ms")):
        pair.start_sproxy("--heartbeat", heartbeat, port=port + 1000, daemon=f"127.0.0.1:{TELNETD_PORT}")
        pair.start_cproxy("--heartbeat", heartbeat, port=port, server_port=port + 1000)
        pings.append((log_in(pair, port), pair.cproxy))
    for telnet, _ in pings:
        telnet.type("ping -i 0.2 127.0.0.1\r")
    for telnet, _ in pings:
        telnet.expect("icmp_seq=10 ")

    pair.lab.wifi.pull()
    seen = [len(sequence_numbers(telnet)) for telnet, _ in pings]
    outage(8)
    for (telnet, _), before in zip(pings, seen, strict=True):
        assert len(sequence_numbers(telnet)) <= before + 1, "the outage was none"
    pair.lab.wifi.give(77)
    for (telnet, cproxy), before in zip(pings, seen, strict=True):
        telnet.expect(f"icmp_seq={before + 38} ", within=2 + SLOWNESS_S)
        finish(telnet)
        assert cproxy.event("resumed")["local"].startswith(pair.lab.wifi.address(77) + ":")
        if "carrier" not in cproxy.event("connected").fields:  # over UDP a slow host may find a second carrier as well
            assert len(cproxy.events("lost")) == len(cproxy.events("resumed")) == 1


def finish(telnet):
    """Lets ping go on for a while, ends it and the session, and checks the output."""
    telnet.expect(f"icmp_seq={sequence_numbers(telnet)[-1] + 10} ")
    telnet.type("\x03")
    telnet.expect(", 0% packet loss")
    telnet.type("exit\r")
    telnet.wait()
    numbers = sequence_numbers(telnet)
    assert numbers == list(range(1, len(numbers) + 1))


@needs_telnet
def test_keys_typed_during_the_outage_arrive(pair, telnetd):
    """Goal: what is typed while the network is away is executed once when it is back."""
    pair.start(daemon=f"127.0.0.1:{TELNETD_PORT}")
    telnet = log_in(pair)
    pair.lab.wifi.pull()
    telnet.type("echo one$((1 + 1))three\r")
    outage(1)
    assert "one2three" not in telnet.out.text
    pair.lab.wifi.give(3)
    telnet.expect("^one2three$")
    telnet.type("exit\r")
    telnet.expect("Connection closed by foreign host")
    assert telnet.out.text.count("one2three") == 1
