"""mproxy impair: a bad network in a box, for any UDP protocol, both directions."""

from __future__ import annotations

import json
import os
import signal
import time

from mproxy.emulator._emulator import Emulator
from mproxy.emulator._path_emulator import PathEmulator
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.io._socket import Target
from mproxy.io.bind import open_udp
from mproxy.policy.resolver import look_up_host, numeric_address
from mproxy.programs.impair_options import (
    HIGHEST_SEED,
    NOW,
    ImpairConfig,
    PathConfig,
    parse_changes,
    parse_impair,
    say_path,
)
from mproxy.service.run import Program, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mproxy.io._loop import Loop, Timer
    from mproxy.service.control import Command, Reply
    from mproxy.service.log import Log

LOOK_US = 250_000  # from one look whether packets were too large to the next


class Impair(Program):
    """The program: one relay, statistics when asked and at the end."""

    _relay: Emulator     # from `start` on
    _rebinding: Timer | None = None

    def __init__(self, config: ImpairConfig, log: Log, loop: Loop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._began = time.monotonic()
        self._outages_from_us = loop.now()
        self._seed = int.from_bytes(os.urandom(4)) if config.seed is None else config.seed

    def start(self) -> None:
        config = self._config
        addresses, error = numeric_address(config.host, config.server_port) or look_up_host(config.host)
        if error:
            raise MproxyError(error)
        family, sockaddr = addresses[0]
        target = Target(format_host_port(config.host, config.server_port),
                        [(family, (sockaddr[0], config.server_port, *sockaddr[2:]))])
        up, down = (PathEmulator((self._seed * 2 + direction) & HIGHEST_SEED, **self._options(direction))
                    for direction in (0, 1))  # each direction has its own seed
        with open_udp(config.bind, config.port) as listener:
            self._relay = Emulator(self._loop, listener.fileno(), target, up, down,
                                   self._on_client, most=config.clients, idle_us=config.idle_us)
            address = listener.getsockname()
        self._name = config.name or f"{address[1]}->{target.text}"
        signal.signal(signal.SIGUSR1, lambda *_: self._loop.call_soon_threadsafe(self.print_statistics))
        self._log.info("listening", address=address[0], port=address[1], server=target.text, seed=self._seed,
                       network=say_path(config))
        self._look()
        self._rebind_later()

    def commands(self) -> Mapping[str, Command]:
        return {"name": lambda _request, reply: reply({"name": self._name}), "set": self._set}

    def _set(self, request: dict[str, Any], reply: Reply) -> None:
        """Of `mproxy impair set`, whose words are in `arguments`."""
        try:
            anew, changes, _words = parse_changes([str(word) for word in request["arguments"]])
            if changes or anew:
                self._change(anew, changes)
        except (UsageError, KeyError, TypeError) as error:
            reply({"ok": False, "lines": [str(error)]})
        else:
            reply({"ok": True, "done": say_path(self._config)})

    def _change(self, anew: bool, changes: dict[str, Any]) -> None:
        if changes.get("rebind_us") == NOW:
            del changes["rebind_us"]
            self._relay.rebind()
        if "outage" in changes:
            self._outages_from_us = self._loop.now()
        kept = vars(self._config)
        if anew:
            kept = {name: value for name, value in kept.items() if name not in PathConfig.settings()}
        self._config = ImpairConfig(**{**kept, **changes})
        for direction, path in enumerate((self._relay.up, self._relay.down)):
            path.change(**self._options(direction))
        self._rebind_later()
        self._log.info("changed", network=say_path(self._config))

    def _rebind_later(self) -> None:
        if self._rebinding is not None:
            self._rebinding.cancel()
            self._rebinding = None
        if self._config.rebind_us:
            self._rebinding = self._loop.call_later(self._config.rebind_us, self._rebind)

    def _rebind(self) -> None:
        self._relay.rebind()
        self._rebind_later()

    def _look(self) -> None:
        """Say once that packets vanish because of their size: whoever does not know the option would search for long.
        Not a warning: programs that look for the largest size, such as `mproxy send`, send packets that are too
        large."""
        if any(path.statistics()["too_large"] for path in (self._relay.up, self._relay.down)):
            self._log.info("too-large", mtu="/".join(map(str, self._config.mtu)), why=(
                "packets above --mtu are dropped, as on a network that does not fragment; programs that look for the"
                " largest size that passes (mproxy send does) expect that; --mtu 0 lets every size pass"))
        else:
            self._loop.call_later(LOOK_US, self._look)

    def _options(self, direction: int) -> dict[str, float]:
        """Of the PathEmulator of one direction."""
        config = self._config
        bad, packets, within = config.burst_loss[direction]
        return {"loss": config.loss[direction], "duplicate": config.duplicate[direction],
                "corrupt": config.corrupt[direction], "reorder": config.reorder[direction],
                "burst_share": bad, "burst_packets": packets, "burst_loss": within,
                "outage_every_us": config.outage[0], "outage_us": config.outage[1],
                "outage_from_us": self._outages_from_us, "delay_us": config.delay[direction],
                "jitter_us": config.jitter[direction], "reorder_us": config.reorder_by[direction],
                "rate": config.rate[direction], "queue_bytes": config.queue[direction], "mtu": config.mtu[direction]}

    def _on_client(self, host: str, port: int, count: int) -> None:
        self._log.debug("client", peer=format_host_port(host, port), clients=count)

    def shut_down(self, _signal: str) -> None:
        """Print the statistics and stop."""
        self.print_statistics()
        self._relay.close()
        self._loop.stop()

    def print_statistics(self) -> None:
        """One JSON object, or a small table, on standard output."""
        relay = self._relay
        directions = {"to_server": relay.up.statistics(), "to_client": relay.down.statistics()}
        seconds = time.monotonic() - self._began
        if self._config.json:
            text = json.dumps({"seed": self._seed, "seconds": round(seconds, 3), "clients": relay.total,
                               "rebound": relay.rebound, "unsent": relay.unsent, **directions}) + "\n"
        else:
            text = _table(directions, f"seed {self._seed}, {seconds:.1f} s, clients {relay.total}, "
                                      f"ports changed {relay.rebound}, not sent {relay.unsent}")
        try:
            os.write(1, text.encode())
        except OSError:
            pass  # nobody is there to read it


def _table(directions: dict[str, dict[str, int]], title: str) -> str:
    """Statistics for people: a line for each number, a column for each direction."""
    names = list(directions["to_server"])
    lines = [title, f"{'':16}{'to server':>16}{'to client':>16}"]
    lines += [f"{name.replace('_', ' '):16}{directions['to_server'][name]:16}{directions['to_client'][name]:16}"
              for name in names]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """`mproxy impair`; the exit status."""
    if argv and argv[0] == "set":
        from mproxy.programs import impair_set
        return impair_set.main(argv[1:])
    return run_program("mproxy impair", parse_impair, Impair, argv)
