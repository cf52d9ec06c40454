"""A pair of proxies in a lab: cproxy on the client, sproxy on the server, ready to be used."""

import os
import signal
import sys
from pathlib import Path

from lab import HERE, until
from program import PATIENCE_S
from traffic import ends_by_reset, read_exactly

from tests import keys

ROOT = HERE.parent.parent
CPROXY, SPROXY, PYTHON = ROOT / "cproxy", ROOT / "sproxy", sys.executable
CPROXY_PORT, SPROXY_PORT, DAEMON_PORT = 5200, 6200, 7007
OVER_TCP = ["--carrier", "tcp"]
PEERS = Path(__file__).with_name("peers.py")


def state_dir(host):
    """Where the proxies of a host keep their keys."""
    return host.home / "state" / "mproxy"


def keep_key(host, name, number):
    """Put a key where the proxy on `host` looks for its own."""
    directory = state_dir(host)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / name
    file.touch(mode=0o600)
    file.write_bytes(keys.pem(number))


def cut_power(program):
    """All of a `cproxy --stdio` dies, also what waits to say goodbye for it."""
    pid = program.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    program.stop(signal.SIGKILL)


class Pair:
    """Starts proxies and daemons in `lab` and remembers the last of each; `app` connects as an application
    does."""

    def __init__(self, lab, options=()):
        self.lab = lab
        self.options = options  # of both proxies, but for what cproxy alone decides
        self.cproxy = self.sproxy = None
        self.started = []
        # Made once a run, not once a test; a test of first starts takes them away.
        keep_key(lab.server, "host-key.pem", 1)
        keep_key(lab.client, "client-key.pem", 2)

    def start(self, sproxy=(), cproxy=(), daemon=f"127.0.0.1:{DAEMON_PORT}"):
        """Both proxies, listening. `sproxy` and `cproxy` are their options."""
        self.start_sproxy(*sproxy, daemon=daemon)
        self.start_cproxy(*cproxy)
        return self

    def start_sproxy(self, *options, port=SPROXY_PORT, daemon=f"127.0.0.1:{DAEMON_PORT}", prefix=(), **popen):
        ours = self.options if self.options != OVER_TCP else ()
        self.sproxy = self.lab.server.start(*prefix, SPROXY, *ours, *options, port, daemon, **popen)
        self.started.append(self.sproxy)
        if self.sproxy.process.stderr:
            self.sproxy.event("listening")
        return self.sproxy

    def start_cproxy(self, *options, port=CPROXY_PORT, server=None, server_port=SPROXY_PORT, prefix=(), **popen):
        server = server or self.lab.server_address
        options = [*self.options, *options]
        self.cproxy = self.lab.client.start(*prefix, CPROXY, *options, port, server, server_port, **popen)
        self.started.append(self.cproxy)
        if self.cproxy.process.stderr:
            self.cproxy.event("listening")
        return self.cproxy

    def start_stdio(self, *options, **popen):
        """`cproxy --stdio`; it has no listener to wait for."""
        self.cproxy = self.lab.client.start(
            CPROXY, "--stdio", *self.options, *options, self.lab.server_address, SPROXY_PORT, **popen)
        self.started.append(self.cproxy)
        return self.cproxy

    @property
    def uses_udp(self):
        """Whether carriers go over UDP, at the latest when a session has moved there."""
        return self.options == []

    def comes_from(self, address, within=PATIENCE_S):
        """Waits until cproxy has said last that its carrier comes from this address of its host, whether it `moved`
        there or `resumed`; returns that event."""
        def last():
            told = [event for event in self.cproxy.events() if event.name in ("connected", "resumed", "moved")]
            return told[-1] if told and told[-1]["local"].rpartition(":")[0].strip("[]") == address else None
        return until(last, within, f"a carrier from {address}")

    def peer(self, *arguments):
        """One of the daemons of peers.py on the server, ready."""
        daemon = self.lab.server.start(sys.executable, "-S", PEERS, *arguments)
        daemon.expect("^ready$")
        return daemon

    def echo(self, port=DAEMON_PORT):
        return self.peer("echo", port)

    def app(self, port=CPROXY_PORT):
        return self.lab.client.connect(port)

    def app_is_reset(self, port=CPROXY_PORT):
        """Connects as an application; True if that is reset, even before the connect returns."""
        try:
            return ends_by_reset(self.app(port))
        except ConnectionResetError:
            return True

    def joined(self, listener):
        """An application and the daemon's connection that belongs to it: two sockets."""
        app = self.app()
        app.sendall(b"?")
        daemon, _ = listener.accept()
        daemon.settimeout(15)
        assert read_exactly(daemon, 1) == b"?"
        return app, daemon

    def verify_health(self):
        """No proxy may have crashed or reported an internal error, whatever was done to it."""
        for program in self.started:
            assert "Traceback" not in program.log.text, str(program)
            assert "internal-error" not in program.log.text, str(program)
            assert program.process.poll() not in (-4, -6, -8, -11), str(program)
