"""The TCP engine of the relay in a process of its own, so that its descriptors, memory and limits are its own.

`Engine` starts the process and passes calls on: `engine.stats(0)` is TcpRelay.stats(0) there. Listeners are opened
inside (`listen`), events of the observer are collected there (`events`).
"""

import contextlib
import gc
import multiprocessing
import os
import resource
import signal
import socket
from pathlib import Path

from lab import until

from mproxy.io._loop import Loop
from mproxy.io._socket import Target, keep_spare
from mproxy.relay.rules import Rule, RuleOptions
from mproxy.relay.tcp._tcp_relay import TcpRelay

BACKLOG = 4096


class Observer:
    """Remembers what it is told, as (event, *arguments)."""

    def __init__(self):
        self.seen = []

    def __getattr__(self, event):
        if not event.startswith("on_"):
            raise AttributeError(event)
        return lambda *arguments: self.seen.append((event, *arguments))


class Inside:
    """What can be called in the engine's process besides the methods of TcpRelay."""

    def __init__(self, loop, relay, observer):
        self.loop, self.relay, self.observer = loop, relay, observer

    def listen(self, key, targets, options, host="127.0.0.1"):
        """Add a rule on any free port of `host`; gives the port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::") as listener:
            self.relay.add(key, make_rule(targets, options), [listener.fileno()])
            self.aim(key, targets)
            return listener.getsockname()[1]

    def aim(self, key, targets):
        """Sets targets as a resolver would; a name that begins with `?` has no address yet."""
        self.relay.set_targets(key, [make_target(host, port) for host, port in targets])

    def change(self, key, targets, options):
        """New options of a rule."""
        self.relay.update(key, make_rule(targets, options))

    def events(self):
        """What the observer has been told so far."""
        return self.observer.seen

    def count(self):
        """Connections now."""
        return self.relay.count

    def pipes(self):
        """(open, unused, refused) pipes."""
        pool = self.relay.pairs.mover.pool
        return pool.open, pool.kept, pool.refusals

    def allow_pipes(self, most):
        """Bound the pool."""
        self.relay.pairs.mover.pool.most = most

    def pid(self):
        """The engine's process."""
        return os.getpid()

    def look_after_peers_every(self, look_us):
        """Instead of the usual time."""
        self.relay.pairs.look_us = look_us

    def give_up_last_words_after(self, patience_us):
        """Instead of the usual time."""
        self.relay.pairs.last_words_us = patience_us

    def become_nobody(self):
        """Give up the right to any number of large pipes, and use up what users may have (pipe-user-pages-soft)."""
        os.setgid(65534)
        os.setresuid(65534, 65534, 0)
        self.held = [os.pipe() for _ in range(1100)]

    def limit_descriptors(self, free):
        """Leave room for `free` more descriptors, spare ones included."""
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def spare_descriptors(self):
        """Keep the last descriptors free, as the programs do."""
        keep_spare(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def footprint(self):
        """(open descriptors, bytes of private memory) of the process."""
        gc.collect()
        rollup = Path("/proc/self/smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.split("\n") if line.startswith("Private_"))
        return len(os.listdir("/proc/self/fd")), private * 1024


def make_rule(targets, options):
    return Rule(1, "tcp", "127.0.0.1", 0, tuple(targets), RuleOptions(**options))


def make_target(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = (host, port, 0, 0) if ":" in host else (host, port)
    return Target(f"{host}:{port}", [] if host.startswith("?") else [(family, address)])


def run_inside(orders, max_connections):
    """The engine's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    loop, observer = Loop(), Observer()
    relay = TcpRelay(loop, observer, max_connections)
    inside = Inside(loop, relay, observer)

    def obey(_events):
        try:
            name, arguments = orders.recv()
        except EOFError:
            loop.stop()
            return
        try:
            function = getattr(inside, name, None) or getattr(relay, name)
            orders.send((True, function(*arguments)))
        except Exception as error:
            orders.send((False, f"{type(error).__name__}: {error}"))

    loop.watch(orders.fileno(), obey)
    loop.run()
    if os.getresuid()[2] != os.getuid():
        os.setresuid(0, 0, 0)  # the sanitizers read Python's symbols, wherever it is


class Engine:
    """A relay engine in another process."""

    def __init__(self, max_connections=0):
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=run_inside, args=(theirs, max_connections), daemon=True)
        self._process.start()
        theirs.close()

    def __getattr__(self, name):
        return lambda *arguments: self._call(name, arguments)

    def _call(self, name, arguments):
        self._orders.send((name, arguments))
        if not self._orders.poll(30):
            raise AssertionError(f"the engine does not answer to {name}")
        good, result = self._orders.recv()
        if not good:
            raise AssertionError(f"{name}: {result}")
        return result

    def named(self, event):
        """Arguments of each event of that name so far."""
        return [tuple(arguments) for name, *arguments in self.events() if name == event]

    def wait_for(self, event, within=30):
        """Arguments of the first event of that name."""
        return until(lambda: self.named(event), within, f"{event}, only {self.events()}")[0]

    def wait_for_stat(self, key, name, value, within=30):
        """Wait until a counter of a rule has a value."""
        until(lambda: self.stats(key)[name] == value, within, f"{name} of {value}, there is {self.stats(key)}")

    def stop(self):
        """End the process; it must still be alive."""
        alive = self._process.is_alive()
        self._orders.close()
        self._process.join(10)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        assert alive and self._process.exitcode == 0, f"the engine ended with {self._process.exitcode}"


class Backstage:
    """The target of a rule, and the sockets of a test; all closed in the end."""

    def __init__(self):
        self._stack = contextlib.ExitStack()
        self.engines = []

    def engine(self, max_connections=0):
        """A started engine."""
        engine = Engine(max_connections)
        self.engines.append(engine)
        return engine

    def server(self, host="127.0.0.1", port=0, backlog=BACKLOG):
        """A listening socket."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self._stack.enter_context(socket.create_server((host, port), family=family, backlog=backlog))
        listener.settimeout(20)
        return listener

    def client(self, port, host="127.0.0.1", source=None):
        """A connection to a port."""
        sock = socket.create_connection((host, port), 20, (source, 0) if source else None)
        return self._stack.enter_context(sock)

    def accept(self, listener):
        """The next connection of a server."""
        sock, _ = listener.accept()
        sock.settimeout(20)
        return self._stack.enter_context(sock)

    def through(self, engine, port, listener):
        """A pair of sockets with the relay between them."""
        client = self.client(port)
        return client, self.accept(listener)

    def close(self):
        """Close everything."""
        self._stack.close()
        for engine in self.engines:
            engine.stop()


def address_of(listener):
    """(host, port) of a listening socket."""
    return listener.getsockname()[:2]
