"""sproxy: the proxy beside the daemon. Accepts carriers, decides which session each belongs to, connects daemons."""

from __future__ import annotations

import os
import sys
from functools import partial

from mproxy._wire import CloseCode, ResetCode, WelcomeFeature
from mproxy.carrier._datagram_carrier import DatagramCarrier
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import format_host_port, say_address
from mproxy.ground.errors import MproxyError, PeerError
from mproxy.io._accept import AcceptGate
from mproxy.io.accept_observer import AcceptLog
from mproxy.keeper.estate import Estate
from mproxy.keeper.main_process import has_past, is_first, say_succession
from mproxy.policy.places import key_quota
from mproxy.policy.site import Site
from mproxy.programs.access import DAY_US, LOOK_US, NEIGHBOURS_US, Access
from mproxy.programs.admission import Admission
from mproxy.programs.client_log import ClientLog
from mproxy.programs.client_record import understands
from mproxy.programs.clients import Client, Clients
from mproxy.programs.common import Drain, advertised_address, log_killed, open_listeners
from mproxy.programs.cycles import Cycles
from mproxy.programs.daemons import Daemons
from mproxy.programs.datagram_targets import DatagramTargets
from mproxy.programs.greeting import Reception
from mproxy.programs.heirs import Heirs
from mproxy.programs.served_places import ServedPlaces
from mproxy.programs.sharing import share_out
from mproxy.programs.sproxy_options import parse_sproxy
from mproxy.programs.why_ended import say_close
from mproxy.service.control import Handover
from mproxy.service.inspection import Inspected, Inspection
from mproxy.service.run import Program, run_program
from mproxy.service.status import seconds, session_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from mproxy.ground.config import SproxyConfig
    from mproxy.io._loop import Loop
    from mproxy.programs.crew import Crew
    from mproxy.programs.link_guest import LinkDoor
    from mproxy.service.control import Command, Desk, Reply, Server
    from mproxy.service.log import Log

# How long to keep a session without streams and carrier, which has nothing worth keeping: its cproxy begins a new one.
EMPTY_SESSION_US = 60_000_000


def main(argv: list[str] | None = None) -> int:
    """./sproxy; the exit status."""
    if "--attach" in (sys.argv[1:] if argv is None else argv):
        from mproxy.programs.attach import main as attach
        return attach(argv)
    return run_program("sproxy", parse_sproxy, make_program, argv)


def make_program(config: SproxyConfig, log: Log, loop: Loop) -> Program:
    """The program that the configuration asks for."""
    if config.plain:
        from mproxy.programs.plain import PlainRelay, say_open
        say_open(config, log)
        return PlainRelay(config, log, loop, config.daemon_host, config.daemon_port)
    return Sproxy(config, log, loop)


class Sproxy(Program, EndpointObserver, Inspected):
    """Observer of every endpoint."""

    reloads = True

    def __init__(self, config: SproxyConfig, log: Log, loop: Loop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self.is_kept = config.keeper
        self._estate = Estate()
        self._stopping = False
        self._is_spokesman = True  # the worker that says what concerns the whole program, if there are several
        self._inspection = Inspection(loop, log, "sproxy", config.shown_name, self)
        self._listeners: list[socket.socket] = []  # until they are served
        self._listening: list[tuple[str, int]] = []  # (host, port) of each listener
        self._access = Access(config, log)
        self.workers = config.workers
        most = share_out(config, log)
        self._crew: Crew | None = None
        if config.workers > 1:
            from mproxy.programs.crew import Crew
            self._crew = Crew(config.workers, most)
        self._clients = Clients(most) if self._crew is None else self._crew.clients
        self._carriers = ClientLog(log, config.source_per_key)
        self._daemons = Daemons(config, log, loop, self._access, self._clients)
        self._places = ServedPlaces(log, loop, self._access, self._clients)
        self._datagrams = DatagramTargets(config, log, loop, self._access, self._clients, self._daemons)
        self._admission = Admission(
            config, loop, self._access, self._clients, self._crew, self._daemons, self._datagrams, key_quota(most),
            observer=self, end=self._end)
        self._reception = Reception(
            loop, AcceptGate(loop, AcceptLog(log), takes_spare=True), log, config, self._admission)
        self._most = most
        self._link_door: LinkDoor | None = None
        if config.may_take_udp:
            from mproxy.programs.link_guest import LinkDoor
            self._link_door = LinkDoor(loop, log, config, self._reception, self._access.make_keying)

    def open(self) -> None:
        """Open the port, and read the keys and the files beside them."""
        self._listeners = open_listeners(self._config)
        if self._link_door is not None and not self._link_door.bind(self._listeners):
            self._link_door = None
        self._access.open()
        self._places.open()
        self._admission.site = Site(self._config.state_dir, self._config.port or 0).number

    @property
    def authorized_keys_file(self) -> str | None:
        return None if self._config.plaintext else self._config.authorized_keys_file

    def claim(self, fds: list[int]) -> Collection[int]:
        wanted = self._estate.claim(fds, self._places.claim(fds, self._estate))
        return wanted | self._places.claimed()

    def understands(self, record: bytes) -> bool:
        return understands(record)

    def vows(self) -> dict[str, Any]:
        figures = self._inspection.memory((client.session_id, client.outages) for client in self._clients)
        return {"figures": figures, "guarded": self._access.guarded}

    def keep_vows(self, vows: Mapping[str, Any]) -> None:
        self._inspection.recall(vows.get("figures", {}))
        if vows.get("guarded") and not self._access.guarded:
            raise MproxyError("authorized_keys is missing or cannot be read any more: anyone could come in")

    def join(self, number: int) -> None:
        assert self._crew is not None
        self._crew.join(number)
        self._places.open()  # those of this worker alone
        self._access.worker = number
        self._is_spokesman = number == 0

    def open_desk(self, loop: Loop, log: Log, name: str, commands: Mapping[str, Command]) -> Desk | Server | None:
        assert self._crew is not None
        return self._crew.open_desk(loop, log, name, commands)

    def start(self) -> None:
        Cycles().begin()
        listeners, self._listeners = self._listeners, []
        self._listening = [listener.getsockname()[:2] for listener in listeners]
        self._admission.address = advertised_address(self._config, self._listening)
        is_new = is_first() and self._is_spokesman
        if self._crew is not None:
            self._reception.placing = self._crew
            self._crew.start(self._loop, self._log, self._access, self._reception, listeners, self._end)
        if is_new:
            self._access.say_open(self._listening)
        if self._is_spokesman:
            self._loop.call_later(DAY_US, self._say_open_door)
        if self._config.exit_idle_us is not None and self._is_spokesman:
            from mproxy.programs.idle_end import IdleEnd
            IdleEnd(self._loop, self._config.exit_idle_us, self._in_use, self._end_idle)
        if not self._config.plaintext:
            self._access.start(self._loop, lambda: [client.spki for client in self._clients])
            self._loop.call_later(LOOK_US, self._look_at_keys)
        self._note_neighbours()
        self._daemons.open()
        daemon = format_host_port(self._config.daemon_host, self._config.daemon_port)
        linked = self._go_on()
        for listener in listeners:
            address = listener.getsockname()
            self._reception.open(listener)
            if is_new:
                self._log.info("listening", address=address[0], port=address[1], daemon=daemon,
                               udp="yes" if self._link_door is not None else None)
        if self._link_door is not None:
            self._link_door.open(self._most, self._crew)
            self._link_door.disown(linked)
            self._admission.features |= WelcomeFeature.UDP
        if has_past():
            streams = sum(client.streams for client in self._clients)
            self._log.info("recovered", sessions=len(self._clients), streams=streams)

    def _say_open_door(self) -> None:
        self._access.say_open(self._listening)
        self._loop.call_later(DAY_US, self._say_open_door)

    def _go_on(self) -> list[str]:
        """Go on with the sessions of the worker before, as if they had lost their carriers; returns where those are
        whose carriers were of datagrams."""
        self._inspection.outlive()
        heirs = Heirs(self._loop, self._config.session, self, self._inspection.history_of)
        heirs.find(self._estate.sessions, self._estate.ill(self.condemned))
        for client in heirs.over:
            self._inspection.ended.add(client.endpoint.session, client.outages, self._loop.now())
            client.endpoint.dispose()
        for client, lost in heirs.clients:
            self._datagrams.serve(client)
            self._clients.add(client)
            self._log.info("taken-over", session=client.name, peer=client.peer, streams=client.streams,
                           lost=lost or None)
            if client.lost_at is None:
                self.on_lost(client.endpoint, say_succession("sproxy"))
            else:
                self._wait_for_carrier(client, self._loop.now() - client.lost_at)
            try:
                client.grant = self._access.grant_living(client.spki, client.host, client.certificate)
            except PeerError as refusal:
                self._revoke(client, refusal)
            else:
                client.endpoint.default_target = self._daemons.default_of_session(client.spki)
        self._places.recall([client for client, _lost in heirs.clients], self._estate.accepted)
        for name, record in heirs.condemned:
            why = "workers died in its turn"
            self._log.warning("ended", session=name, peer=record.peer, why=why)
            self._inspection.note_end(name, record.host, why)
        if self._estate.damaged + heirs.nameless:
            self._log.error("session-damaged", sessions=self._estate.damaged + heirs.nameless)
        return heirs.linked

    # ---- sessions

    def _end(self, client: Client, code: int, why: str, level: str = "info") -> None:
        """End a session from this side."""
        client.endpoint.close(code, why)
        self._forget(client, why, level)

    def _forget(self, client: Client, why: str, level: str = "info") -> None:
        session = client.endpoint.session
        self._note_revival(client)
        client.set_end_timer(None)
        self._places.forget(client)
        self._clients.remove(client)
        (self._log.warning if level == "warning" else self._log.info)(
            "ended", session=client.name, peer=client.peer, why=why, streams=session.streams.opened,
            sent=session.streams.out_bytes, received=session.streams.in_bytes)
        self._inspection.session_over(session, client.outages, client.host, why)
        client.endpoint.dispose()

    # ---- told by the endpoints; a carrier that is in doubt, or loses full packets, is cproxy's business

    def on_resumed(self, endpoint: Endpoint) -> None:
        client = self._clients.of(endpoint)
        self._note_revival(client)
        if client.resumed:
            self._works_again(client, self._loop.now(), endpoint.session.streams.resend_bytes)
            return
        client.end_outage(self._loop.now(), 0)
        self._carriers.connected(client)

    def on_revived(self, endpoint: Endpoint) -> None:
        client = self._clients.of(endpoint)
        client.set_end_timer(None)
        client.attached_at = client.revived_at = self._loop.now()
        self._loop.call_slow(partial(self._note_revival, client))

    def _note_revival(self, client: Client) -> None:
        """What a carrier that works again costs besides: when thousands come back, that is not to hold up those who
        have been there all the time."""
        at, client.revived_at = client.revived_at, None
        if at is not None and self._clients.find(client.session_id) is client:
            self._works_again(client, at, 0)

    def _works_again(self, client: Client, at: int, resent: int) -> None:
        self._carriers.resumed(client, client.end_outage(at, resent), resent)

    def on_lost(self, endpoint: Endpoint, why: str) -> None:
        """The carrier is gone, or silent; the session waits for the next."""
        client = self._clients.of(endpoint)
        self._note_revival(client)
        client.begin_outage(why)
        self._reception.known_at(client.host)
        self._carriers.lost(client, why)
        self._wait_for_carrier(client)

    def on_moved(self, endpoint: Endpoint) -> None:
        """The client has another address, at which its key may not be allowed."""
        client, carrier = self._clients.of(endpoint), endpoint.carrier
        assert isinstance(carrier, DatagramCarrier)  # no other one moves
        client.host, client.peer = carrier.link.peer[0], say_address(carrier.link.peer)
        client.note()
        self._carriers.moved(client)
        try:
            client.grant = self._access.grant_living(client.spki, client.host, client.certificate)
        except PeerError as refusal:
            if refusal.code == CloseCode.WRONG_ADDRESS:
                return carrier.lose(str(refusal))  # the client may come back from where it is allowed
            self._loop.call_later(0, partial(self._revoke, client, refusal))  # the endpoint is at work

    def on_idle(self, endpoint: Endpoint) -> None:
        if not endpoint.attached:
            self._wait_for_carrier(self._clients.of(endpoint))

    def _wait_for_carrier(self, client: Client, waited_us: int = 0) -> None:
        ttl_us = self._config.session.session_ttl_us
        if client.stdio:
            ttl_us = min(ttl_us, self._config.stdio_ttl_us)
        if not client.streams:
            ttl_us = min(ttl_us, EMPTY_SESSION_US)
        client.set_end_timer(self._loop.call_later(max(0, ttl_us - waited_us), lambda: self._end(
            client, CloseCode.EXPIRED, "no carrier for " + ("--stdio-ttl" if client.stdio else "--session-ttl"))))

    def on_closed(self, endpoint: Endpoint, code: int, reason: str, local: bool) -> None:
        """cproxy ended the session, or broke the protocol."""
        who = "cproxy broke the protocol" if local else "cproxy ended it"
        self._forget(self._clients.of(endpoint), f"{who}: {say_close(code, reason)}", "warning" if local else "info")

    def on_reset(self, endpoint: Endpoint, stream: int, code: int, why: str) -> None:
        """cproxy's application has reset its connection, as they do, or somebody has."""
        if code == ResetCode.KILLED:
            log_killed(self._log, endpoint, stream, why)

    def on_left_away(self, endpoint: Endpoint, stream: int, broken: bool) -> None:
        """A daemon ended while its client was away; the application will be told when there is a carrier again."""
        client = self._clients.find(endpoint.session.session_id)
        if client is not None:
            self._log.info(
                "left-away", session=client.name, peer=client.peer, stream=stream,
                why=f"the daemon {'reset' if broken else 'closed'} its connection while there was no carrier")

    def on_refused(self, endpoint: Endpoint, stream: int, target: str, error: int) -> None:
        self._log.warning(
            "daemon-unreachable", session=self._clients.of(endpoint).name, stream=stream, daemon=target,
            why=os.strerror(error))

    def on_opened(self, endpoint: Endpoint, stream: int, target: bytes) -> None:
        client = self._clients.of(endpoint)
        try:
            self._daemons.connect(client, stream, target)
        except PeerError as refusal:
            self._loop.call_later(0, partial(self._revoke, client, refusal))  # the endpoint is at work
            endpoint.refuse(stream, ResetCode.NOT_ALLOWED)

    def on_listen(self, endpoint: Endpoint, number: int, was_last: bool, place: str) -> None:
        client = self._clients.of(endpoint)
        self._places.settle(client) if was_last else self._places.listen(client, number, place)

    # ---- keys that are taken away

    def _look_at_keys(self) -> None:
        """End the sessions of keys that were removed, or have expired."""
        self._loop.call_later(LOOK_US, self._look_at_keys)
        self._judge_living(self._access.changed())

    def _judge_living(self, changed: bool = True) -> None:
        for client in self._clients if changed or self._access.guarded else ():
            if changed:
                # Everybody may have had access when the session began: places belong to keys from then on.
                self._clients.rehouse(client, self._access.holder(client.spki, client.host))
            if self._access.guarded:
                client.endpoint.default_target = None  # from now on every stream is checked
            if changed or (client.grant is not None and client.grant.expires_at is not None):
                try:
                    client.grant = self._access.grant_living(client.spki, client.host, client.certificate)
                except PeerError as refusal:
                    self._revoke(client, refusal)
                else:
                    self._places.judge(client)
                    self._datagrams.judge(client)

    def _note_neighbours(self) -> None:
        self._loop.call_later(NEIGHBOURS_US, self._note_neighbours)
        for client in self._clients:
            if client.attached:
                self._reception.known_at(client.host)

    def _revoke(self, client: Client, error: PeerError) -> None:
        if self._clients.find(client.session_id) is client:
            self._end(client, error.code or CloseCode.ORDERLY, str(error), "warning")

    # ---- from outside

    def commands(self) -> dict[str, Command]:
        return {**self._inspection.commands(), "attach": self._attach}

    def _attach(self, _request: dict[str, Any], reply: Reply) -> None:
        """{"command": "attach"}: the connection is one of a cproxy, as one that was accepted."""
        if self._stopping:
            reply({"ok": False, "lines": ["this sproxy is ending"]})
        else:
            reply(Handover(lambda sock, pid: self._reception.receive_local(sock, f"process {pid}"), {
                "ports": sorted({port for _host, port in self._listening}), "key": self._access.fingerprint}))

    def inspect(self) -> dict[str, Any]:
        who = self._access.open_to(self._listening)
        return {"state": "stopping" if self._stopping else "running",
                "listening": [format_host_port(*address) for address in self._listening],
                "daemon": format_host_port(self._config.daemon_host, self._config.daemon_port),
                "open": None if who is None else {"to": who, "close": self._access.how_to_close()}}

    def inspect_sessions(self) -> Iterator[tuple[Endpoint, Callable[[], dict[str, Any]]]]:
        for client in self._clients:
            if self._clients.find(client.session_id) is client:
                yield client.endpoint, partial(self._inspect_client, client)

    def _inspect_client(self, client: Client) -> dict[str, Any]:
        now = self._loop.now()
        self._note_revival(client)
        return session_facts(client.endpoint, client.outages, now) | {
            "peer": client.host, **client.say_key(), "age_s": seconds(now - client.began_at), "next_try_s": None}

    def kill_session(self, endpoint: Endpoint, why: str) -> None:
        self._end(self._clients.of(endpoint), CloseCode.ORDERLY, why, "warning")
        endpoint.reset_rest()

    def reload(self) -> None:
        """SIGHUP: authorized_keys counts as it is now, for existing sessions, too."""
        keys = self._access.reload()
        self._judge_living()
        self._log.info("reloaded", keys=keys)

    def shut_down(self, _signal: str) -> None:
        """Stop accepting, drain, say goodbye."""
        self._stopping = True
        if self._crew is not None:
            self._crew.stop_accepting()
        self._reception.close()
        if self._link_door is not None:
            self._link_door.close()
        for client in self._clients:
            self._places.forget(client)
        self._log.info("stopping", sessions=len(self._clients))
        Drain(self._loop, self._busy_endpoints, self._config.drain_us, self._say_goodbye)

    def _end_idle(self) -> None:
        self._log.info("idle-end", why="there was no session for --exit-idle")
        if self._crew is not None:
            self._crew.end_program()
        else:
            self.shut_down("")

    def _in_use(self) -> bool:
        return bool(len(self._clients)) or (self._crew is not None and self._crew.in_use)

    def _busy_endpoints(self) -> list[Endpoint]:
        return [c.endpoint for c in self._clients if c.endpoint.app_count]

    def _say_goodbye(self) -> None:
        for client in self._clients:
            self._end(client, CloseCode.SHUTDOWN, "sproxy is shutting down")
            client.endpoint.reset_rest()
        if self._link_door is not None:
            self._link_door.leave(self._loop.stop)
        else:
            self._loop.stop()


if __name__ == "__main__":
    sys.exit(main())
