"""sproxy: the proxy beside the daemon. Accepts carriers, decides which session each belongs to, connects daemons."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from functools import partial

from mproxy import _wire
from mproxy._pool import limit_memory
from mproxy._session import Session
from mproxy._wire import CloseCode, HelloFeature, ResetCode
from mproxy.carrier._tcp_carrier import TcpCarrier
from mproxy.endpoint._app import share_descriptors
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import format_host_port
from mproxy.ground.errors import PeerError
from mproxy.handshake import NO_SECRET, Welcome, session_tag
from mproxy.io._accept import AcceptGate
from mproxy.io._socket import Target
from mproxy.io.accept_observer import AcceptLog
from mproxy.policy.crowd import Rank
from mproxy.policy.keys import fingerprint
from mproxy.policy.memory import SESSION_BYTES, buffer_limit, promises
from mproxy.policy.places import Places, key_quota
from mproxy.policy.resolver import Resolver, numeric_address
from mproxy.policy.site import Site
from mproxy.policy.sources import source_of
from mproxy.policy.tags import NONCE_BYTES
from mproxy.policy.targets import without_guarded
from mproxy.programs.access import DAY_US, LOOK_US, Access, check_same_key
from mproxy.programs.common import Drain, log_killed, open_listeners, say_carrier, say_seconds, say_session
from mproxy.programs.cproxy import STARTED_ANEW, describe
from mproxy.programs.greeting import Reception, ReceptionHost, most_unfinished
from mproxy.programs.options import parse_sproxy
from mproxy.service.inspection import Inspected, Inspection
from mproxy.service.run import Program, run_program
from mproxy.service.status import Ended, Outages, seconds, session_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any

    from mproxy.carrier._tls import Tls
    from mproxy.ground.config import SproxyConfig
    from mproxy.ground.shapes import Address
    from mproxy.handshake import Hello
    from mproxy.io._loop import Loop, Timer
    from mproxy.policy.grants import Grant
    from mproxy.programs.greeting import Guest
    from mproxy.service.control import Command
    from mproxy.service.log import Log

# A longer list of streams is not an honest one (docs/protocol.md, section 8).
LIST_BYTES = 4 * _wire.HEADER_BYTES
LIST_BYTES_MORE = 16385 * _wire.HEADER_BYTES

# How long to keep a session without streams and carrier, which has nothing worth keeping: its cproxy begins a new one.
EMPTY_SESSION_US = 60_000_000

# How often the addresses of connected sessions are noted as those of known people.
NEIGHBOURS_US = 3_600_000_000

TWIN = "another running cproxy has the same identity: was its state directory copied?"


def main(argv: list[str] | None = None) -> int:
    """./sproxy; the exit status."""
    return run_program("sproxy", parse_sproxy, make_program, argv)


def make_program(config: SproxyConfig, log: Log, loop: Loop) -> Program:
    """The program that the configuration asks for."""
    if config.plain:
        from mproxy.programs.plain import PlainRelay
        log.warning("open-door", daemons=format_host_port(config.daemon_host, config.daemon_port), why=(
            "--plain: no key is required; anyone who can reach the port can use"
            " it"), close="start sproxy without --plain")
        return PlainRelay(config, log, loop, config.daemon_host, config.daemon_port)
    return Sproxy(config, log, loop)


class Client:
    """One session and what sproxy remembers about it."""

    def __init__(self, endpoint: Endpoint, hello: Hello, guest: Guest, holder: bytes | str, now: int,
                 heartbeat_us: int) -> None:
        self.endpoint = endpoint
        self.instance_id = hello.instance_id
        self.spki = guest.spki     # the key it began with; empty without encryption
        self.host = guest.address  # where its newest carrier comes from,
        self.peer = guest.peer     # with the port
        self.holder = holder       # whose place it has
        self.grant: Grant | None = None          # what its key may do; None: everything
        self.stdio = False         # all its streams come from --stdio
        self.tags: list[int] = []             # that its cproxy may show, the newest last
        self.began_at = now
        self.outages = Outages(heartbeat_us)
        self.lost_at: int | None = None  # the last carrier's last byte
        self.end_timer: Timer | None = None  # of --session-ttl
        self.resumed = False   # had a carrier before
        self.attached_at = 0   # when it got its newest carrier
        self.probed_at: int | None = None  # when that carrier was last made to show that it is alive

    @property
    def attached(self) -> bool:
        return self.endpoint.attached

    @property
    def lent(self) -> bool:
        return self.grant is None or self.grant.max_sessions is None

    @property
    def streams(self) -> int:
        return self.endpoint.session.streams.open_count

    @property
    def name(self) -> str:
        """What the log calls the session."""
        return say_session(self.endpoint.session.session_id)


class Sproxy(Program, EndpointObserver, ReceptionHost, Inspected):
    """Observer of every endpoint and of the reception."""

    reloads = True

    def __init__(self, config: SproxyConfig, log: Log, loop: Loop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._stopping = False
        self._inspection = Inspection(loop, log, "sproxy", config.shown_name, self)
        self._clients: dict[bytes, Client] = {}    # session id -> Client
        self._ended = Ended()                      # those that are gone
        self._instances: dict[tuple[bytes, bytes], Client] = {}  # (key, instance id) -> Client
        self._tags: dict[int, Client] = {}       # routing tag -> Client
        self._resolver = Resolver(loop.call_soon_threadsafe)
        self._default_target: Target | None = None   # if it was given as a number
        self._default_addresses: list[Address] = []
        self._listeners: list[socket.socket] = []  # until they are served
        self._listening: list[tuple[str, int]] = []  # (host, port) of each listener
        self._access = Access(config, log)
        self._reception = Reception(loop, AcceptGate(loop, AcceptLog(log), takes_spare=True), log, config, self)
        most = self._share_out()
        self._places: Places[Client] = Places(most)
        self._key_quota = key_quota(most)
        self._site = 0  # see policy.site

    def open(self) -> None:
        """Open the port, and read the keys and the files beside them."""
        self._listeners = open_listeners(self._config)
        self._access.open()
        self._site = Site(self._config.state_dir, self._config.port or 0).number

    @property
    def authorized_keys_file(self) -> str | None:
        return None if self._config.plaintext else self._config.authorized_keys_file

    def start(self) -> None:
        listeners, self._listeners = self._listeners, []
        self._listening = [listener.getsockname()[:2] for listener in listeners]
        self._say_open_door()
        if not self._config.plaintext:
            self._loop.call_later(LOOK_US, self._look_at_keys)
        self._note_neighbours()
        host, port = self._config.daemon_host, self._config.daemon_port
        numeric = numeric_address(host, port)
        if numeric is not None and numeric[0]:
            self._default_addresses = numeric[0]
            self._default_target = self._target(format_host_port(host, port), numeric[0], b"")
        for listener in listeners:
            address = listener.getsockname()
            self._reception.open(listener)
            self._log.info("listening", address=address[0], port=address[1], daemon=format_host_port(host, port))

    def _share_out(self) -> int:
        """Promise every session its part of --memory-limit and of the descriptors; returns how many sessions there can
        be."""
        config = self._config
        whole = buffer_limit(config.memory_limit_bytes)
        most, each = promises(whole, config.max_sessions)
        if most < config.max_sessions:
            self._log.warning("few-sessions", most=most, why=(
                f"--memory-limit is too small for --max-sessions {config.max_sessions}"))
        limit_memory(whole - most * SESSION_BYTES, most, each)
        share_descriptors(most, 2 * most_unfinished(config))
        return most

    def _say_open_door(self) -> None:
        """At the start and once a day tell whoever runs this."""
        self._access.say_open(self._listening)
        self._loop.call_later(DAY_US, self._say_open_door)

    # ---- carriers

    def make_tls(self) -> Tls | None:
        return self._access.make_tls()

    def rank(self, tag: int) -> Rank:
        if tag in self._tags:
            return Rank.PRESENT
        return Rank.RETURNING if self._access.tags.holds(tag, time.time()) else Rank.STRANGER

    def judge(self, spki: bytes, host: str) -> None:
        """Raise PeerError unless the key may connect from that address; it is asked again when a session begins."""
        self._grant_living(spki, host)

    def _grant_living(self, spki: bytes, host: str) -> Grant | None:
        """The Grant of a key that may have a session; a refusal says by the site from whom it comes."""
        try:
            return self._access.grant_living(spki, host)
        except PeerError as refusal:
            if refusal.code == CloseCode.KEY_REFUSED:
                refusal.detail = self._site
            raise

    def check(self, guest: Guest, hello: Hello, channel: bytes) -> None:
        """Raise PeerError unless what a HELLO claims is proven; nothing is touched."""
        if not hello.session_id:
            return
        client = self._clients.get(hello.session_id)
        if client is None:
            raise PeerError(
                CloseCode.UNKNOWN_SESSION, "no such session; sproxy was restarted, or it expired", self._site)
        session = client.endpoint.session
        check_same_key(guest.spki, client.spki)
        if not hello.proves(session.secret, channel):
            raise PeerError(CloseCode.BAD_PROOF, "wrong proof for this session")
        check_epoch(hello, session)
        if hello.list_bytes > LIST_BYTES * self._config.session.max_streams + LIST_BYTES_MORE:
            raise PeerError(CloseCode.LIMIT_ERROR, "more streams than a session may have")

    def admit(self, guest: Guest, hello: Hello) -> None:
        """Take a guest's carrier, whose HELLO was checked; PeerError turns it away."""
        greeter = guest.greeter
        client = self._find(guest, hello) if hello.session_id else self._begin(guest, hello)
        session = client.endpoint.session
        client.stdio = bool(hello.features & HelloFeature.STDIO)
        secret = session.secret if not hello.session_id and greeter.tls is None else NO_SECRET
        welcome = Welcome(
            session.session_id, secret, os.urandom(_wire.NONCE_BYTES), hello.epoch,
            self._config.session.session_budget_bytes, self._config.session.window_bytes,
            routing_tag=self._new_tag(client), site=self._site)
        resume_list = session.streams.resume_list()
        if hello.session_id:
            welcome.prove(session.secret, greeter.channel(), hello, resume_list)
        if client.endpoint.attached:
            client.lost_at = session.received_at
        self._set_end_timer(client, None)
        client.attached_at = self._loop.now()
        client.endpoint.attach(
            TcpCarrier(self._loop, guest.sock.detach(), greeter.tls), hello.epoch, hello.window_bytes,
            hello.budget_bytes, greeter.prefix + welcome.encode() + resume_list, greeter.leftover)

    def _new_tag(self, client: Client) -> int:
        """The tag for a WELCOME. That may not arrive, so the former tag stays valid, too."""
        tag = self._access.tags.make(os.urandom(NONCE_BYTES), time.time())
        client.tags.append(tag)
        self._tags[tag] = client
        if len(client.tags) > 2:
            self._tags.pop(client.tags.pop(0), None)
        return tag

    def _find(self, guest: Guest, hello: Hello) -> Client:
        """The client of a HELLO that resumes; checks what may have changed since `check`, while the list arrived."""
        client = self._clients.get(hello.session_id)
        if client is None:
            raise PeerError(CloseCode.UNKNOWN_SESSION, "the session has ended in the meantime", self._site)
        check_epoch(hello, client.endpoint.session)
        client.grant = self._grant_living(guest.spki, guest.address)
        client.host, client.peer = guest.address, guest.peer
        return client

    def _begin(self, guest: Guest, hello: Hello) -> Client:
        """A client for a HELLO that wants a new session; ends the one that the same cproxy, or --single, replaces."""
        grant = self._access.grant(guest.spki, guest.address)
        former = self._instances.get((guest.spki, hello.instance_id))
        if former is not None:
            if not self._config.single:
                self._check_twin(hello, former)
            check_epoch(hello, former.endpoint.session)
        holder = self._holder(guest.spki, guest.address)
        self._make_place(holder, grant, former)
        session_id = os.urandom(_wire.SESSION_ID_BYTES)
        encrypted = guest.greeter.tls is not None
        secret = guest.greeter.fresh_secret(session_id) if encrypted else os.urandom(_wire.SECRET_BYTES)
        session = Session(self._config.session, is_server=True, session_id=session_id, secret=secret)
        endpoint = Endpoint(self._loop, session, self)
        endpoint.default_target = None if self._access.guarded else self._default_for(guest.spki)
        client = Client(endpoint, hello, guest, holder, self._loop.now(), self._config.session.heartbeat_us)
        client.grant = grant
        self._clients[session_id] = client
        self._places.add(client, holder)
        self._instances[guest.spki, hello.instance_id] = client
        return client

    def _holder(self, spki: bytes, address: str) -> bytes | str:
        """Whose place a session takes: its key's, if keys mean something."""
        return spki if self._access.guarded else source_of(address)

    def _make_place(self, holder: bytes | str, grant: Grant | None, former: Client | None) -> None:
        """End what a new session replaces: `former` of the same cproxy, or all with --single, or one that gives way."""
        if self._config.single:
            for client in list(self._clients.values()):
                self._end(client, CloseCode.REPLACED, (
                    STARTED_ANEW if client is former else "--single: a new session started"))
        elif former is not None:
            self._end(former, CloseCode.REPLACED, STARTED_ANEW)
        else:
            quota = None
            if self._access.guarded:
                quota = (grant and grant.max_sessions) or self._key_quota
            leaving = self._places.make_room(holder, quota, self._loop.now())
            if leaving is not None:
                self._end(leaving, CloseCode.REPLACED, "all places were taken: it made room for a new session",
                          "warning" if leaving.streams else "info")

    def _check_twin(self, hello: Hello, former: Client) -> None:
        """Raise PeerError if a new session's instance is not the former one come back, but has a copy of its state.

        Whoever has a working carrier keeps its session, whatever the other one knows: the copy may be recent. Without
        one, a session with streams is kept for the cproxy that knows it. A session without streams may never have been
        known there: its WELCOME may have been lost.
        """
        if not hello.features & HelloFeature.RENAMES:
            return
        session = former.endpoint.session
        if former.endpoint.attached:
            if former.probed_at is None or former.probed_at < former.attached_at:
                former.endpoint.probe()
                former.probed_at = self._loop.now()
            heard = session.received_at > former.probed_at
            raise PeerError(CloseCode.TWIN, TWIN if heard else "the previous session still holds its connection",
                            int(heard))
        if session.streams.open_count and hello.former != session_tag(session.session_id):
            raise PeerError(CloseCode.TWIN, TWIN, 1)

    def _end(self, client: Client, code: int, why: str, level: str = "info") -> None:
        """End a session from this side."""
        client.endpoint.close(code, why)
        self._forget(client, why, level)

    def _forget(self, client: Client, why: str, level: str = "info") -> None:
        session = client.endpoint.session
        self._set_end_timer(client, None)
        self._clients.pop(session.session_id, None)
        self._ended.add(session, client.outages, self._loop.now())
        self._places.remove(client, client.holder)
        for tag in client.tags:
            self._tags.pop(tag, None)
        if self._instances.get((client.spki, client.instance_id)) is client:
            del self._instances[client.spki, client.instance_id]
        (self._log.warning if level == "warning" else self._log.info)(
            "ended", session=client.name, peer=client.peer, why=why, streams=session.streams.opened,
            sent=session.streams.out_bytes, received=session.streams.in_bytes)
        self._inspection.note_end(client.name, client.host, why)
        client.endpoint.dispose()

    def _client(self, endpoint: Endpoint) -> Client:
        return self._clients[endpoint.session.session_id]

    def _set_end_timer(self, client: Client, delay_us: int | None) -> None:
        if client.end_timer is not None:
            client.end_timer.cancel()
        client.end_timer = None
        if delay_us is not None:
            client.end_timer = self._loop.call_later(
                delay_us, lambda: self._end(client, CloseCode.EXPIRED, "no carrier for "
                                            + ("--stdio-ttl" if client.stdio else "--session-ttl")))

    # ---- told by the endpoints; a carrier that is in doubt, or loses full packets, is cproxy's business

    def on_resumed(self, endpoint: Endpoint) -> None:
        client = self._client(endpoint)
        fields = say_carrier(endpoint)
        session = endpoint.session
        client.outages.end(self._loop.now(), session.streams.resend_bytes if client.resumed else 0, client.lost_at)
        if not client.resumed:
            if self._config.source_per_key:
                fields["source"] = ".".join(map(str, loopback_of(client.spki)))
            self._log.info("connected", session=client.name, **fields, **say_key(client))
        else:
            after = say_seconds(self._loop.now() - (client.lost_at or self._loop.now()))
            self._log.info(
                "resumed", session=client.name, after=after, resent=session.streams.resend_bytes,
                streams=session.streams.open_count, epoch=session.epoch, **fields)
        client.resumed = True
        client.lost_at = None

    def on_lost(self, endpoint: Endpoint, why: str) -> None:
        """The carrier is gone; the session waits for the next."""
        client = self._client(endpoint)
        session = endpoint.session
        client.lost_at = session.received_at
        client.outages.begin(client.lost_at, why)
        self._reception.known_at(client.host)
        self._log.warning(
            "lost", session=client.name, peer=client.peer, why=why, streams=session.streams.open_count,
            unacknowledged=session.streams.out_held)
        self._wait_for_carrier(client)

    def on_idle(self, endpoint: Endpoint) -> None:
        client = self._client(endpoint)
        if not endpoint.attached:
            self._wait_for_carrier(client)

    def _wait_for_carrier(self, client: Client) -> None:
        ttl_us = self._config.session.session_ttl_us
        if client.stdio:
            ttl_us = min(ttl_us, self._config.stdio_ttl_us)
        self._set_end_timer(client, ttl_us if client.streams else min(ttl_us, EMPTY_SESSION_US))

    def on_closed(self, endpoint: Endpoint, code: int, reason: str, local: bool) -> None:
        """cproxy ended the session, or broke the protocol."""
        who = "cproxy broke the protocol" if local else "cproxy ended it"
        self._forget(self._client(endpoint), f"{who}: {describe(code, reason)}", "warning" if local else "info")

    def on_reset(self, endpoint: Endpoint, stream: int, code: int, why: str) -> None:
        """cproxy's application has reset its connection, as they do, or somebody has."""
        if code == ResetCode.KILLED:
            log_killed(self._log, endpoint, stream, why)

    def on_left_away(self, endpoint: Endpoint, stream: int, broken: bool) -> None:
        """A daemon ended while its client was away; the application will be told when there is a carrier again."""
        client = self._clients.get(endpoint.session.session_id)
        if client is not None:
            self._log.info(
                "left-away", session=client.name, peer=client.peer, stream=stream,
                why=f"the daemon {'reset' if broken else 'closed'} its connection while there was no carrier")

    def on_refused(self, endpoint: Endpoint, stream: int, target: str, error: int) -> None:
        self._log.warning(
            "daemon-unreachable", session=self._client(endpoint).name, stream=stream, daemon=target,
            why=os.strerror(error))

    # ---- daemons by name or by request

    def _target(self, text: str, addresses: list[Address], spki: bytes) -> Target:
        """A daemon, as reached for a key."""
        if self._config.source_per_key:
            return Target(text, addresses, loopback_of(spki))
        return Target(text, addresses)

    def _default_for(self, spki: bytes) -> Target | None:
        """The same for the default daemon; None if its name has to be looked up."""
        if self._default_target is None or not self._config.source_per_key:
            return self._default_target
        return self._target(self._default_target.text, self._default_addresses, spki)

    def on_opened(self, endpoint: Endpoint, stream: int, target: bytes) -> None:
        """Find the daemon for a stream, if it names one, the default one has a name, or its client has a Grant."""
        client = self._client(endpoint)
        try:
            client.grant = self._access.grant_living(client.spki, client.host)
        except PeerError as refusal:
            self._loop.call_later(0, partial(self._revoke, client, refusal))  # the endpoint is at work
            endpoint.refuse(stream, ResetCode.NOT_ALLOWED)
            return
        found = self._access.target(target, client.grant)
        most = client.grant.max_streams if client.grant is not None else None
        if found is None:
            self._log.warning("refused", session=client.name, stream=stream, why="target is not allowed",
                              target=target.decode(errors="replace") or "the default daemon")
            endpoint.refuse(stream, ResetCode.NOT_ALLOWED)
        elif most is not None and sum(each.streams for each in self._places.held(client.holder)) > most:
            endpoint.refuse(stream, ResetCode.STREAM_LIMIT)
        elif not target and (default := self._default_for(client.spki)) is not None:
            endpoint.connect(stream, default)
        else:
            host, port = found
            self._resolver.resolve(host, port, lambda addresses, error: self._resolved(
                endpoint, stream, (host, port), addresses, error))

    def _resolved(self, endpoint: Endpoint, stream: int, target: tuple[str, int], addresses: list[Address],
                  error: str | None) -> None:
        if endpoint.session.session_id not in self._clients:
            return
        text = format_host_port(*target)
        usable = without_guarded(addresses or [], target[0])
        if error is None and not usable:
            error = "the name resolves to a link-local or metadata address, which can be used only as a numeric address"
        if error is not None:
            self._log.warning("daemon-unreachable", session=self._client(endpoint).name, stream=stream, daemon=text,
                              why=error)
            endpoint.refuse(stream, ResetCode.UNREACHABLE)
        else:
            endpoint.connect(stream, self._target(text, usable, self._client(endpoint).spki))

    # ---- keys that are taken away

    def _look_at_keys(self) -> None:
        """End the sessions of keys that were removed, or have expired."""
        self._loop.call_later(LOOK_US, self._look_at_keys)
        self._judge_living(self._access.changed())

    def _judge_living(self, changed: bool = True) -> None:
        for client in list(self._clients.values()):
            if changed:
                self._rehouse(client)
            if self._access.guarded:
                client.endpoint.default_target = None  # from now on every stream is checked
            if changed or (client.grant is not None and client.grant.expires_at is not None):
                try:
                    client.grant = self._access.grant_living(client.spki, client.host)
                except PeerError as refusal:
                    self._revoke(client, refusal)

    def _rehouse(self, client: Client) -> None:
        """Everybody may have had access when the session began: places belong to keys from then on."""
        self._places.remove(client, client.holder)
        client.holder = self._holder(client.spki, client.host)
        self._places.add(client, client.holder)

    def _note_neighbours(self) -> None:
        """At addresses with sessions strangers must not lock out others."""
        self._loop.call_later(NEIGHBOURS_US, self._note_neighbours)
        for client in self._clients.values():
            if client.attached:
                self._reception.known_at(client.host)

    def _revoke(self, client: Client, error: PeerError) -> None:
        if self._clients.get(client.endpoint.session.session_id) is client:
            self._end(client, error.code or CloseCode.ORDERLY, str(error), "warning")

    # ---- from outside

    def commands(self) -> dict[str, Command]:
        return self._inspection.commands()

    def inspect(self) -> dict[str, Any]:
        return {"state": "stopping" if self._stopping else "running",
                "listening": [format_host_port(*address) for address in self._listening],
                "daemon": format_host_port(self._config.daemon_host, self._config.daemon_port),
                "ended": self._ended.facts()}

    def inspect_sessions(self) -> Iterator[tuple[Endpoint, Callable[[], dict[str, Any]]]]:
        for session_id in list(self._clients):
            client = self._clients.get(session_id)
            if client is not None:
                yield client.endpoint, partial(self._inspect_client, client)

    def _inspect_client(self, client: Client) -> dict[str, Any]:
        now = self._loop.now()
        return session_facts(client.endpoint, client.outages, now) | {
            "peer": client.host, **say_key(client), "age_s": seconds(now - client.began_at), "next_try_s": None}

    def kill_session(self, endpoint: Endpoint, why: str) -> None:
        self._end(self._client(endpoint), CloseCode.ORDERLY, why, "warning")
        endpoint.reset_rest()

    def reload(self) -> None:
        """SIGHUP: authorized_keys counts as it is now, for existing sessions, too."""
        keys = self._access.reload()
        self._judge_living()
        self._log.info("reloaded", keys=keys)

    def shut_down(self, _signal: str) -> None:
        """Stop accepting, drain, say goodbye."""
        self._stopping = True
        self._reception.close()
        self._log.info("stopping", sessions=len(self._clients))
        Drain(self._loop, self._busy_endpoints, self._config.drain_us, self._say_goodbye)

    def _busy_endpoints(self) -> list[Endpoint]:
        return [c.endpoint for c in self._clients.values() if c.endpoint.app_count]

    def _say_goodbye(self) -> None:
        for client in list(self._clients.values()):
            self._end(client, CloseCode.SHUTDOWN, "sproxy is shutting down")
            client.endpoint.reset_rest()
        self._loop.stop()


def loopback_of(spki: bytes) -> bytes:
    """An address in 127.0.0.0/8 for a key, 4 bytes: always the same, and not one in common use (127.0.x.y)."""
    first, second, third = hashlib.sha256(b"mproxy loopback\0" + spki).digest()[:3]
    return bytes((127, 1 + first % 254, second, 1 + third % 254))


def say_key(client: Client) -> dict[str, str | None]:
    """Whose session it is, for the log: None without encryption."""
    comment = client.grant.comment if client.grant is not None else ""
    return {"key": fingerprint(client.spki) if client.spki else None, "comment": comment or None}


def check_epoch(hello: Hello, session: Session) -> None:
    """Raise PeerError unless the HELLO is newer than every carrier of the session."""
    if hello.epoch <= session.epoch:
        raise PeerError(CloseCode.STALE_EPOCH, "a newer carrier exists", session.epoch)


if __name__ == "__main__":
    sys.exit(main())
