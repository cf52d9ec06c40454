"""The checks of `mproxy doctor`, in the order in which a session comes about: each says what it found in plain words.

A fault prevents a session, and the checks behind it are left out where they would say nothing more. What cproxy copes
with is a warning.
"""

from __future__ import annotations

import errno
import os
import socket
import statistics
import time
from typing import NamedTuple

from mproxy import _wire
from mproxy._wire import CloseCode
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, PeerError
from mproxy.handshake import describe_bytes, encode_preamble
from mproxy.policy.attempt import reason_of
from mproxy.policy.keys import fingerprint
from mproxy.policy.network import outgoing_device, preferred_source
from mproxy.policy.paths import SEGMENTS, Way
from mproxy.policy.trust import HostTrust
from mproxy.programs import probes
from mproxy.programs.between import CommandRun, ProxyBetween
from mproxy.programs.findings import FAULT, NOTE, OK, WARNING, CheckResult, say_s
from mproxy.programs.own_certificate import OwnCertificate
from mproxy.programs.own_key import open_context
from mproxy.service.survey import survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from mproxy.carrier._tls import TlsContext
    from mproxy.ground.config import CproxyConfig
    from mproxy.programs.probes import Connected, Heard

    Findings = Generator[CheckResult, None, Any]

# Connections for the round trip, and the pause between two of them.
ROUNDS = 5
ROUND_PAUSE_S = 0.1

# A connection that takes so much longer than the fastest has lost a packet: SYNs are sent again after a second.
LOST_S = 0.9

# Bytes behind the question, more than fit a single packet of any path.
LARGE_BYTES = 16384

# A round trip and some more: who has answered a small question answers a large one within that.
LARGE_PATIENCE_S = 3.0
LARGE_ROUNDS = 8

# Without an answer to a datagram so long; and to a question over UDP, of which packets may be lost.
UDP_PATIENCE_S = 1.5
UDP_ANSWER_S = 3.0

SLOW_NAME_S = 2.0


# How the first word of an sproxy begins, and what to do when it says that it does not understand us.
MAGIC = encode_preamble()[:4]
LANGUAGES: dict[CloseCode | None, str] = {
    CloseCode.ENCRYPTION: "start both with --plaintext, or both without it",
    CloseCode.VERSION_ERROR: "install the same release of mproxy on both sides"}


class Notes(probes.Silence):
    """What is said of our certificate."""

    why = ""

    def warning(self, event: str, /, **fields: object) -> None:
        self.why = str(fields["why"])


class UdpAnswer(NamedTuple):
    """What was heard over UDP: from an sproxy (`is_sproxy`), or from another server than over TCP (`differs`)."""

    heard: Heard
    is_sproxy: bool
    differs: bool


class Examination:
    """Of the path to one sproxy, as the cproxy with this configuration would have it."""

    def __init__(self, config: CproxyConfig, with_session: bool, long: bool) -> None:
        self._config = config
        self._host, self._port = config.sproxy_host, config.sproxy_port or 0
        self._where = config.sproxy_name
        self._between = ProxyBetween(config) if config.proxy is not None else None
        self._near = config.proxy[1:3] if config.proxy is not None else (self._host, self._port)  # where to connect
        self._patience_s = config.connect_timeout_us / 1e6
        self._with_session = with_session
        self._long = long
        self._context: TlsContext | None = None
        self._notes = Notes()
        self._has_key = True
        self._spki = b""                         # the server's
        self._trust: str | PeerError = ""        # what is to be thought of that
        self._mtu: int | None = None
        self._round_trip_s = 0.0
        self._pem = b""                          # our key, for UDP
        self._certificate: OwnCertificate | None = None
        self._over_udp: UdpAnswer | None = None  # where TCP does not get through
        self._silent_udp = False                 # nor UDP

    def run(self) -> Iterator[CheckResult]:
        """Each finding as soon as it is known. UsageError for a key that is not there."""
        self._open_key()
        yield from self._look_around()
        possible = yield from (self._by_address() if self._config.via is None else self._by_command(self._config.via))
        if possible and self._with_session:
            from mproxy.programs.trial import try_session
            yield from try_session(self._config, self._long)

    def _by_address(self) -> Generator[CheckResult, None, bool]:
        """Everything about the path to an address; whether a session is possible."""
        ways = yield from self._resolve()
        ways = yield from self._route(ways)
        connected = yield from self._connect(ways)
        if self._between is not None:
            connected = yield from self._between.pass_through(connected, self._patience_s)
        elif self._over_udp is not None:
            yield self._say_udp(self._over_udp, ways[0])
            return (yield from self._sproxy(self._over_udp.heard, ""))
        elif not connected:
            yield from self._udp(ways[:1], "")
        welcome = (yield from self._answer(connected)) if connected else None
        if welcome is None:
            return False
        yield from self._round_trip(welcome)
        yield from self._size(welcome)
        if self._between is None:
            yield from self._udp([welcome])
        return True

    def _by_command(self, command: str) -> Generator[CheckResult, None, bool]:
        """The same for a command: nothing is known of its path but what it says."""
        run = CommandRun(command)
        heard = run.converse(lambda sock: self._ask(sock, unwrap=run.unwrap), self._patience_s)
        yield run.judge(heard)
        if heard.refused or self._trust:
            return (yield from self._sproxy(heard, ""))
        if run.brought_sproxy:
            text, advice = self._stranger(None, heard)
            yield CheckResult("answer", FAULT, text, advice)
        return False

    # ---- this host

    def _look_around(self) -> Findings:
        """Whether a cproxy here has a session with it already."""
        for one in survey(1.0):
            facts = one.facts
            if facts is None or one.program != "cproxy" or facts.get("sproxy") != self._where:
                continue
            for session in facts["sessions"]:
                state, why = session["state"], session["why"]
                text = f"{facts['name']} (process {one.pid}) is {state}{f': {why}' if why else ''}"
                yield CheckResult("here", NOTE, text, process=one.pid, state=state)

    def _open_key(self) -> None:
        """Ours, which is not made here: without one, one that is forgotten afterwards."""
        config = self._config
        if not config.plaintext:
            self._has_key = config.key is not None or bool(config.key_file and os.path.lexists(config.key_file))
            self._context = open_context(config.key_file if self._has_key else None, probes.Silence(),
                                         is_server=False, named=config.key, use=self._take_key)
            self._certificate = OwnCertificate(config.certificate_file, self._notes, is_server=False,
                                               named=config.certificate is not None)
            self._certificate.open(self._context)

    def _take_key(self, pem: bytearray) -> None:
        self._pem = bytes(pem)

    # ---- from a name to connections

    def _resolve(self) -> Findings:
        began = time.monotonic()
        host, port = self._near
        addresses, error = probes.resolve(host, port, self._patience_s)
        took_s = time.monotonic() - began
        if error is not None:
            yield CheckResult("name", FAULT, error, (
                "is the name spelt right? 'getent hosts NAME' asks as cproxy does; /etc/hosts can have it, or the name"
                " server in /etc/resolv.conf; an address instead of a name works without either"))
            return []
        shown = [str(address[0]) for _family, address in addresses]
        text = f"{host} is {', '.join(shown)} (found in {say_s(took_s)})"
        if shown == [host]:
            text = f"{host} is an address"
        slow = took_s > SLOW_NAME_S
        yield CheckResult("name", WARNING if slow else OK, text,
                          "the name service is slow: see /etc/resolv.conf" if slow else "", addresses=shown,
                          took_s=round(took_s, 4))
        return [Way(family, address) for family, address in addresses]

    def _route(self, ways: list[Way]) -> Findings:
        """Those that a route leads to."""
        led = []
        for way in ways:
            source, device = preferred_source(way.address), outgoing_device(way.address)
            if source is None:
                continue
            led.append(way)
            over = f" over {device}" if device is not None else ""
            yield CheckResult("route", OK, f"{way.address[0]}: from {source}{over}", address=way.address[0],
                              source=source, device=device)
        for way in ways:
            if way not in led:
                yield CheckResult("route", WARNING if led else FAULT, f"{way.address[0]}: this host has no route to it",
                                  "" if led else "is a network up? 'ip address' and 'ip route' show what there is;"
                                  f" 'ip route get {way.address[0]}' asks for this one", address=way.address[0])
        return led

    def _connect(self, ways: list[Way]) -> Findings:
        """The connections that stand."""
        tried = probes.connect_all(ways, self._patience_s)
        standing = [each for each in tried if each.sock is not None]
        if ways and not standing and self._between is None:
            answer = self._ask_over_udp(ways[0])
            self._over_udp = answer if answer is not None and answer.is_sproxy else None
            self._silent_udp = answer is not None and not answer.heard.first
        for each in tried:
            where = format_host_port(*each.way.address[:2])
            if each.sock is not None:
                yield CheckResult("connect", OK, f"{where}: connected in {say_s(each.took_s)}", address=where,
                                  took_s=round(each.took_s, 6))
            else:
                text, advice = self._explain(each, where)
                copes = standing or self._over_udp is not None
                yield CheckResult("connect", WARNING if copes else FAULT, text, advice, address=where)
        return standing

    def _explain(self, failed: Connected, where: str) -> tuple[str, str]:
        """(what happened, what to do) of a connection that could not be had."""
        error = failed.error
        if isinstance(error, TimeoutError) and error.errno is None:
            return f"{where}: no answer within {self._patience_s:g} s: packets vanish", (
                f"is the host at {where} on, and at that address? Else a firewall drops what goes there: TCP port"
                f" {self._near[1]} must be open from here to {'sproxy' if self._between is None else 'the proxy'}")
        assert error is not None
        if error.errno == errno.ECONNREFUSED and self._between is not None:
            return f"{where}: refused: the host is there, but no proxy listens on that port", (
                "is the proxy running there? Else correct its address in --proxy")
        if error.errno == errno.ECONNREFUSED:
            return f"{where}: refused: the host is there, but nothing listens on that port", (
                "start sproxy there ('ss -ltn' on the server shows who listens), or correct the port; a firewall that"
                " rejects looks the same")
        return f"{where}: {reason_of(error)}", (
            "a router or firewall on the path says so: is the host on, and does its network know the way back?")

    # ---- who answers

    def _judge(self, spki: bytes, certificate: bytes) -> None:
        """As cproxy does, but nothing is remembered."""
        self._spki = spki
        config = self._config
        trust = HostTrust(config.known_hosts_file, config.host_fingerprint)
        try:
            pinned = bool(config.host_fingerprint)
            self._trust = (trust.verify if pinned else trust.check)(self._host, self._port, spki, certificate)
        except PeerError as error:
            self._trust = error
            raise
        except MproxyError as error:
            self._trust = PeerError(CloseCode.KEY_REFUSED, str(error))
            raise self._trust from None

    def _ask(self, sock: socket.socket, list_bytes: int = 0, patience_s: float | None = None, said: bytes = b"",
             unwrap: Callable[[bytes], bytes] = bytes) -> Heard:
        self._spki, self._trust = b"", ""
        return probes.ask_for_session(sock, self._config, self._context, self._judge,
                                      patience_s or self._patience_s, list_bytes, said, unwrap)

    def _connect_again(self, way: Way, segment_bytes: int = 0) -> Connected | None:
        """Another connection by a way that was good before; None when it cannot be had now."""
        (each,) = probes.connect_all([way], self._patience_s, segment_bytes)
        if each.sock is None or (self._between is not None and not self._between.opens(each, self._patience_s)):
            return None
        return each

    def _answer(self, connected: list[Connected]) -> Findings:
        """The first way to an sproxy that lets us in, or would if it were not for a key; None when there is none."""
        usable = None
        several = len(connected) > 1
        for each in connected:
            assert each.sock is not None
            if usable is not None:
                each.sock.close()
                continue
            heard = self._ask(each.sock, said=each.heard)
            at = f"{each.way.address[0]}: " if several else ""
            if heard.silent:
                heard = self._ask_in_small(each.way) or heard
            if heard.refused or self._trust:
                if (yield from self._sproxy(heard, at)):
                    usable = each.way
                    self._mtu = heard.mtu
            else:
                text, advice = self._stranger(each.way if self._between is None else None, heard)
                last = each is connected[-1]
                yield CheckResult("answer", FAULT if last else WARNING, f"{at}{text}", advice)
        return usable

    def _sproxy(self, heard: Heard, at: str) -> Generator[CheckResult, None, bool]:
        """Whether it lets us in."""
        sealed = f"encrypted ({heard.cipher})" if heard.cipher else "not encrypted"
        if not self._config.plaintext and not heard.cipher:
            sealed = "encrypted"
        yield CheckResult("answer", OK, f"{at}an sproxy, protocol version {_wire.VERSION}, {sealed}",
                          version=_wire.VERSION, cipher=heard.cipher)
        if not self._config.plaintext:
            if isinstance(self._trust, PeerError):
                offered = fingerprint(self._spki)
                yield CheckResult("trust", FAULT, str(self._trust), self._say_distrust(offered), offered=offered)
                return False
            yield self._say_trust()
        return (yield from self._own_key(heard))

    def _say_distrust(self, offered: str) -> str:
        """What another key than the expected one means, and what to do."""
        compare = f"compare {offered} with the line host-key in the log of sproxy, or 'mproxy keygen --host' there"
        if not self._config.host_fingerprint:
            file = self._config.known_hosts_file or "known_hosts"
            return f"{compare}; only if they match change {file} as said above"
        return (f"the server at {self._where} does not have the key of --host-fingerprint: it is another server, or it"
                f" has a new key, or someone is intercepting the connection; {compare}; only if they match give cproxy"
                f" --host-fingerprint {offered} instead")

    def _say_trust(self) -> CheckResult:
        key = fingerprint(self._spki)
        if self._trust == "new":
            text = f"its key is not known here yet: {key}; the first cproxy will remember it"
            return CheckResult("trust", NOTE, text, (
                "to be sure that it is the right one, compare it with 'mproxy keygen --host' on the server"),
                offered=key)
        where = "--host-fingerprint" if self._trust == "pinned" else self._config.known_hosts_file
        if self._trust == "certified":
            return CheckResult("trust", OK, f"a CA in {where} says that its key is {key}", offered=key)
        return CheckResult("trust", OK, f"its key is the one in {where}: {key}", offered=key)

    def _own_key(self, heard: Heard) -> Generator[CheckResult, None, bool]:
        ours = fingerprint(self._context.spki) if self._context is not None else None
        named = f" ({ours})" if self._has_key and ours else ""
        code = heard.error.code if heard.error is not None else None
        if code == CloseCode.UNKNOWN_SESSION:
            if self._notes.why:
                yield CheckResult("key", WARNING, f"our certificate: {self._notes.why}", (
                    "sproxy lets us in only if it knows the key itself; else have the CA sign a new one"), key=ours)
            if self._context is None:
                yield CheckResult("key", NOTE, "without encryption there are no keys: sproxy lets anyone in")
            elif self._has_key:
                yield CheckResult("key", OK, f"sproxy lets our key in{named}", key=ours)
            else:
                yield CheckResult("key", NOTE, "there is no key here yet, and none is needed: sproxy lets anyone in")
            return True
        if code == CloseCode.KEY_REFUSED:
            text = f"sproxy does not let our key in{named}: {heard.error}" if self._has_key else (
                "there is no key here yet, and sproxy lets in only those that it knows")
            yield CheckResult("key", FAULT, text, (
                f"mproxy authorize USER@{self._host} puts our key into its authorized_keys; or append there what"
                " 'mproxy keygen' prints here"), key=ours)
        elif code == CloseCode.WRONG_ADDRESS:
            yield CheckResult("key", FAULT, f"sproxy lets our key in, but not from this address{named}: {heard.error}",
                              "change from= in the line of that key in sproxy's authorized_keys", key=ours)
        elif heard.error is not None:
            yield CheckResult("key", FAULT, f"sproxy turns us away: {heard.error}", "see the line 'refused' in its log")
        else:
            yield CheckResult("key", FAULT, f"sproxy ends the connection: {heard.ended or 'it says nothing more'}",
                              "see its log; it may be ignoring this address for a while, after too many failures")
        return False

    def _stranger(self, way: Way | None, heard: Heard) -> tuple[str, str]:
        """(who it is, what to do) of what does not speak as an sproxy does. With a `way` it is asked some more."""
        first, wrong_port = heard.first, "correct the port: sproxy listens on another one"
        if heard.error is not None and first.startswith(MAGIC):
            return f"an sproxy, but {heard.error}", LANGUAGES.get(heard.error.code, "see the log of that sproxy")
        if describe_bytes(first) == "SSH":
            banner = first.split(b"\n")[0].decode(errors="replace").strip()
            return f"an SSH server, not an sproxy: {banner}", (
                f"{wrong_port}; 'sproxy PORT 127.0.0.1:{self._port}' beside that ssh server relays to it")
        http = probes.ask_http(way, self._where, self._patience_s) if way is not None else None
        if http is not None:
            return f"a web server or a captive portal, not an sproxy: {http}", (
                f"does this network want a login first? Open a page in a browser. Else {wrong_port}")
        if describe_bytes(first) == "TLS" or not first:
            subject = probes.ask_tls(way, self._host, self._patience_s) if way is not None else None
            if subject is not None:
                return f"a TLS server or portal, not an sproxy{f': {subject}' if subject else ''}", (
                    f"{wrong_port}; a network that lets only web traffic through may answer in its place")
        if first:
            return f"something other than an sproxy: it sent {describe_bytes(first)}", wrong_port
        if heard.ended is not None:
            return f"the connection is closed without a word ({heard.ended})", (
                "what listens there is not an sproxy, or one that is ignoring this address for a while after too many"
                " failures: see its log")
        if heard.unacknowledged:
            return "the connection is up, but what is sent on it vanishes", (
                "a firewall lets connections begin, but nothing more: ask who runs it, or use another port")
        return "silence: the connection is up, but nothing comes", (
            "the program there hangs (sproxy: see its log, and restart it), or it is not an sproxy and waits for"
            " something else")

    # ---- how good the path is

    def _round_trip(self, way: Way) -> Findings:
        took = []
        for _ in range(ROUNDS):
            (each,) = probes.connect_all([way], self._patience_s)
            if each.sock is not None:
                each.sock.close()  # without a word: sproxy does not count it
                took.append(each.took_s)
            time.sleep(ROUND_PAUSE_S)
        if not took:
            yield CheckResult("path", WARNING, f"none of {ROUNDS} more connections was accepted",
                              "does a firewall limit their number? Wait a minute, and try again")
            return
        least = min(took)
        whole = [each for each in took if each < least + LOST_S]
        jitter = statistics.pstdev(whole)
        lost = ROUNDS - len(whole)
        far = "" if self._between is None else " to the proxy"
        text = f"round trip{far} {say_s(least)}, varying by {say_s(jitter)} ({ROUNDS} tries)"
        facts: dict[str, Any] = {
            "round_trip_s": round(least, 6), "jitter_s": round(jitter, 6), "tries": ROUNDS, "lost": lost}
        if lost:
            yield CheckResult("path", WARNING, f"{text}; packets were lost in {lost} of them", (
                "the path loses packets: sessions live, but with pauses; is the radio weak, or the line full?"),
                **facts)
        else:
            yield CheckResult("path", OK, text, **facts)
        self._round_trip_s = least

    def _ask_in_small(self, way: Way) -> Heard | None:
        """The same question in small packets; None when it is not answered either."""
        each = self._connect_again(way, SEGMENTS[-1])
        heard = self._ask(each.sock, said=each.heard) if each is not None and each.sock is not None else None
        return heard if heard is not None and not heard.silent else None

    def _large_is_heard(self, way: Way, segment_bytes: int = 0) -> bool:
        """Whether what needs packets of full size, or of so many bytes, is answered."""
        each = self._connect_again(way, segment_bytes)
        if each is None or each.sock is None:
            return False
        heard = self._ask(each.sock, LARGE_BYTES, max(LARGE_PATIENCE_S, LARGE_ROUNDS * self._round_trip_s), each.heard)
        self._mtu = heard.mtu or self._mtu
        return not heard.silent

    def _size(self, way: Way) -> Findings:
        """From here to there alone: sproxy has nothing large to say to a stranger."""
        if self._large_is_heard(way):
            there = "get there" if self._between is None else "get to the proxy"
            yield CheckResult("size", OK, f"full-size packets {there} ({self._mtu} bytes)", mtu=self._mtu)
            return
        passes = next((size for size in SEGMENTS if self._large_is_heard(way, size)), None)
        if passes is None:
            yield CheckResult("size", WARNING, "more than a little data does not get there, whatever the packets' size",
                              "the path is very slow or loses packets: try again, also with --session")
            return
        text = f"full-size packets vanish without an ICMP message; those of {passes} bytes get there"
        yield CheckResult("size", WARNING, text, (
            "cproxy finds that out and uses small ones after some seconds. Better: let ICMP 'fragmentation needed'"
            " ('packet too big') pass along the path, or set the MTU of"
            f" {outgoing_device(way.address) or 'the interface'} to {passes + 80}"), segment_bytes=passes)

    def _ask_over_udp(self, way: Way) -> UdpAnswer | None:
        """What is heard there; None: a cproxy like this one never asks, or cannot. What is known of the key is that of
        the server that answers over TCP, if there is one."""
        if self._certificate is None:
            return None
        from mproxy.programs.udp_question import ask_over_udp
        spki, trust = self._spki, self._trust
        self._spki, self._trust = b"", ""
        try:
            heard = ask_over_udp(way, self._config, self._pem, self._certificate.shown, self._judge,
                                 UDP_ANSWER_S + LARGE_ROUNDS * self._round_trip_s)
        except OSError:
            return None
        answer = UdpAnswer(heard, heard.refused or bool(self._trust), bool(spki and self._spki and spki != self._spki))
        if spki:
            self._spki, self._trust = spki, trust
        return answer

    def _say_udp(self, answer: UdpAnswer, way: Way) -> CheckResult:
        """Of an answer over UDP."""
        heard, port = answer.heard, way.address[1]
        if answer.differs:
            return CheckResult("udp", WARNING, "a different server answers over UDP than over TCP", (
                f"UDP port {port} must lead to the same sproxy as TCP port {port}; sessions go over TCP until it does"),
                passes=True, answers=False)
        if answer.is_sproxy:
            return CheckResult("udp", OK, f"sproxy answers over UDP, in {say_s(heard.took_s)}: sessions go over it",
                               passes=True, answers=True)
        why = heard.error or heard.ended or "it says nothing more"
        return CheckResult("udp", WARNING, f"something other than an sproxy answers over UDP: {why}", (
            f"which program has UDP port {port}? sproxy must have it; sessions go over TCP until it does"),
            passes=True, answers=False)

    def _udp(self, ways: list[Way], over_tcp: str = ": sessions go over TCP") -> Findings:
        """Whether sproxy answers there, and if it does not, whether datagrams get that far. `over_tcp`: what there is
        instead; nothing, if TCP does not get through either."""
        for way in ways:
            asked = self._ask_over_udp(way) if not self._silent_udp else None
            if asked is not None and asked.heard.first:
                yield self._say_udp(asked, way)
                continue
            answer = probes.ask_udp(way, UDP_PATIENCE_S)
            passes = None if answer is None else isinstance(answer, bytes) or answer.errno == errno.ECONNREFUSED
            text, advice = self._explain_udp(answer, way.address[1], over_tcp)
            if self._certificate is None:
                text, advice = f"{text}; sessions without encryption go over TCP alone", ""
            yield CheckResult("udp", WARNING if advice else NOTE, text, advice, passes=passes, answers=False)

    def _explain_udp(self, answer: OSError | bytes | None, port: int, over_tcp: str) -> tuple[str, str]:
        """(what became of a datagram to which sproxy does not answer, what to do)."""
        if isinstance(answer, bytes):
            return f"something other than an sproxy answers over UDP{over_tcp}", (
                f"which program has UDP port {port}? 'ss -lun' on the server shows it; sproxy must have it")
        if answer is None:
            return f"no answer over UDP{over_tcp}; mproxy send would get nowhere", (
                f"a firewall drops UDP to port {port}, or sproxy was started with --no-udp: let UDP through like TCP")
        if answer.errno == errno.ECONNREFUSED:
            why = f"{over_tcp} (sproxy --no-udp, or an older release)" if over_tcp else ""
            return f"datagrams get there, but nothing listens for them on that port{why}", ""
        return f"datagrams do not get there: {reason_of(answer)}{over_tcp.replace(':', ';')}", (
            f"a router or firewall on the path says so: let UDP to port {port} through like TCP")
