"""Who gets a session at sproxy, which of its sessions a carrier is for, and what we tell the client in WELCOME."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext

from mproxy import _wire
from mproxy._session import Session
from mproxy._wire import CloseCode, HelloFeature, WelcomeFeature
from mproxy.endpoint._endpoint import Endpoint
from mproxy.ground.errors import PeerError
from mproxy.handshake import NO_SECRET, Welcome
from mproxy.policy.crowd import Rank
from mproxy.policy.tags import NONCE_BYTES
from mproxy.programs.access import check_same_key
from mproxy.programs.clients import MADE_ROOM, Client
from mproxy.programs.guest import ReceptionHost
from mproxy.programs.twins import check_epoch, check_list, check_twin, unknown_session
from mproxy.programs.why_ended import ONE_AT_A_TIME, STARTED_ANEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.carrier._tls import Tls
    from mproxy.endpoint.observer import EndpointObserver
    from mproxy.ground.config import SproxyConfig
    from mproxy.handshake import Hello
    from mproxy.io._loop import Loop
    from mproxy.policy.grants import Grant
    from mproxy.programs.access import Access
    from mproxy.programs.clients import Clients
    from mproxy.programs.crew import Crew
    from mproxy.programs.daemons import Daemons
    from mproxy.programs.datagram_targets import DatagramTargets
    from mproxy.programs.guest import Guest


class Admission(ReceptionHost):
    """Makes clients of the reception's guests. `key_quota`: sessions that one key may have unless its line says more;
    `observer`: of every endpoint; `end(client, code, why, level)` ends the session of another client."""

    def __init__(self, config: SproxyConfig, loop: Loop, access: Access, clients: Clients, crew: Crew | None,
                 daemons: Daemons, datagrams: DatagramTargets, key_quota: int, *, observer: EndpointObserver,
                 end: Callable[..., object]) -> None:
        self._config = config
        self._loop = loop
        self._access = access
        self._clients = clients
        self._crew = crew
        self._daemons = daemons
        self._datagrams = datagrams
        self._key_quota = key_quota
        self._observer = observer
        self._end = end
        self.features: int = WelcomeFeature.LISTENS | WelcomeFeature.DATAGRAMS  # what WELCOME says
        self.site = 0       # see policy.site
        self.address = b""  # that WELCOME tells, for UDP

    def make_tls(self) -> Tls | None:
        return self._access.make_tls()

    def rank(self, tag: int) -> Rank:
        if self._clients.has_tag(tag):
            return Rank.PRESENT
        return Rank.RETURNING if self._access.tags.holds(tag, time.time()) else Rank.STRANGER

    def vouch(self, spki: bytes, peer: str) -> None:
        if self._config.trust_attached:
            self._access.enrol(spki, f"attached by {peer}")

    def judge(self, spki: bytes, host: str, certificate: bytes, *, living: bool = False) -> None:
        self._ask(self._access.grant_living if living else self._access.judge, spki, host, certificate)

    def must_wait(self, guest: Guest, hello: Hello, then: Callable[[], object]) -> bool:
        return self._access.ask(guest.spki, guest.address, guest.certificate, bool(hello.session_id), then)

    def _ask(self, judge: Callable[[bytes, str, bytes], Grant | None], *about: Any) -> Grant | None:
        """What `judge` says of a key that may have a session; a refusal says by the site from whom it comes."""
        try:
            return judge(*about)
        except PeerError as refusal:
            if refusal.code == CloseCode.KEY_REFUSED:
                refusal.detail = self.site
            raise

    def check(self, guest: Guest, hello: Hello, channel: bytes) -> None:
        """Raise PeerError unless what a HELLO claims is proven; nothing is touched."""
        if not hello.session_id:
            return
        client = self._clients.find(hello.session_id)
        if client is None:
            if self._crew is not None:
                self._crew.find(guest, hello.session_id)
            raise unknown_session(
                self.site, guest.is_balanced and self.rank(guest.greeter.peer_tag) != Rank.STRANGER)
        session = client.endpoint.session
        check_same_key(guest.spki, client.spki)
        if not hello.proves(session.secret, channel):
            raise PeerError(CloseCode.BAD_PROOF, "wrong proof for this session")
        check_epoch(hello, session)
        check_list(hello, self._config.session.max_streams)

    def admit(self, guest: Guest, hello: Hello) -> None:
        """Take a guest's carrier, whose HELLO was checked; PeerError turns it away."""
        greeter = guest.greeter
        with nullcontext() if hello.session_id or self._crew is None else self._crew.roster:
            client = self._find(guest, hello) if hello.session_id else self._begin(guest, hello)
        session = client.endpoint.session
        client.stdio = bool(hello.features & HelloFeature.STDIO)
        secret = session.secret if not hello.session_id and greeter.tls is None else NO_SECRET
        welcome = Welcome(
            session.session_id, secret, os.urandom(_wire.NONCE_BYTES), hello.epoch,
            self._config.session.session_budget_bytes, self._config.session.window_bytes, self.features,
            self._new_tag(client), self.site, self.address if hello.features & HelloFeature.ADDRESSED else b"")
        resume_list = session.streams.resume_list()
        if hello.session_id:
            welcome.prove(session.secret, greeter.channel(), hello, resume_list)
        if client.endpoint.attached:
            client.lost_at = session.received_at
        client.set_end_timer(None)
        client.attached_at = self._loop.now()
        client.endpoint.attach(
            guest.make_carrier(), hello.epoch, hello.window_bytes, hello.budget_bytes,
            greeter.prefix + welcome.encode() + resume_list, greeter.leftover)

    def _new_tag(self, client: Client) -> int:
        """The tag for a WELCOME."""
        tag = 0
        while not tag or self._clients.has_tag(tag):
            tag = self._access.tags.make(os.urandom(NONCE_BYTES), time.time(), self._access.worker)
        self._clients.give_tag(client, tag)
        return tag

    def _find(self, guest: Guest, hello: Hello) -> Client:
        """The client of a HELLO that resumes; checks what may have changed since `check`, while the list arrived."""
        client = self._clients.find(hello.session_id)
        if client is None:
            raise PeerError(CloseCode.UNKNOWN_SESSION, "the session has ended in the meantime", self.site)
        check_epoch(hello, client.endpoint.session)
        try:
            client.grant = self._access.grant(guest.spki, guest.address, guest.certificate)
            client.certificate = guest.certificate
        except PeerError:
            client.grant = self._ask(self._access.grant_living, guest.spki, guest.address, client.certificate)
        client.host, client.peer = guest.address, guest.peer
        return client

    def _begin(self, guest: Guest, hello: Hello) -> Client:
        """A client for a HELLO that wants a new session; ends the one that the same cproxy, or --single, replaces."""
        grant = self._access.grant(guest.spki, guest.address, guest.certificate)
        former = self._clients.of_instance(guest.spki, hello.instance_id)
        if former is not None:
            if not self._config.single:
                check_twin(hello, former, self._loop.now())
            check_epoch(hello, former.endpoint.session)
        holder = self._access.holder(guest.spki, guest.address)
        if self._crew is not None:
            self._crew.choose(guest, hello, grant, holder)
        self._make_place(guest, holder, grant, former)
        session_id = guest.greeter.fresh_id or os.urandom(_wire.SESSION_ID_BYTES)
        encrypted = guest.greeter.tls is not None
        secret = guest.greeter.fresh_secret(session_id) if encrypted else os.urandom(_wire.SECRET_BYTES)
        session = Session(self._config.session, is_server=True, session_id=session_id, secret=secret)
        endpoint = Endpoint(self._loop, session, self._observer)
        endpoint.default_target = self._daemons.default_of_session(guest.spki)
        client = Client(endpoint, guest.spki, hello.instance_id, guest.address, guest.peer, holder, self._loop.now(),
                        self._config.session.heartbeat_us)
        client.grant, client.certificate = grant, guest.certificate
        self._datagrams.serve(client)
        self._clients.add(client)
        return client

    def _make_place(self, guest: Guest, holder: bytes | str, grant: Grant | None, former: Client | None) -> None:
        """End what a new session replaces: `former` of the same cproxy, or all with --single, or one that gives way."""
        if self._config.single:
            for client in self._clients:
                self._end(client, CloseCode.REPLACED, STARTED_ANEW if client is former else ONE_AT_A_TIME)
            if self._crew is not None:
                self._crew.end_others(ONE_AT_A_TIME)
        elif former is not None:
            self._end(former, CloseCode.REPLACED, STARTED_ANEW)
        else:
            quota = None
            if self._access.guarded:
                quota = (grant and grant.max_sessions) or self._key_quota
            if self._crew is not None:
                leaving = self._crew.make_room(guest, holder, quota, self._loop.now())
            else:
                leaving = self._clients.places.make_room(holder, quota, self._loop.now())
            if leaving is not None:
                self._end(leaving, CloseCode.REPLACED, MADE_ROOM, "warning" if leaving.streams else "info")
