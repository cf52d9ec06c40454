"""`--plain` of cproxy and sproxy: a bare TCP relay, to try one leg of the path at a time."""

from __future__ import annotations

import os

from mproxy.ground.config import format_host_port
from mproxy.io._socket import Target
from mproxy.policy.resolver import Resolver, numeric_address
from mproxy.programs.common import open_listeners
from mproxy.relay.relay_observer import RelayObserver
from mproxy.relay.rules import Rule
from mproxy.relay.tcp._tcp_relay import TcpRelay
from mproxy.service.run import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from mproxy.ground.config import ProgramConfig, SproxyConfig
    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log


def say_open(config: SproxyConfig, log: Log) -> None:
    """Warn that sproxy is open to everybody."""
    log.warning("open-door", daemons=format_host_port(config.daemon_host, config.daemon_port), why=(
        "--plain: no key is required; anyone who can reach the port can use it"), close="start sproxy without --plain")


class PlainRelay(Program, RelayObserver):
    """Relays every connection to one host and port."""

    reloads = True

    def __init__(self, config: ProgramConfig, log: Log, loop: Loop, host: str, port: int) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._host, self._port = host, port
        self._resolver = Resolver(loop.call_soon_threadsafe)
        self._relay = TcpRelay(loop, self)
        self._listeners: list[socket.socket] = []

    def open(self) -> None:
        self._listeners = open_listeners(self._config)

    def start(self) -> None:
        target = format_host_port(self._host, self._port)
        listeners, self._listeners = self._listeners, []
        self._relay.add(0, Rule(0, "tcp", "", 0, ((self._host, self._port),)), [one.fileno() for one in listeners])
        numeric = numeric_address(self._host, self._port)
        if numeric is not None and numeric[0]:
            self._relay.set_targets(0, [Target(target, numeric[0])])
        else:
            self._relay.ask(0)
        for listener in listeners:
            address = listener.getsockname()
            listener.close()
            self._log.info("listening", address=address[0], port=address[1], target=target, plain=True)

    def on_wanted(self, _key: int, fd: int) -> None:
        """Look the target up for one connection."""
        def resolved(addresses: list[Address], error: str | None) -> None:
            if error is not None:
                self._log.warning("target-unreachable", target=format_host_port(self._host, self._port), why=error)
            self._relay.relay(0, fd, Target(format_host_port(self._host, self._port), addresses) if addresses else None)
        self._resolver.resolve(self._host, self._port, resolved)

    def on_refused(self, _key: int, target: str, error: int) -> None:
        self._log.warning("target-unreachable", target=target, why=os.strerror(error))

    def on_target_down(self, _key: int, target: str, error: int) -> None:
        self._log.warning("target-down", target=target, why=os.strerror(error))

    def on_target_up(self, _key: int, target: str) -> None:
        self._log.info("target-up", target=target)

    def on_accept_paused(self, why: str) -> None:
        self._log.warning("accept-paused", why=why)

    def on_accept_resumed(self) -> None:
        self._log.info("accept-resumed")

    def reload(self) -> None:
        """SIGHUP: only the log file is reopened."""
        self._log.info("reloaded")

    def shut_down(self, _signal: str) -> None:
        """Stop accepting; connections may finish within --drain."""
        self._relay.remove(0)
        self._log.info("stopping", connections=self._relay.count)
        self._wait_for_end(self._loop.now() + self._config.drain_us)

    def _wait_for_end(self, deadline: int) -> None:
        if self._relay.count and self._loop.now() < deadline:
            self._loop.call_later(10_000, lambda: self._wait_for_end(deadline))
            return
        self._relay.close()
        self._loop.stop()
