"""A thousand hostile sessions beside a well-behaved one."""

import signal
import statistics
import sys

import pytest
from lab import HERE, KEPT_BYTES
from proxies import PEERS, SPROXY_PORT
from traffic import Flow
from wire_peer import MIB

CROWD = HERE / "crowd.py"
SESSIONS = 1000
LIMIT_BYTES = 512 * MIB + 2 * KEPT_BYTES  # the sanitizers also put something around every piece
QUIET_PORT, FULL_PORT = 7008, 7009  # daemons of the crowd: one says little, one fills its windows
NICE = ("nice", "-n", "19", sys.executable)
SECONDS = 1
FEWEST, MOST = 3, 15  # how often both rates are compared


@pytest.mark.long
def test_a_thousand_hostile_sessions(pair, lab, carrier_options):
    """Goal: windows full, never reading, thousands of streams, resumes without end, from 1,000 sessions at once: sproxy
    stays below --memory-limit, no well-behaved session loses its carrier, and its bytes go on, half as fast at least.

    The crowd and its daemons would have processors of their own. Here all share what there is: so they are nice, and
    the crowd rests most of the time once it is complete. It still costs sproxy more time than itself. Other programs
    may be busy, too: so the rates beside the running crowd and beside the stopped one are compared second by second.
    """
    lab.server.run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 64999")
    for port, count in ((QUIET_PORT, 4096), (FULL_PORT, 262144)):
        lab.server.start(*NICE, PEERS, "glut", port, count).expect("^ready$")
    with lab.server.listen(7007) as listener:
        pair.start(sproxy=("--max-sessions", str(SESSIONS + 10), "--max-unfinished", "1000", "--max-streams", "2000",
                           "--allow", "127.0.0.1:7007", "--allow", f"127.0.0.1:{FULL_PORT}",
                           "--memory-limit", "512MiB"),
                   cproxy=("--target", "127.0.0.1:7007"), daemon=f"127.0.0.1:{QUIET_PORT}")
        before = rates_of(pair, listener, lambda flow: flow.rate(3 * SECONDS))
        crowd = lab.client.start(*NICE, CROWD, lab.server_address, SPROXY_PORT, SESSIONS,
                                 "plaintext" if "--plaintext" in carrier_options else "tls")
        crowd.expect(f"^ready {SESSIONS}$", within=240)
        share, beside = rates_of(pair, listener, lambda flow: beside_the_crowd(flow, crowd))
        most = pair.sproxy.status("VmHWM")
        assert crowd.running
        crowd.close()
        after = rates_of(pair, listener, lambda flow: flow.rate(3 * SECONDS))
    print(f"before {before / 1e6:.0f} MB/s, beside {beside / 1e6:.0f} MB/s ({share:.2f} of what a stopped one leaves),"
          f" after {after / 1e6:.0f} MB/s, sproxy's memory {most / MIB:.0f} MiB at most")
    assert most < LIMIT_BYTES
    assert share >= 0.5
    assert beside >= min(before, after) / 4, "a stopped crowd, too, slows the session down"
    assert not pair.cproxy.events("lost")


def rates_of(pair, listener, measure):
    """What `measure` says of one connection that sends as fast as it can; every byte is checked."""
    flow = Flow(*pair.joined(listener))
    flow.rate(SECONDS)
    measured = measure(flow)
    flow.stop(60)
    return measured


def beside_the_crowd(flow, crowd):
    """(median share that is left of the rate beside the stopped crowd, best rate beside the running one)."""
    shares, rates = [], []
    while len(shares) < FEWEST or (statistics.median(shares) < 0.5 and len(shares) < MOST):
        rates.append(flow.rate(SECONDS))
        crowd.signal(signal.SIGSTOP)
        shares.append(rates[-1] / flow.rate(SECONDS))
        crowd.signal(signal.SIGCONT)
    return statistics.median(shares), max(rates)
