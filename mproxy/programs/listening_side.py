"""cproxy's listening side: where applications connect, and where their streams lead."""

from __future__ import annotations

import socket

from mproxy.endpoint._app_listener import AppListener
from mproxy.endpoint._takeover import take_in
from mproxy.ground.config import format_host_port
from mproxy.ground.forwarding import ANYWHERE, is_path, say_target
from mproxy.io._accept import AcceptGate
from mproxy.io.accept_observer import AcceptLog
from mproxy.io.bind import UnixListener
from mproxy.keeper.main_process import is_first
from mproxy.programs.common import listen_at, open_listeners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mproxy.endpoint._endpoint import Endpoint
    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.shapes import Spot
    from mproxy.io._loop import Loop
    from mproxy.programs.datagram_forwards import DatagramForwards
    from mproxy.programs.socks_greeter import SocksGreeter
    from mproxy.service.log import Log

EVERY_ADDRESS = ("0.0.0.0", "::")


class Entrance:
    """One socket that listens for applications, which all go to `target`, or, with `is_dynamic`, say where to."""

    def __init__(self, sock: socket.socket, target: bytes, is_dynamic: bool, at: UnixListener | None = None) -> None:
        self.sock = sock
        self.target = target
        self.is_dynamic = is_dynamic
        self.at = at  # of a unix socket
        self.address: tuple[str, int] = (at.path, 0) if at is not None else sock.getsockname()[:2]
        self.listener: AppListener | None = None

    def leads_here(self, address: tuple[str, int]) -> bool:
        """Whether connections to that address of ours come in here."""
        return address[1] == self.address[1] and self.address[0] in (address[0], *EVERY_ADDRESS)

    @property
    def place(self) -> str:
        """Where that is, as text."""
        return self.at.path if self.at is not None else format_host_port(*self.address)

    def say(self) -> dict[str, object]:
        """For the log."""
        where = {"path": self.at.path} if self.at is not None else {"address": self.address[0], "port": self.address[1]}
        return {**where, "target": "socks" if self.is_dynamic else self.target.decode() or None}

    def close(self) -> None:
        """Stop accepting."""
        if self.listener is not None:
            self.listener.close()
        (self.at or self.sock).close()


class ListeningSide:
    """All entrances. With --stdio there is none."""

    def __init__(self, config: CproxyConfig, log: Log, loop: Loop, endpoint: Endpoint) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._endpoint = endpoint
        self._greeter: SocksGreeter | None = None
        self._datagrams: DatagramForwards | None = None
        self.features = 0  # of the sproxy of the present carrier
        self._entrances: list[Entrance] = []
        self.target = say_target(*config.target).encode() if config.target else b""

    def open(self) -> None:
        """Open ports and paths."""
        config = self._config
        if config.dynamic:
            from mproxy.programs.socks_greeter import SocksGreeter
            self._greeter = SocksGreeter(self._loop, self._log, self._endpoint)
        if config.udp:
            from mproxy.programs.datagram_forwards import DatagramForwards
            self._datagrams = DatagramForwards(config, self._log, self._loop, self._endpoint)
            self._datagrams.open()
        if config.port is not None:
            self._entrances += [Entrance(sock, self.target, False) for sock in open_listeners(config)]
        for spot, target in config.forward:
            self._open(spot, say_target(*target).encode(), False)
        for spot in config.dynamic:
            self._open(spot, b"", True)

    def _open(self, spot: Spot, target: bytes, is_dynamic: bool) -> None:
        host, port = spot
        if is_path(host):
            at = UnixListener(host)
            self._entrances.append(Entrance(at.sock, target, is_dynamic, at))
            return
        hosts = EVERY_ADDRESS if host == ANYWHERE else (host,) if host else self._config.bind_addresses
        named = bool(self._config.bind) if not host else host != ANYWHERE
        self._entrances += [Entrance(sock, target, is_dynamic) for sock in listen_at(hosts, port, named=named)]

    @property
    def addresses(self) -> list[str]:
        """Where applications connect, as text."""
        return [each.place for each in self._entrances] + (self._datagrams.addresses if self._datagrams else [])

    @property
    def busy(self) -> bool:
        """Some application sends datagrams."""
        return self._datagrams is not None and self._datagrams.busy

    def ask(self) -> None:
        """A carrier is active: have sproxy know where datagrams are to go."""
        if self._datagrams is not None:
            self._datagrams.ask(self.features)

    def tcp_sockets(self) -> list[socket.socket]:
        """Those with ports."""
        return [each.sock for each in self._entrances if each.at is None]

    def take_in(self, accepted: list[int]) -> None:
        """Serve the applications that the worker before had just accepted."""
        for fd in accepted:
            connection = socket.socket(fileno=fd)
            address = connection.getsockname()[:2]
            connection.detach()
            entrance = next(each for each in self._entrances if each.at is None and each.leads_here(address))
            if entrance.is_dynamic:
                self._greet()(fd)
            else:
                take_in(self._endpoint, fd, entrance.target)

    def start(self) -> None:
        """Accept from now on."""
        gate = AcceptGate(self._loop, AcceptLog(self._log))
        for each in self._entrances:
            each.listener = AppListener(gate, each.sock.fileno(), self._endpoint, each.target,
                                        self._greet() if each.is_dynamic else None)
            if is_first():
                self._log.info("listening", **each.say(), sproxy=self._config.sproxy_name)
        if self._datagrams is not None:
            self._datagrams.start()

    def _greet(self) -> Callable[[int], object]:
        assert self._greeter is not None
        return self._greeter.greet

    def close(self) -> None:
        """Stop accepting."""
        for each in self._entrances:
            each.close()
        if self._greeter is not None:
            self._greeter.close()
        if self._datagrams is not None:
            self._datagrams.close()
