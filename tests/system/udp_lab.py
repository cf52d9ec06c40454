"""A UDP relay in a thread of the test, and the servers and clients at its two ends."""

import contextlib
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading

from lab import enter, until
from tests.drivers._relay import gathering_count

from mproxy.io._loop import Loop
from mproxy.io._socket import Target
from mproxy.relay.rules import Rule, RuleOptions
from mproxy.relay.udp._udp_relay import UdpRelay

UDP_SEGMENT = 103  # linux/udp.h; Python has no names for these two
IP_PKTINFO = 8
BUFFER = 4 << 20  # of a socket, where the system allows it
PATIENCE = 20

FLOOD = """
import itertools, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("127.0.0.1", int(sys.argv[1])))
    for number in itertools.count():
        sock.send(number.to_bytes(8, "big") * 16)
"""


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def udp_socket(host, address="127.0.0.1", port=0, timeout=PATIENCE):
    """A bound socket in `host`; with address None an unbound one of IPv4."""
    with host.inside():
        sock = socket.socket(family_of(address) if address else socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.settimeout(timeout)
    if address:
        sock.bind((address, port))
    return sock


def client_of(host, address, port, source=None, own_port=0):
    """A socket in `host` connected to the relay: it takes replies from that very address and port alone."""
    sock = udp_socket(host, source or ("::" if ":" in address else "0.0.0.0"), own_port)
    sock.connect((address, port))
    return sock


def answers(sock, data):
    """Sends `data` and returns what comes back."""
    sock.send(data)
    return sock.recv(70_000)


def is_silent(sock, seconds=0.3):
    """Whether nothing comes for a while."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
        return False
    except (TimeoutError, ConnectionError):
        return True
    finally:
        sock.settimeout(PATIENCE)


def send_train(sock, data, segment):
    """One sendmsg that the kernel cuts into packets of `segment` bytes."""
    sock.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", segment))])


@contextlib.contextmanager
def flood(host, port):
    """A process that sends packets of 128 bytes, its number in each 8 of them, as fast as it can."""
    with host.inside():
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", FLOOD, str(port)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def send_from(sock, source, data, receiver):
    """Sends from another of this host's IPv4 addresses."""
    info = struct.pack("@i4s4s", 0, ipaddress.ip_address(source).packed, bytes(4))
    sock.sendmsg([data], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, receiver)


class Echo:
    """Sends every packet back, with `mark` in front, in a thread. `peers`: the addresses it saw."""

    def __init__(self, host, address="127.0.0.1", port=0, mark=b""):
        self.sock = udp_socket(host, address, port, timeout=0.1)
        self.address, self.port = self.sock.getsockname()[:2]
        self.peers = set()
        self._mark = mark
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stopping:
            try:
                data, peer = self.sock.recvfrom(70_000)
            except TimeoutError:
                continue
            self.peers.add(peer)
            self.sock.sendto(self._mark + data, peer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stopping = True
        self._thread.join()
        self.sock.close()


class RelayThread:
    """UdpRelay on a loop of its own in the network of `host`; `events` is what its observer was told."""

    def __init__(self, host, max_flows=1000):
        self.events = []
        self.loop = Loop()
        self._host = host
        self.relay = UdpRelay(self.loop, self, max_flows)
        self._keys = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        enter(self._host.net)
        self.loop.run()

    def __getattr__(self, name):
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *arguments: self.events.append((name, *arguments))

    def call(self, function, *arguments):
        """Runs a function in the loop's thread; returns or raises what it does."""
        done = threading.Event()
        result = []

        def run():
            try:
                result.extend((function(*arguments), None))
            except Exception as error:
                result.extend((None, error))
            done.set()
        self.loop.call_soon_threadsafe(run)
        assert done.wait(PATIENCE), "the relay's loop stands still"
        if result[1] is not None:
            raise result[1]
        return result[0]

    def rule(self, targets, address="127.0.0.1", port=0, **options):
        """Adds a rule; returns (its key, its port). targets: [(address, port)]."""
        with self._host.inside():
            listener = socket.socket(family_of(address), socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        port = listener.getsockname()[1]
        self._keys += 1
        options.setdefault("idle_timeout_us", 60_000_000)
        named = tuple((target or "unresolved.test", target_port) for target, target_port in targets)
        rule = Rule(1, "udp", address, port, named, RuleOptions(**options))
        self.call(self.relay.add, self._keys, rule, [listener.fileno()])
        listener.close()
        self.aim(self._keys, targets)
        return self._keys, port

    def aim(self, key, targets):
        """Sets the targets; an address None is a name that does not resolve yet."""
        self.call(self.relay.set_targets, key, [
            Target(f"{address}:{port}", [(family_of(address), (address, port, 0, 0)[:4 if ":" in address else 2])]
                   if address else [])
            for address, port in targets])

    def aim_name(self, key, port, *addresses):
        """Makes a name with these addresses the only target."""
        self.call(self.relay.set_targets, key, [
            Target(f"name:{port}", [(family_of(address), (address, port, 0, 0)[:4 if ":" in address else 2])
                                    for address in addresses])])

    def named(self, event):
        """The target of each such event."""
        return [target for name, _key, target, *_ in self.events if name == event]

    def stats(self, key):
        return self.call(self.relay.stats, key)

    def count(self):
        return self.call(lambda: self.relay.count)

    def reaches(self, key, **wanted):
        """Waits until the stats of a rule have these values."""
        def good():
            stats = self.stats(key)
            return stats if all(stats[name] == value for name, value in wanted.items()) else None
        with contextlib.suppress(AssertionError):
            return until(good, PATIENCE, "")
        raise AssertionError(f"wanted {wanted}, have {self.stats(key)}")

    def gathering(self):
        return self.call(lambda: gathering_count(self.relay))

    def close(self):
        self.call(self.relay.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))
