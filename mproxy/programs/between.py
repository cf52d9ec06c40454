"""What `mproxy doctor` finds out about a proxy (`--proxy`) or a command (`--via`) that leads to sproxy."""

from __future__ import annotations

import time

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import PeerError
from mproxy.policy.banner import Banner
from mproxy.policy.tunnel import open_tunnel
from mproxy.programs import probes
from mproxy.programs.findings import FAULT, OK, WARNING, CheckResult, say_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Generator

    from mproxy.ground.config import CproxyConfig
    from mproxy.policy.tunnel import ProxyTunnel
    from mproxy.programs.probes import Connected, Heard

# A command whose output has ended has so long to end and say why; one that did its work, to end in order.
LAST_WORDS_US = 1_000_000

# Characters of what a command printed.
SHOWN = 200

# What to do about a refusal, by a word that is in it.
WRONG_KIND = "correct the address, or the kind: http://HOST:PORT is an HTTP proxy, socks5h://HOST:PORT a SOCKS proxy"
REFUSALS = (
    ("does not speak", WRONG_KIND),
    ("without an answer", WRONG_KIND),
    ("not answered", WRONG_KIND),
    ("password", "ask its administrator for them: --proxy http://USER:PASSWORD@HOST:PORT, or socks5h://..."),
    ("", "is sproxy running, and may the proxy connect to it? Many proxies let nothing but port 443 through: have"
         " sproxy listen there, or its port allowed in the proxy"))


class ProxyBetween:
    """The proxy of a configuration."""

    def __init__(self, config: CproxyConfig) -> None:
        self._config = config
        self._name = self._tunnel().name

    def opens(self, connected: Connected, patience_s: float) -> bool:
        """Whether it connects this one to sproxy; otherwise that is closed."""
        return self._open(connected, patience_s) is None

    def pass_through(self, tried: list[Connected], patience_s: float) -> Generator[CheckResult, None, list[Connected]]:
        """Those that lead to sproxy now."""
        opened = []
        for each in tried:
            began = time.monotonic()
            error = self._open(each, patience_s)
            took_s = time.monotonic() - began
            where = format_host_port(*each.way.address[:2])
            if error is None:
                opened.append(each)
                yield CheckResult("proxy", OK, f"{self._name} at {where} has connected us to {self._config.sproxy_name}"
                                  f" in {say_s(took_s)}", address=where, took_s=round(took_s, 6))
            else:
                text, advice = self._explain(error, where, patience_s)
                verdict = FAULT if each is tried[-1] and not opened else WARNING
                yield CheckResult("proxy", verdict, text, advice, address=where)
        return opened

    def _tunnel(self) -> ProxyTunnel:
        assert self._config.proxy is not None
        return open_tunnel(self._config.proxy, self._config.sproxy_host, self._config.sproxy_port)

    def _open(self, connected: Connected, patience_s: float) -> Exception | None:
        try:
            probes.open_tunnel(connected, self._tunnel(), patience_s)
        except (PeerError, OSError) as error:
            if connected.sock is not None:
                connected.sock.close()
            return error
        return None

    def _explain(self, error: Exception, where: str, patience_s: float) -> tuple[str, str]:
        """(what happened, what to do)."""
        if isinstance(error, PeerError):
            text = str(error)
        elif isinstance(error, TimeoutError):
            text = f"{self._name} has not answered for {patience_s:g} s"
        else:
            text = f"{self._name} ends the connection without an answer"
        return f"{where}: {text}", next(advice for word, advice in REFUSALS if word in text)


class CommandRun:
    """One run of the command, and what it brought."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._banner = Banner()
        self._began = time.monotonic()
        self._took_s = 0.0   # until sproxy's first word
        self._ending = ""    # how its output ended, when that was before anybody asked for it
        self._last_words = ""
        self._refused = ""   # why it cannot be run
        self._patience_s = 0.0

    @property
    def brought_sproxy(self) -> bool:
        """Whether an sproxy has spoken through it."""
        return self._banner.found

    def unwrap(self, data: bytes) -> bytes:
        """Of what it brings, that which an sproxy says."""
        data = self._banner.feed(data)
        if self._banner.found and not self._took_s:
            self._took_s = time.monotonic() - self._began
        return data

    def converse(self, talk: Callable[[socket.socket], Heard], patience_s: float) -> Heard:
        """Run it while we `talk`, and have it end."""
        from mproxy.io._loop import Loop
        from mproxy.policy.via_command import ViaCommand
        self._patience_s = patience_s
        loop = Loop()
        try:
            command = ViaCommand(loop, self._command, probes.Silence(), lambda _command: loop.stop())
        except OSError as error:
            self._refused = f"the command cannot be started: {error.strerror}"
            return probes.Heard()
        ended = False
        try:
            command.sock.setblocking(True)
            heard = talk(command.sock)
            ended = heard.ended is not None
        finally:
            command.sock.close()
            by = time.monotonic() + LAST_WORDS_US / 1e6
            command.dismiss(LAST_WORDS_US if ended or self.brought_sproxy else 0)
            loop.run()
        if ended and time.monotonic() < by:
            self._ending = f"ends without an answer from sproxy: {command.ending}"
        elif ended:
            self._ending = "closes its output, but is still running"
        self._last_words = command.last_words
        return heard

    def judge(self, heard: Heard) -> CheckResult:
        """Whether it leads to an sproxy."""
        printed = self._banner.text()[:SHOWN]
        if self.brought_sproxy:
            before = f", after {self._banner.length} bytes of other text: {printed}" if printed else ""
            return CheckResult("command", OK, "it leads to an sproxy, whose first word came after"
                               f" {say_s(self._took_s)}{before}", took_s=round(self._took_s, 6))
        words = f"; its last words: {self._last_words}" if self._last_words else ""
        words += f"; it printed: {printed}" if printed else ""
        if self._refused:
            text = self._refused
        elif heard.error is not None:
            text = str(heard.error)
        elif self._ending:
            text = f"it {self._ending}{words}"
        else:
            text = f"it has brought no answer from sproxy for {self._patience_s:g} s{words}"
        return CheckResult("command", FAULT, text, (
            "try it in a shell with </dev/null: it must reach 'sproxy --attach' at the other end without a question, as"
            " it has no terminal here (ssh -o BatchMode=yes shows the same)"))
