"""Client, relay and server as hosts of their own: three network namespaces joined by veth pairs."""

from __future__ import annotations

import os
import subprocess

from harness.places import run
from harness.process import StartError

COALESCING_US = 50  # how long a card may keep packets to join them; drivers have 20 to 250


class ThreeHosts:
    """Namespaces client, relay and server; 10.78.1.0/24 between the first two, 10.78.2.0/24 between the last two."""

    relay_address, server_address = "10.78.1.1", "10.78.2.2"

    def __init__(self, tag: str):
        self.client, self.relay, self.server = (f"bench-{os.getpid()}-{tag}-{end}" for end in ("c", "r", "s"))

    def __enter__(self) -> ThreeHosts:
        for name in (self.client, self.relay, self.server):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for end, net, own in ((self.client, 1, "10.78.1.2"), (self.server, 2, self.server_address)):
            run("ip", "-n", end, "link", "add", "cable", "type", "veth", "peer", "name", f"port{net}", "netns",
                self.relay)
            for host, device, address in ((end, "cable", own), (self.relay, f"port{net}", f"10.78.{net}.1")):
                run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", device)
                run("ip", "-n", host, "link", "set", device, "up")
            run("ip", "-n", end, "route", "add", "default", "via", f"10.78.{net}.1")
        return self

    def plug_in_cards(self) -> None:
        """Every end of a cable receives as a network card does: in the kernel's own time, runs of packets joined.

        Otherwise veth calls the receiver's stack from within the sender's system call, a packet at a time. It leaves
        that to its NAPI poll only where the other end says that it cuts its segments itself (tso off).
        """
        ends = (self.client, "cable"), (self.relay, "port1"), (self.relay, "port2"), (self.server, "cable")
        settings = f"echo 1 > $1/threaded && echo {COALESCING_US * 1000} > $1/gro_flush_timeout"
        for host, device in ends:
            inside = "ip", "netns", "exec", host
            try:
                run(*inside, "ethtool", "-K", device, "tso", "off", "gro", "on")
                run(*inside, "sh", "-c", settings, "sh", f"/sys/class/net/{device}")
            except subprocess.CalledProcessError as error:
                raise StartError(f"veth can't be made to receive like a card: {error.stderr.strip()}") from error

    def __exit__(self, *_exception) -> None:
        for name in (self.client, self.relay, self.server):
            run("ip", "netns", "del", name)
