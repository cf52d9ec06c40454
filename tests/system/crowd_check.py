"""A thousand hostile sessions beside a well-behaved one."""

import sys

import pytest
from lab import HERE
from proxies import PEERS, SPROXY_PORT
from traffic import Flow
from wire_peer import MIB

CROWD = HERE / "crowd.py"
SESSIONS = 1000
LIMIT_BYTES = 512 * MIB
SECONDS = 6


@pytest.fixture
def carrier_options():
    """The crowd speaks the protocol itself, without TLS."""
    return ["--plaintext"]


def test_a_thousand_hostile_sessions(pair, lab):
    """Goal: windows full, never reading, thousands of streams, resumes without end, from 1,000 sessions at once: sproxy
    stays below --memory-limit, and a session beside them keeps half of what it had alone. (The crowd and its daemon
    would have processors of their own; here they share these, hence nice.)"""
    lab.server.run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65000")
    daemon = lab.server.start("nice", "-n", "19", sys.executable, PEERS, "echo", 7008)
    daemon.expect("^ready$")
    with lab.server.listen(7007) as listener:
        pair.start(sproxy=("--max-sessions", str(SESSIONS + 10), "--max-unfinished", "1000", "--max-streams", "2000",
                           "--allow", "127.0.0.1:7007", "--memory-limit", "512MiB"),
                   cproxy=("--target", "127.0.0.1:7007"), daemon="127.0.0.1:7008")
        flow = Flow(*pair.joined(listener))
        flow.rate(1)
        alone = flow.rate(SECONDS)
        crowd = lab.client.start("nice", "-n", "19", sys.executable, CROWD, lab.server_address, SPROXY_PORT, SESSIONS)
        crowd.expect(f"^ready {SESSIONS}$", within=120)
        most = 0
        beside = []
        for _ in range(SECONDS * 2):
            beside.append(flow.rate(0.5))
            most = max(most, pair.sproxy.status("VmRSS"))
        flow.stop(60)
    rate = sum(beside) / len(beside)
    print(f"alone {alone / 1e6:.0f} MB/s, beside {rate / 1e6:.0f} MB/s, at most {most / MIB:.0f} MiB")
    assert most < LIMIT_BYTES
    assert rate > alone / 2
    assert crowd.running
