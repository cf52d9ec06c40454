"""mproxy relay: when silent peers are probed."""

import re

import pytest
from lab import until
from relays import ECHO_PORT, RELAY, SERVER, echoes, start_echo


def timers(host):
    """Seconds until the next probe, of the relay's established connections: {port of the peer or ours: seconds}."""
    found = {}
    for line in host.run("ss", "-tnoH", "state", "established").splitlines():
        timer = re.search(r"timer:\(keepalive,([\d.]+)(min|sec|ms)", line)
        ports = [address.rpartition(":")[2] for address in line.split()[2:4]]
        scale = {"min": 60, "sec": 1, "ms": 0.001}
        for port in ports:
            found[port] = float(timer[1]) * scale[timer[2]] if timer else None
    return found


@pytest.mark.parametrize("words, low, high", [("keepalive=5s", 0, 5.1), ("keepalive=20m,5s,2", 1100, 1201)])
def test_both_sides_are_probed_as_the_rule_says(lab, relay, words, low, high):
    start_echo(lab.server)
    relay.start(f"7005 -> {SERVER}:{ECHO_PORT} {words}")
    with lab.client.connect(7005, RELAY) as connection:
        assert echoes(connection)

        def probed():
            found = timers(lab.router)
            return all(found.get(port) is not None and low <= found[port] <= high for port in ("7005", f"{ECHO_PORT}"))
        until(probed, 10, "both are probed in time")


def test_nobody_is_probed(lab, relay):
    start_echo(lab.server)
    relay.start(f"7005 -> {SERVER}:{ECHO_PORT} keepalive=0")
    with lab.client.connect(7005, RELAY) as connection:
        assert echoes(connection)
        until(lambda: {**timers(lab.router), "": 1}.get("7005", 1) is None, 10, "no timer")
        assert timers(lab.router)[f"{ECHO_PORT}"] is None
