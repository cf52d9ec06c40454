"""The lab: three hosts in network namespaces, and the ways in which a network fails.

    client -- wifi --+
                     router -- core -- server
    client -- phone -+

A host is a network and a mount namespace kept by a holder process (_holder.py), without a name that two runs could both
want. `Link` takes an address away, gives another, and turns into a silent black hole. Programs run inside a host with
`Host.start`; sockets of the test itself are opened inside one with `Host.connect` and `Host.listen`, since a socket
belongs to the namespace it was made in, whoever reads it.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from program import Program, PtyProgram

HERE = Path(__file__).parent

# What the sanitizers keep of freed memory, on their build: .ci/asan bounds it.
KEPT_BYTES = 128 << 20 if "MPROXY_REPORTS" in os.environ else 0
# What a bad access is answered with. The sanitizers would take it for one, and report it: there it is another signal
# that ends a process.
CRASH = signal.SIGSYS if "MPROXY_REPORTS" in os.environ else signal.SIGSEGV
# What a busy machine may add to a figure that is promised.
SLOWNESS_S = 3

CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def as_nobody():
    """Prefix that runs a program as nobody, but able to read all files, since Python can be installed anywhere."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def outage(seconds):
    """Sleeps for as long as the network is away: a part of the scenario, not a wait for something."""
    time.sleep(seconds)


def pause(seconds):
    """The same for a pace: bytes that come now and then, a reader that is slow, a moment that may be any."""
    time.sleep(seconds)


def until(condition, within, what):
    """Polls `condition` until it is true; AssertionError naming `what` after `within` seconds. Returns its value."""
    end = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {within} s: {what}"
        time.sleep(0.005)
    return value


class Host:
    """One namespace pair. `home` is its directory: HOME and TMPDIR of what runs in it; XDG directories lie there."""

    def __init__(self, name, directory):
        self.name = name
        self.home = directory / name
        etc = self.home / "etc"
        etc.mkdir(parents=True)
        self.hosts_file = etc / "hosts"
        self.hosts_file.write_text("127.0.0.1 localhost\n::1 localhost\n")
        (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\nhosts: files\n")
        self.programs = []
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--", sys.executable, "-I", "-S", HERE / "_holder.py", etc],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.net = None

    def wait_until_ready(self):
        """Waits for the namespaces. OSError where they are not allowed."""
        if self.holder.stdout.readline() != "ready\n":
            raise OSError(f"no namespaces: holder of {self.name} ended with {self.holder.wait()}")
        self.net = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def entering(self, argv):
        """`argv` with the prefix that runs it in this host; the prefix execs, so the pid is the program's."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", f"--wd={self.home}", "--",
                *map(str, argv)]

    def environment(self, extra=None):
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "SSH_", "XDG_"))}
        runtime = self.home / "runtime"
        runtime.mkdir(exist_ok=True)
        return {**keep, "HOME": str(self.home), "TMPDIR": str(self.home), "LC_ALL": "C", "TERM": "dumb",
                "XDG_STATE_HOME": str(self.home / "state"), "XDG_RUNTIME_DIR": str(runtime), **(extra or {})}

    def run(self, *argv, input=None, check=True):
        """Runs a command to its end; returns what it printed."""
        done = subprocess.run(self.entering(argv), input=input, env=self.environment(), text=True, timeout=30,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert not check or done.returncode == 0, f"{argv} in {self.name}: {done.stdout}"
        return done.stdout

    def ip(self, *lines, family=()):
        """Runs lines of `ip -batch`, as one process: address and route appear in the same moment."""
        with self.inside():
            done = subprocess.run(["ip", *family, "-batch", "-"], input="\n".join(lines) + "\n", text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
        assert done.returncode == 0, f"ip in {self.name}: {lines}: {done.stdout}"

    def start(self, *argv, env=None, **options):
        program = Program(self.entering(argv), env=self.environment(env), **options)
        self.programs.append(program)
        return program

    def start_on_terminal(self, *argv, env=None):
        program = PtyProgram(self.entering(argv), env=self.environment(env))
        self.programs.append(program)
        return program

    @contextlib.contextmanager
    def inside(self):
        """The calling thread is in this host's network; sockets and processes made here stay in it."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(self.net)
            yield
        finally:
            enter(back)
            os.close(back)

    def connect(self, port, address="127.0.0.1", timeout=15):
        with self.inside():
            connection = socket.create_connection((address, port), timeout=timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def listen(self, port, address="127.0.0.1", backlog=1024):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside():
            listener = socket.create_server((address, port), family=family, backlog=backlog)
        listener.settimeout(15)
        return listener

    def command_lines(self):
        """Those of all processes in this host, whoever started them."""
        return self.processes().values()

    def processes(self):
        """{process: its command line} of the same."""
        mine = os.readlink(f"/proc/{self.holder.pid}/ns/net")
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns/net") == mine:
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(process.name)] = line
        return found

    def knows(self, **names):
        """Sets names in this host's /etc/hosts, each with one or several addresses, separated by spaces. The file is
        rewritten in place, because it is mounted."""
        lines = [f"{address} {name}\n" for name, addresses in names.items() for address in addresses.split()]
        self.hosts_file.write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(lines))

    def kill(self):
        """Ends the programs, and tells the holder to end whatever they have left."""
        for program in self.programs:
            program.close()
        self.holder.stdin.close()

    def close(self):
        self.holder.wait(timeout=30)
        self.holder.stdout.close()
        if self.net is not None:
            os.close(self.net)


def enter(namespace):
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Link:
    """A cable from `end` to the router. Networks: 10.NET.0.0/24 and fd00:NET::/64, the router is number 1."""

    def __init__(self, name, end, router, net):
        self.name, self.end, self.router, self.net = name, end, router, net

    def laid(self):
        """What makes the cable, as lines for `ip` on the router; on its other end, it has to be set up besides."""
        return (f"link add {self.name} type veth peer name {self.name} netns {self.end.holder.pid}",
                f"link set {self.name} up", f"addr add {self.address(1)}/24 dev {self.name}",
                f"addr add {self.address6(1)}/64 dev {self.name} nodad")

    def address(self, number):
        return f"10.{self.net}.0.{number}"

    def address6(self, number):
        return f"fd00:{self.net}::{number}"

    def give(self, number, metric=None):
        """Adds both addresses with that number, and default routes; of two links the lower metric is used (wifi)."""
        self.end.ip(*self.given(number, metric))

    def given(self, number, metric=None):
        """The lines of `give`."""
        return (f"addr add {self.address(number)}/24 dev {self.name}",
                f"addr add {self.address6(number)}/64 dev {self.name} nodad",
                *self.routes(metric or self.net * 100))

    def routes(self, metric):
        """Default routes through this link, as `ip` takes them."""
        return (f"route replace default via {self.address(1)} dev {self.name} metric {metric}",
                f"route replace default via {self.address6(1)} dev {self.name} metric {metric}")

    def pull(self):
        """Takes the addresses away, and with them the routes."""
        self.end.ip(f"addr flush dev {self.name} scope global",
                    f"route del default via {self.address6(1)} dev {self.name}")

    def unplug(self):
        self.end.ip(f"link set {self.name} down")

    def plug(self, number):
        """Up again, with the same number: the kernel keeps IPv4 addresses, but neither IPv6 ones nor routes."""
        self.end.ip(f"link set {self.name} up", f"addr replace {self.address6(number)}/64 dev {self.name} nodad",
                    *self.routes(self.net * 100))

    def cut(self):
        """From now on every packet through this link vanishes: no event, no RST, no ICMP."""
        self._black_hole("add")

    def mend(self):
        self._black_hole("del")

    def _black_hole(self, verb):
        for family, network in (("-4", f"10.{self.net}.0.0/24"), ("-6", f"fd00:{self.net}::/64")):
            self.router.ip(f"rule {verb} pref {self.net} from {network} blackhole",
                           f"rule {verb} pref {self.net + 100} to {network} blackhole", family=[family])

    def shape(self, rate):
        """Limits both directions to `rate`, in tc's units (`200mbit`), with a queue of 50 ms."""
        for host in (self.end, self.router):
            host.run("tc", "qdisc", "replace", "dev", self.name, "root", "tbf", "rate", rate,
                     "burst", "256kb", "latency", "50ms")


class Lab:
    """Context manager over the whole network of the picture above; wifi and core have addresses at the start."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.hosts = []

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def _build(self):
        for name in ("client", "router", "server"):
            self.hosts.append(Host(name, self.directory))
        for host in self.hosts:
            host.wait_until_ready()
        self.client, self.router, self.server = self.hosts
        with self.router.inside():
            for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", setting).write_text("1")
        self.wifi = Link("wifi", self.client, self.router, 1)
        self.phone = Link("phone", self.client, self.router, 2)
        self.core = Link("core", self.server, self.router, 3)
        # All that one host needs at once: this is done for every test.
        lo = "link set lo up"
        self.router.ip(lo, *self.wifi.laid(), *self.phone.laid(), *self.core.laid())
        self.client.ip(lo, "link set wifi up", "link set phone up", *self.wifi.given(2))
        self.server.ip(lo, "link set core up", *self.core.given(2))
        self.server_address = self.core.address(2)

    def __exit__(self, *_):
        self.close()

    def close(self):
        for host in self.hosts:
            host.kill()
        for host in self.hosts:
            host.close()
        self.hosts = []
