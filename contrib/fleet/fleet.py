"""The fleet of docs/fleet.md on this host: each machine is a network namespace, all on one switch.

    10.77.0.10       the address that clients know: of whichever balancer has it
    10.77.0.11, .12  balancer1, balancer2: haproxy and keepalived, with the files of this directory
    10.77.0.21...    node1, node2, node3: an sproxy each, and behind it a daemon that sends back what it is sent
    10.77.0.100      client: a crowd of cproxies (crowd.py), and the applications that check each byte

Machines are those of the system tests' lab (tests/system/lab.py): they go with the process that made them, however that
ends.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "system")]

from lab import Host, until  # noqa: E402
from peers import __file__ as PEERS  # noqa: E402
from program import last_of_line  # noqa: E402

SHARED, PORT, DAEMON_PORT = "10.77.0.10", 6200, 7007
BALANCERS, NODES = ("balancer1", "balancer2"), ("node1", "node2", "node3")
ADDRESSES = {"balancer1": "10.77.0.11", "balancer2": "10.77.0.12", "node1": "10.77.0.21", "node2": "10.77.0.22",
             "node3": "10.77.0.23", "client": "10.77.0.100"}
NEEDED = ("haproxy", "keepalived", "curl", "ip", "nft", "nsenter", "unshare")
PATIENCE_S = 30
EACH = 125  # cproxies in one process


class Fleet:
    """Context manager: two balancers, three nodes and a client, all running. `sproxy`, `cproxy`: more options."""

    def __init__(self, directory, sproxy=(), cproxy=()):
        self.directory = Path(directory)
        self.sproxy_options, self.cproxy_options = sproxy, cproxy
        self.hosts = {}
        self.sproxies, self.haproxies, self.keepaliveds = {}, {}, {}

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self):
        for name in ("switch", *ADDRESSES):
            self.hosts[name] = Host(name, self.directory)
        for host in self.hosts.values():
            host.wait_until_ready()
        self.switch, self.client = self.hosts["switch"], self.hosts["client"]
        self.switch.ip("link add switch type bridge", "link set switch up", *(
            line for name in ADDRESSES for line in (
                f"link add {name} type veth peer name eth0 netns {self.hosts[name].holder.pid}",
                f"link set {name} master switch", f"link set {name} up")))
        for name, address in ADDRESSES.items():
            self.hosts[name].ip("link set lo up", "link set eth0 up", f"addr add {address}/24 dev eth0")
        self._make_key()
        for node in NODES:
            self.start_node(node)
        for balancer in BALANCERS:
            self.start_balancer(balancer)
        until(lambda: self.balancer is not None, PATIENCE_S, "a balancer has the address")
        until(lambda: all(state == "UP" for state in self.states(self.balancer).values()), PATIENCE_S, "nodes are up")

    def __exit__(self, *_exception):
        for host in self.hosts.values():
            host.kill()
        for host in self.hosts.values():
            host.close()

    # ---- what runs

    def _make_key(self):
        """One host key for all."""
        key = self.directory / "fleet-key.pem"
        subprocess.run([ROOT / "bin" / "mproxy", "keygen", "--host", "-f", key], check=True, capture_output=True)
        for node in NODES:
            shutil.copy(key, self.hosts[node].home / "fleet-key.pem")

    def start_node(self, node):
        """Its daemon and its sproxy."""
        host = self.hosts[node]
        if not any("peers.py" in line for line in host.command_lines()):
            host.start(sys.executable, "-S", PEERS, "echo", DAEMON_PORT).expect("^ready$")
        balancers = [word for name in BALANCERS for word in ("--accept-proxy", ADDRESSES[name])]
        self.sproxies[node] = program = host.start(
            ROOT / "sproxy", "--node", node[-1], "--host-key", host.home / "fleet-key.pem", *balancers, "--routed",
            "--max-sessions", 100_000, "--max-unfinished", 4096, *self.sproxy_options, PORT,
            f"127.0.0.1:{DAEMON_PORT}")
        program.event("listening")
        return program

    def start_balancer(self, balancer):
        """Its haproxy, and its keepalived if that does not run."""
        host = self.hosts[balancer]
        self.haproxies[balancer] = host.start("haproxy", "-W", "-db", "-f", HERE / "haproxy.cfg")
        until(lambda: Path(f"/proc/{host.holder.pid}/root/run/haproxy.sock").exists(), PATIENCE_S, "haproxy answers")
        running = self.keepaliveds.get(balancer)
        if running is None or not running.running:
            self.keepaliveds[balancer] = host.start(
                "keepalived", "--dont-fork", "--log-console", "--config-id", balancer, "--use-file",
                HERE / "keepalived.conf", "--no-syslog")

    # ---- what is seen

    @property
    def balancer(self):
        """The balancer that has the address; None while none has, or both."""
        found = [name for name in BALANCERS if SHARED in self.hosts[name].run("ip", "-4", "addr", check=False)]
        return found[0] if len(found) == 1 else None

    def ask_haproxy(self, balancer, command):
        """What haproxy's stats socket answers."""
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(5)
            asked.connect(f"/proc/{self.hosts[balancer].holder.pid}/root/run/haproxy.sock")
            asked.sendall(command.encode() + b"\n")
            answer = b"".join(iter(lambda: asked.recv(65536), b""))
        return answer.decode(errors="replace")  # it repeats what a node has answered to a check

    def states(self, balancer):
        """How that balancer finds the nodes: {name: UP, DOWN...}; nothing if it does not answer."""
        try:
            lines = [line.split(",") for line in self.ask_haproxy(balancer, "show stat").splitlines()]
        except OSError:
            return {}
        return {line[1]: line[17].split()[0] for line in lines if line[0] == "sproxies" and line[1] in NODES}

    def connections(self):
        """How many of each node the balancer has that leads clients to it: {name: count}."""
        lines = [line.split(",") for line in self.ask_haproxy(self.balancer, "show stat").splitlines()]
        return {line[1]: int(line[4]) for line in lines if line[0] == "sproxies" and line[1] in NODES}

    # ---- what befalls it

    def kill_machine(self, name):
        """Its power fails: all that runs there ends at once, and nobody says so; the cable is dead."""
        self.cut(name)
        host = self.hosts[name]
        for program in host.programs:
            if program.running:
                program.process.kill()
        for pid in host.processes():
            if pid not in (host.holder.pid, os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.keepaliveds.pop(name, None)
        Path(f"/proc/{host.holder.pid}/root/run/haproxy.sock").unlink(missing_ok=True)

    def boot(self, name):
        """It is there again, and knows nothing."""
        self.mend(name)
        host = self.hosts[name]
        for program in host.programs:
            program.close()
        host.programs.clear()
        if name in NODES:
            self.start_node(name)
        else:
            host.ip(f"addr flush dev eth0 to {SHARED}")
            self.start_balancer(name)

    def kill_sproxy(self, node):
        """kill -9 of the program, keeper and worker; the machine is there and refuses connections."""
        program = self.sproxies[node]
        workers = [program.worker_pid, program.pid]
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        program.wait()

    def kill_worker(self, node):
        """kill -9 of what serves; its keeper starts the next one."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(last_of_line(self.sproxies[node].pid), signal.SIGKILL)

    def kill_haproxy(self, balancer):
        """kill -9 of its haproxy; the machine is there, and so is keepalived."""
        for pid, line in self.hosts[balancer].processes().items():
            if line.startswith("haproxy "):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.haproxies[balancer].wait()
        Path(f"/proc/{self.hosts[balancer].holder.pid}/root/run/haproxy.sock").unlink(missing_ok=True)

    def upgrade(self, node):
        """Have the version that is installed take over; what `mproxy upgrade` said."""
        return self.hosts[node].run(ROOT / "bin" / "mproxy", "upgrade", "sproxy")

    def cut(self, name):
        """Every packet from and to that machine vanishes."""
        self.switch.run("bridge", "link", "set", "dev", name, "state", "0")

    def mend(self, name):
        self.switch.run("bridge", "link", "set", "dev", name, "state", "3")

    def part(self, one, other):
        """Every packet between these two vanishes."""
        rules = "\n".join(f"add rule bridge fleet part iifname {a} oifname {b} drop" for a, b in (
            (one, other), (other, one)))
        self.switch.run("nft", "-f", "-", input=(
            "add table bridge fleet\n"
            "add chain bridge fleet part { type filter hook forward priority 0; }\n" + rules + "\n"))

    def join(self):
        """All see each other again."""
        self.switch.run("nft", "delete", "table", "bridge", "fleet", check=False)

    def reload_balancer(self, balancer):
        """As `systemctl reload haproxy`: a new process takes over, the old one keeps its connections."""
        self.haproxies[balancer].signal(signal.SIGUSR2)

    def crowd(self, count):
        """So many cproxies, listening."""
        return Crowd(self, count)


class Crowd:
    """`count` cproxies of the client, some in each process; `ports`: where they listen."""

    def __init__(self, fleet, count):
        self.fleet = fleet
        self.programs = [fleet.client.start(
            sys.executable, HERE / "crowd.py", min(EACH, count - first), SHARED, PORT, *fleet.cproxy_options,
            stdin=subprocess.PIPE) for first in range(0, count, EACH)]
        self.ports = [int(word) for program in self.programs
                      for word in program.expect(r"^ports (.+)\n").group(1).split()]

    def homes(self):
        """On which node each has its session, or had its last one: {number: node}, without those of which the log of
        a node has left out a line."""
        where = {event["session"]: node for node, program in self.fleet.sproxies.items()
                 for event in program.events("connected")}
        last = {}
        for at, program in enumerate(self.programs):
            for number, session in re.findall(r"^(\d+) connected (\w+)", program.out.text, re.MULTILINE):
                last[at * EACH + int(number)] = session
        return {number: where[session] for number, session in last.items() if session in where}


# ---- applications that check each byte

HEAD = struct.Struct(">IIQ")  # whose, how often it has begun, number
BLOCK_BYTES = 1024            # the head again and again, so that no other block has the same bytes at any place


class Talk:
    """One application: sends numbered blocks to the daemon and compares what comes back, byte by byte."""

    def __init__(self, number, port):
        self.number, self.port = number, port
        self.sock = None
        self.begun = 0        # connections so far
        self.sent = self.came = 0  # blocks of this one
        self.unsent = b""
        self.partial = b""
        self.waits_since = None  # for the oldest answer that has not come

    def block(self, number):
        return HEAD.pack(self.number, self.begun, number) * (BLOCK_BYTES // HEAD.size)


class Talks(threading.Thread):
    """Applications of the client, one on each port: each sends a block every `pause_s` and one that waits for its
    answer sends no more than `most` of them. `rate` begin in a second. One whose connection was reset connects again at
    once.

    `resets`: [(when, number)]; `wrong`: what must not be; `waits`: [(when the answer came, how long it took)].
    """

    def __init__(self, client, ports, pause_s=0.5, most=50, rate=50):
        super().__init__(daemon=True)
        self.client, self.pause_s, self.most, self.rate = client, pause_s, most, rate
        self.talks = [Talk(number, port) for number, port in enumerate(ports)]
        self.resets, self.wrong, self.waits = [], [], []
        self.blocks = 0
        self.stopping = False
        self.selector = selectors.DefaultSelector()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def run(self):
        try:
            self._run()
        except Exception as error:
            self.wrong.append(f"the applications ended: {error}")
            raise

    def _run(self):
        began = time.monotonic()
        due = [(began + number / self.rate, number) for number in range(len(self.talks))]
        with self.client.inside():
            while not self.stopping:
                now = time.monotonic()
                while due[0][0] <= now:
                    at, number = due[0]
                    heapq.heapreplace(due, (max(now, at + self.pause_s), number))
                    self._say(self.talks[number], now)
                for key, _events in self.selector.select(max(0, min(0.05, due[0][0] - now))):
                    self._hear(key.data)

    def stop(self):
        self.stopping = True
        self.join()
        for talk in self.talks:
            if talk.sock is not None:
                talk.sock.close()

    def _begin(self, talk):
        """Connect to its cproxy, which is always there."""
        talk.begun += 1
        talk.sent = talk.came = 0
        talk.unsent = talk.partial = b""
        talk.waits_since = None
        talk.sock = socket.create_connection(("127.0.0.1", talk.port))
        talk.sock.setblocking(False)
        talk.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(talk.sock, selectors.EVENT_READ, talk)

    def _say(self, talk, now):
        if talk.sock is None:
            self._begin(talk)
        if talk.sent - talk.came < self.most:
            talk.unsent += talk.block(talk.sent)
            talk.sent += 1
            talk.waits_since = talk.waits_since or now
        try:
            talk.unsent = talk.unsent[talk.sock.send(talk.unsent):] if talk.unsent else b""
        except BlockingIOError:
            pass
        except OSError:
            self._end(talk, reset=True)

    def _hear(self, talk):
        try:
            data = talk.sock.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self._end(talk, reset=True)
            return
        if not data:
            self._end(talk, reset=False)
            return
        talk.partial += data
        whole = len(talk.partial) // BLOCK_BYTES
        expected = b"".join(talk.block(talk.came + n) for n in range(whole))
        if talk.partial[:len(expected)] != expected:
            self.wrong.append(f"application {talk.number}: other bytes than it had sent")
        talk.partial = talk.partial[len(expected):]
        if whole:
            now = time.monotonic()
            self.blocks += whole
            talk.came += whole
            self.waits.append((now, now - talk.waits_since))
            talk.waits_since = None if talk.came == talk.sent else now

    def _end(self, talk, reset):
        """Only a reset may end it: an end in order would say that all had arrived."""
        self.selector.unregister(talk.sock)
        talk.sock.close()
        if reset:
            self.resets.append((time.monotonic(), talk.number))
        else:
            self.wrong.append(f"application {talk.number}: an end that its daemon did not make")
        self._begin(talk)

    def settled(self, within=60):
        """Waits until every application has an answer to a block that it sends from now on; how long that took."""
        assert self.talks, "there is nobody who could be answered"
        began = time.monotonic()
        marks = [(talk, talk.begun, talk.sent) for talk in self.talks]
        while waiting := [talk for talk, begun, sent in marks
                          if not talk.came or (talk.begun == begun and talk.came <= sent)]:
            assert time.monotonic() < began + within, f"{len(waiting)} applications have no answer after {within} s"
            time.sleep(0.02)
        return time.monotonic() - began


def missing():
    """Programs that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]
