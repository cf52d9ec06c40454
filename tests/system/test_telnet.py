"""A real telnet session: the oldest use of these programs, with the client's address pulled away."""

import re
import shutil
import time

import pytest
from lab import outage, until

TELNETD = shutil.which("telnetd") or shutil.which("in.telnetd") or "/usr/sbin/telnetd"
TELNETD_PORT = 2323

needs_telnet = pytest.mark.skipif(not (shutil.which("telnet") and shutil.which(TELNETD)),
                                  reason="no inetutils-telnet and inetutils-telnetd")


def log_in(pair):
    """A telnet client on a terminal, at the prompt of a shell on the server. No login is asked for."""
    telnet = pair.lab.client.start_on_terminal("telnet", "127.0.0.1", 5200)
    telnet.expect(r"[#$] $")
    return telnet


def sequence_numbers(telnet):
    return [int(number) for number in re.findall(r"icmp_seq=(\d+) ", telnet.out.text)]


@pytest.fixture
def telnetd(pair):
    return pair.peer("inetd", TELNETD_PORT, TELNETD, "-h", "-E", "/bin/sh")


@needs_telnet
@pytest.mark.parametrize("heartbeat", ["1s", "100ms"])
def test_running_ping_keeps_every_line_while_the_address_changes(pair, telnetd, heartbeat):
    """Goal: `ping -i 0.2` in a telnet session shows every icmp_seq once and in order, though the client's address
    was away for 8 s and came back as another one."""
    pair.start(sproxy=["--heartbeat", heartbeat], cproxy=["--heartbeat", heartbeat],
               daemon=f"127.0.0.1:{TELNETD_PORT}")
    telnet = log_in(pair)
    telnet.type("ping -i 0.2 127.0.0.1\r")
    telnet.expect("icmp_seq=10 ")

    pair.lab.wifi.pull()
    seen = len(sequence_numbers(telnet))
    outage(8)
    assert len(sequence_numbers(telnet)) <= seen + 1, "the outage was none"
    pair.lab.wifi.give(77)
    given_at = time.monotonic()

    until(lambda: len(sequence_numbers(telnet)) >= seen + 38, 5, "what ping wrote in the meantime")
    assert time.monotonic() - given_at < 2
    live = sequence_numbers(telnet)[-1] + 10
    telnet.expect(f"icmp_seq={live} ")
    telnet.type("\x03")
    telnet.expect(", 0% packet loss")
    telnet.type("exit\r")
    assert telnet.wait() is not None
    numbers = sequence_numbers(telnet)
    assert numbers == list(range(1, len(numbers) + 1))

    assert pair.cproxy.event("resumed")["local"].startswith(pair.lab.wifi.address(77) + ":")
    assert len(pair.cproxy.events("lost")) == len(pair.cproxy.events("resumed")) == 1


@needs_telnet
def test_keys_typed_during_the_outage_arrive(pair, telnetd):
    """Goal: what is typed while the network is away is executed when it is back, once."""
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
