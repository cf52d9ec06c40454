"""A relay on the router of a lab: clients on one side, servers on the other, and the relay's own commands."""

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

from lab import HERE, until
from traffic import read_exactly

MPROXY = HERE.parent.parent / "bin" / "mproxy"
PEERS = Path(__file__).with_name("peers.py")

# The relay's address for the client, and the server's for the relay.
RELAY, SERVER = "10.1.0.1", "10.3.0.2"
RELAY6, SERVER6 = "fd00:1::1", "fd00:3::2"
ECHO_PORT = 8005


class RelayHost:
    """Starts relays in `host`; all their files are in its home directory."""

    def __init__(self, host):
        self.host = host
        self.file = host.home / "relay.conf"
        self.pidfile = host.home / "relay.pid"
        self.runtime = host.home / "run"
        self.runtime.mkdir()
        self.environment = {"XDG_RUNTIME_DIR": str(self.runtime)}
        self.started = []

    def write(self, *lines):
        """The rule file."""
        self.file.write_text("".join(f"{line}\n" for line in lines))

    def start(self, *lines, options=(), prefix=(), ready=True, env=None):
        """A relay of these rules, serving when this returns."""
        self.write(*lines)
        return self.start_with("--config", self.file, "--pidfile", self.pidfile, *options, prefix=prefix, ready=ready,
                               env=env)

    def start_with(self, *words, prefix=(), ready=True, env=None):
        program = self.host.start(*prefix, MPROXY, "relay", *words, env=self.environment | (env or {}))
        self.started.append(program)
        if ready:
            program.event("ready", within=30)
        return program

    def command(self, *words):
        """Runs `mproxy relay WORDS`: (exit status, what it wrote)."""
        program = self.host.start(MPROXY, "relay", *words, env=self.environment)
        status = program.wait(within=30)
        return status, program.out.text + program.log.text

    def status(self):
        """What `status --json` says of the relay."""
        done, text = self.command("status", "--pidfile", self.pidfile, "--json")
        assert done == 0, text
        return json.loads(text)

    def reload(self, *lines):
        """Change the rules and reload them."""
        self.write(*lines)
        status, text = self.command("reload", "--pidfile", self.pidfile)
        assert status == 0, text
        return text

    def workers(self):
        """Process numbers of the workers."""
        return [worker["pid"] for worker in self.status()["workers"]]

    def verify_health(self):
        for program in self.started:
            assert "Traceback" not in program.log.text, str(program)
            assert "internal-error" not in program.log.text, str(program)
            assert program.process.poll() not in (-4, -6, -8, -11), str(program)


def start_echo(host, port=ECHO_PORT):
    """A TCP echo daemon on every address of `host`."""
    daemon = host.start(sys.executable, "-S", PEERS, "echo", port, "all")
    daemon.expect("^ready$")
    return daemon


def echoes(connection, data=b"hello"):
    """Whether the other end sends back what it gets."""
    try:
        connection.sendall(data)
        return read_exactly(connection, len(data)) == data
    except (AssertionError, ConnectionError, TimeoutError):
        return False


def is_served(host, port, address=RELAY):
    """Whether a new connection reaches an echo daemon."""
    try:
        with host.connect(port, address) as connection:
            return echoes(connection)
    except OSError:
        return False


class Callers:
    """Threads that connect, exchange a few bytes and close, all the time; they record every failure."""

    def __init__(self, host, port, count=4):
        self.failures = []
        self.served = 0
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(host, port), daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, host, port):
        with host.inside():
            while not self._ending.is_set():
                try:
                    with socket.create_connection((RELAY, port), timeout=20) as connection:
                        connection.settimeout(20)
                        connection.sendall(b"hello")
                        assert read_exactly(connection, 5) == b"hello"
                    self.served += 1
                except (OSError, AssertionError) as error:
                    self.failures.append(repr(error))

    def serve_more(self, count, within=30):
        goal = self.served + count
        until(lambda: self.served >= goal or self.failures, within, f"{count} more callers served")

    def finish(self):
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=60)
        assert not self.failures, self.failures[:5]


@contextlib.contextmanager
def notify_socket(directory):
    """(address, receive): a service manager's end of sd_notify(3)."""
    path = os.path.join(directory, "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(15)
        yield path, lambda: sock.recv(4096).decode()


def udp_socket(host, address):
    """A UDP socket of the family of `address`, inside `host`."""
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(15)
    return sock


def udp_client(lab, address=RELAY):
    """Connected to the relay's port 7005."""
    sock = udp_socket(lab.client, address)
    sock.connect((address, 7005))
    return sock


def exchange(client, server):
    """Sends a question and reads its answer; returns the address that the server saw."""
    client.send(b"question")
    data, address = server.recvfrom(2000)
    assert data == b"question"
    server.sendto(b"answer", address)
    assert client.recv(2000) == b"answer"
    return address
