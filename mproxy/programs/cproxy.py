"""cproxy: the proxy beside the application. Wires listeners, endpoint, dialer and reconnect policy together.

There is one session at a time. It begins with the first application (or --eager) and ends when it has been idle for
--idle. If it ends for another reason its applications are reset, and the next application begins a new one.
"""

from __future__ import annotations

import os
import sys
from errno import ECONNRESET, EPIPE

from mproxy._session import Session
from mproxy._wire import CloseCode, WelcomeFeature
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.handshake import session_tag
from mproxy.io.stdio import open_stdio
from mproxy.keeper.main_process import has_past, say_succession
from mproxy.policy.dialer import DialObserver
from mproxy.policy.instance import Instance
from mproxy.policy.reconnect import Reconnect
from mproxy.programs.away import AwayFacts, AwayTeller
from mproxy.programs.carrier_log import CarrierLog
from mproxy.programs.common import Drain, log_reset, say_session
from mproxy.programs.dialing import make_dialer
from mproxy.programs.introduction import Introduction, advertised, instance_name
from mproxy.programs.last_words import Guard
from mproxy.programs.listening_side import ListeningSide
from mproxy.programs.next_ssh import NextSsh
from mproxy.programs.parting import Parting
from mproxy.programs.refusals import Refusals
from mproxy.programs.remote_places import RemotePlaces
from mproxy.programs.why_ended import STARTED_ANEW, say_close
from mproxy.service.inspection import Inspected, Inspection
from mproxy.service.run import Program, run_program
from mproxy.service.status import Outages, seconds, session_facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from mproxy.ground.config import CproxyConfig
    from mproxy.ground.errors import PeerError
    from mproxy.handshake import Caller, Welcome
    from mproxy.io._loop import Loop, Timer
    from mproxy.programs.succession import Succession
    from mproxy.service.control import Command
    from mproxy.service.log import Log
    from mproxy.transport.keying import LinkKeys

# How long --eager waits after the end of a session before it begins the next: the same may happen again at once.
EAGER_PAUSE_US = 1_000_000


def main(argv: list[str] | None = None) -> int:
    """./cproxy; the exit status."""
    from mproxy.programs.cproxy_options import parse_cproxy  # mproxy connect can do without
    return run_program("cproxy", parse_cproxy, make_program, argv)


def make_program(config: CproxyConfig, log: Log, loop: Loop) -> Program:
    """The program that the configuration asks for."""
    if config.plain:
        from mproxy.programs.plain import PlainRelay
        return PlainRelay(config, log, loop, config.sproxy_host, config.sproxy_port)
    return Cproxy(config, log, loop)


class Cproxy(Program, EndpointObserver, DialObserver, Inspected):
    """Observer of endpoint, listeners and dialer."""

    reloads = True

    def __init__(self, config: CproxyConfig, log: Log, loop: Loop) -> None:
        self._config = config
        self._log = log
        self._loop = loop
        self._sproxy = config.sproxy_name
        self._instance = Instance(config.state_dir, instance_name(config))
        self._owes_goodbye = bool(self._instance.former) and not config.stdio  # a predecessor left a session behind
        self._began_at: int | None = None     # the session
        self._outages = Outages(config.session.heartbeat_us)
        self._inspection = Inspection(loop, log, "cproxy", config.shown_name, self)
        self._failure = ""        # why the last dial led to nothing
        self._endpoint = Endpoint(loop, self._new_session(), self)
        self._listening = ListeningSide(config, log, loop, self._endpoint)
        self._places = RemotePlaces(config, log, loop, self._endpoint)
        self._refusals = Refusals(loop, self._endpoint)
        self._introduction = Introduction(config, log, self._instance, self._endpoint)
        self._dialer = make_dialer(config, log, loop, self, self._introduction)
        self._reconnect = Reconnect(loop, self._endpoint, self._dialer, log, self._carrier_wanted)
        self._teller = AwayTeller(
            loop, log, config.sproxy_host if config.sproxy_port else self._sproxy, self._away_facts)
        self._succession: Succession | None = None  # there is a keeper
        self._lost_at: int | None = None      # the last carrier's last byte, while the session is without a working one
        self._waiting_at: int | None = None   # since when applications have been waiting for a session
        self._idle_timer: Timer | None = None   # of --idle
        self._ttl_timer: Timer | None = None    # of --session-ttl
        self._carriers = CarrierLog(log, config.stdio)
        self._yields = False      # the session gave way to another client: sproxy has --single, or no place left
        self._stopping = False
        self._parting = Parting(loop, self._endpoint)
        self._next_ssh = NextSsh(
            config, loop, self._endpoint, self._teller, self._listening.target,
            lambda: getattr(self._dialer, "will_move", False), self._finish_stdio)
        self._guard = Guard(loop, config, self._instance, log)
        if config.keeper and not config.stdio:
            from mproxy.programs.succession import Succession
            self._succession = Succession(config, loop, self._instance, self._introduction, self._inspection)
            self.is_kept = True

    def open(self) -> None:
        """Open the port, and read the key."""
        self._listening.open()
        self._introduction.open_key()

    def claim(self, fds: list[int]) -> Collection[int]:
        return self._succession.claim(fds, self._listening.tcp_sockets()) if self._succession is not None else ()

    def vows(self) -> dict[str, Any]:
        session = self._endpoint.session
        return {"figures": self._inspection.memory([(session.session_id, self._outages)]), **self._introduction.vows()}

    def keep_vows(self, vows: Mapping[str, Any]) -> None:
        self._introduction.keep_vows(vows)
        self._inspection.recall(vows.get("figures", {}))

    def understands(self, record: bytes) -> bool:
        return self._succession is not None and self._succession.understands(record)

    def start(self) -> None:
        if self._config.notify:
            self._teller.use_notifications()
        if self._config.stdio:
            self._teller.use_terminal()
            self._endpoint.add_pipes(*open_stdio(), self._listening.target)
            self._need_carrier()
            return
        if self._succession is not None:
            self._take_over(self._succession)
        self._listening.start()
        if self._owes_goodbye:
            self._log.info(
                "goodbye-owed", why="a previous cproxy left a session behind: it will be ended as soon as sproxy"
                                    " answers")
        if self._carrier_wanted():
            self._need_carrier()
        if has_past():
            self._log.info("recovered", sessions=int(self._known), streams=self._endpoint.session.streams.open_count)

    def _take_over(self, succession: Succession) -> None:
        """Go on with what the worker before this one had, if there was one."""
        past = succession.take_over(self._endpoint, self.condemned)
        self._dialer.paths.recall(succession.way)
        self._places.begin(past is not None)
        session = self._endpoint.session
        self._owes_goodbye = bool(self._instance.former) and not session.session_id
        for session_id, why in succession.over:
            self._log.warning("ended", session=say_session(session_id), why=why)
            self._inspection.note_end(say_session(session_id), self._sproxy, why)
        if succession.estate.damaged:
            self._log.error("session-damaged", sessions=succession.estate.damaged)
        if past is not None:
            self._log.info("taken-over", session=say_session(session.session_id) or None,
                           streams=session.streams.open_count, lost=past.lost or None)
            now = self._loop.now()
            if self._known:
                self._refusals.site, self._began_at, self._lost_at = past.site, past.began_at, past.lost_at
                self._outages = past.outages
            if past.ending is not None:
                self._end_session(CloseCode.ORDERLY, past.ending, "warning")
                self._owes_goodbye = bool(self._instance.former)
            elif self._known:
                if self._outages.began_at is None:  # else it goes on, for the same reason
                    self._outages.begin(now, say_succession("cproxy"))
                self._note_loss(now - (past.lost_at or now))
                if not self._carrier_wanted():
                    self._end_session(CloseCode.ORDERLY, "lost while idle")
        self._listening.take_in(succession.estate.accepted)

    # ---- the session

    def _new_session(self) -> Session:
        return Session(self._config.session, is_server=False)

    @property
    def _known(self) -> bool:
        """sproxy now has a session for us."""
        return bool(self._endpoint.session.session_id)

    def _carrier_wanted(self) -> bool:
        streams = self._endpoint.session.streams
        return streams.open_count > 0 or self._listening.busy or self._config.eager or self._owes_goodbye or (
            not self._endpoint.attached and streams.owes_reset())

    def _end_session(self, code: int, why: str, level: str = "info") -> None:
        """End the session, if there is one, and be ready for the next."""
        session = self._endpoint.session
        self._dialer.stop()
        if self._endpoint.attached and self._parting.is_believed:
            self._instance.ended()  # otherwise the HELLO of the next session or the next start tells sproxy, or _leave
        self._endpoint.close(code, why)
        self._session_over(session, why, level)

    def _session_over(self, session: Session, why: str, level: str = "info") -> None:
        self._cancel_ttl()
        self._teller.back()
        self._dialer.paths.session_over(proven=not self._config.plaintext)
        self._dialer.advertised(None)
        self._lost_at = None
        self._refusals.forget()
        if session.session_id:
            (self._warn_of_end if level == "warning" else self._log.info)(
                "ended", session=say_session(session.session_id), why=why, streams=session.streams.opened,
                sent=session.streams.out_bytes, received=session.streams.in_bytes)
            self._inspection.session_over(session, self._outages, self._sproxy, why)
        self._endpoint.renew(self._new_session())
        self._places.begin()
        self._began_at, self._outages = None, Outages(self._config.session.heartbeat_us)
        if self._config.stdio:
            self.exit_status = self.exit_status or int(level != "info")
            self._next_ssh.close()
            self._leave()
        elif self._config.eager and not self._stopping and not self._yields:
            self._loop.call_later(EAGER_PAUSE_US, self._reconnect.needed)

    @property
    def _warn_of_end(self) -> Callable[..., None]:
        """How to log what ends applications; with --stdio that is an error, for it ends all."""
        return self._log.error if self._config.stdio else self._log.warning

    def _cancel_ttl(self) -> None:
        if self._ttl_timer is not None:
            self._ttl_timer.cancel()
            self._ttl_timer = None

    # ---- told by the endpoint and the listeners

    def on_waiting(self, _endpoint: Endpoint) -> None:
        """A dial may help now: an application came, or wrote, while there is no carrier; or something answered."""
        self._need_carrier()
        self._reconnect.hurry()

    def _need_carrier(self) -> None:
        if self._waiting_at is None:
            self._waiting_at = self._loop.now()
        self._reconnect.needed()

    def on_resumed(self, endpoint: Endpoint) -> None:
        session = endpoint.session
        self._log.forget("dial-failed")
        self._outages.end(self._loop.now(), session.streams.resend_bytes if self._lost_at else 0, self._lost_at)
        if self._lost_at is None:
            self._carriers.connected(endpoint)
        else:
            self._carriers.resumed(endpoint, self._loop.now() - self._lost_at, session.streams.resend_bytes)
        self._carried()
        self._places.ask()
        self._listening.ask()
        if endpoint.app_count == 0:
            self.on_idle(endpoint)

    def _carried(self) -> None:
        self._teller.back()
        self._lost_at = None
        self._refusals.forget()
        self._cancel_ttl()
        self._carriers.failures = 0
        self._note_for_successor()

    def _away_facts(self) -> AwayFacts:
        now, next_try_at, session = self._loop.now(), self._dialer.next_try_at, self._endpoint.session
        return AwayFacts(now - (self._outages.began_at or now), session.streams.out_held,
                         next_try_at - now if next_try_at is not None else None)

    def on_moved(self, endpoint: Endpoint) -> None:
        self._carriers.moved(endpoint)

    def on_suspect(self, _endpoint: Endpoint) -> None:
        """Nothing was heard for two heartbeats, or an application's byte was not answered."""
        self._reconnect.doubt("nothing heard for too long")

    def on_denied(self, endpoint: Endpoint) -> None:
        """sproxy's worker may be another one: on another carrier it says at once what it has."""
        if endpoint.attached:
            self._reconnect.doubt("sproxy does not know the carrier any more")
        else:
            self._reconnect.hurry()

    def on_stuck(self, endpoint: Endpoint, certain: bool) -> None:
        """Full packets get lost: the next carrier uses smaller ones; if that is not certain, after a second sign."""
        addresses = endpoint.addresses()
        if addresses is None:
            return
        path = addresses[1][0], addresses[0][0], self._loop.now()
        if certain:
            segment = self._dialer.paths.stuck(*path)
            self._reconnect.replace(f"full-size packets are being lost; the next carrier sends at most {segment} bytes"
                                    " in each")
        else:
            self._dialer.paths.may_be_stuck(*path)

    def on_revived(self, endpoint: Endpoint) -> None:
        """The carrier that counted as lost works again."""
        if self._lost_at is not None:
            self._outages.end(self._loop.now(), 0, self._lost_at)
            self._carriers.resumed(endpoint, self._loop.now() - self._lost_at, 0)
        self._carried()
        self._reconnect.revived()

    def on_lost(self, endpoint: Endpoint, why: str) -> None:
        session = endpoint.session
        # sproxy closes the old carrier when it welcomes the next one, and that may be seen before the welcome.
        planned = self._introduction.under_way and not why.startswith("nothing heard")
        if not self._stopping:
            if not planned:
                self._outages.begin(session.received_at, why)
                self._teller.away()
            self._carriers.lost(endpoint, why, planned)
        self._note_loss()
        if self._carrier_wanted():
            self._reconnect.needed()
        elif not planned:
            self._end_session(CloseCode.ORDERLY, "lost while idle")

    def _note_loss(self, waited_us: int = 0) -> None:
        """There is no carrier; the worker before has waited for one for so long."""
        if self._lost_at is None:
            self._lost_at = self._endpoint.session.received_at
        if self._ttl_timer is None:
            ttl_us = self._config.session.session_ttl_us
            self._ttl_timer = self._loop.call_later(max(0, ttl_us - waited_us), self._on_ttl)
        self._note_for_successor()

    def _on_ttl(self) -> None:
        self._end_session(CloseCode.EXPIRED, "no carrier within --session-ttl", "warning")

    def on_closed(self, endpoint: Endpoint, code: int, reason: str, local: bool) -> None:
        """sproxy ended the session, or broke the protocol."""
        who = "sproxy broke the protocol" if local else "sproxy ended it"
        self._dialer.stop()
        self._instance.ended()
        self._yields = code == CloseCode.REPLACED and reason != STARTED_ANEW
        if code == CloseCode.REPLACED and not self._yields:
            self._rename()  # otherwise the twins would replace each other for ever
        self._session_over(endpoint.session, f"{who}: {say_close(code, reason)}", "warning")

    def _rename(self) -> None:
        """A twin is running: take another identity."""
        self._instance.rename()
        self._log.warning("twin", why=(
            "another cproxy has the same identity (was its state directory copied?): this one switches to a new"
            " identity"))

    def on_idle(self, endpoint: Endpoint) -> None:
        if self._config.stdio:
            if endpoint.vanished not in (0, ECONNRESET, EPIPE) and not self.exit_status:
                self._log.error("output-failed", why=f"standard output takes no more: {os.strerror(endpoint.vanished)}")
            self.exit_status = self.exit_status or int(endpoint.vanished != 0)
            if self._stopping or not self._next_ssh.begin():
                self._finish_stdio()
        elif not self._config.eager:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            self._idle_timer = self._loop.call_later(self._config.idle_us, self._on_idle_timeout)

    def _on_idle_timeout(self) -> None:
        if self._endpoint.app_count == 0 and self._carrier_wanted():
            self.on_idle(self._endpoint)  # the last application's bytes are not delivered yet
        elif self._endpoint.app_count == 0 and self._known:
            self._end_session(CloseCode.ORDERLY, "idle")

    def _finish_stdio(self) -> None:
        """The application has gone: leave as soon as the peer has acknowledged the rest, or --drain is over."""
        if not self._stopping:
            self._stop()
            self._parting.when_acknowledged(
                self._loop.now() + self._config.drain_us, lambda: self._end_session(CloseCode.ORDERLY, "finished"))

    def _stop(self) -> None:
        self._stopping = True
        self._next_ssh.close()
        self._teller.withdraw()
        self._parting.ask()

    def on_reset(self, endpoint: Endpoint, stream: int, code: int, why: str) -> None:
        """sproxy reset a stream; its application was reset, after all that the daemon had written."""
        log_reset(self._log, endpoint, stream, code, why, self._warn_of_end)
        if self._config.stdio:
            self.exit_status = 1

    def on_left_away(self, endpoint: Endpoint, stream: int, broken: bool) -> None:
        """An application has gone while there is no carrier; the daemon will be told when there is one."""
        if self._known and not self._stopping:
            self._log.info(
                "left-away", session=say_session(endpoint.session.session_id), stream=stream,
                why=f"the application {'reset' if broken else 'ended'} its connection while there was no carrier")

    def on_listening(self, _endpoint: Endpoint, number: int, listens: bool, text: str) -> None:
        self._places.answered(number, listens, text)

    def on_opened(self, _endpoint: Endpoint, stream: int, target: bytes) -> None:
        self._places.connect(stream, target)

    def on_refused(self, _endpoint: Endpoint, stream: int, target: str, error: int) -> None:
        self._places.unreachable(stream, target, os.strerror(error))

    # ---- told by the dialer

    def still_wanted(self) -> bool:
        return self._reconnect.still_wanted()

    def make_caller(self, keys: LinkKeys | None = None) -> Caller:
        self._guard.prepare()
        return self._introduction.make_caller(keys)

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        """The candidate becomes the carrier."""
        self._introduction.welcomed(welcome)
        self._dialer.advertised(advertised(welcome))
        self._places.is_known = bool(welcome.features & WelcomeFeature.LISTENS)
        self._listening.features = welcome.features
        session = self._endpoint.session
        self._waiting_at = None
        if not session.session_id:
            self._began_at = self._loop.now()
            self._refusals.site, self._lost_at = welcome.site, None
            self._note_for_successor()
            session.learn_identity(welcome.session_id, welcome.secret)
            self._owes_goodbye = False
            self._instance.began(session_tag(welcome.session_id))
            if self._config.stdio:
                self._guard.begin()
        else:
            self._note_loss()
        if self._config.hushed:
            self._log.confine("error")
        carrier = self._dialer.make_carrier(connection, caller.tls)
        self._reconnect.settled(carrier.addresses())
        self._endpoint.attach(carrier, welcome.epoch, welcome.window_bytes, welcome.budget_bytes, b"", caller.leftover)

    def _note_for_successor(self) -> None:
        if self._succession is not None:
            self._succession.note(
                self._endpoint.session, self._began_at, self._lost_at, self._refusals.site, self._outages)

    def on_dial_failed(self, why: str) -> None:
        self._refusals.forget()  # sproxy was not asked: what it said before is no longer the newest
        self._dial_failed(why)

    def _dial_failed(self, why: str) -> None:
        self._tell_failure(why)
        if not self._known:
            self._give_up()

    def on_cut_off(self, why: str) -> None:
        """sproxy, or whatever is in its place, closed a connection before its welcome."""
        self._refusals.forget()
        self._tell_failure(why)
        if not self._known and not self._may_try_again():
            self._give_up()

    def _may_try_again(self) -> bool:
        """Being turned away is not final: sproxy may have too many callers at this moment."""
        return self._waiting_at is None or self._loop.now() - self._waiting_at < self._config.connect_timeout_us

    def _tell_failure(self, why: str) -> None:
        self._introduction.under_way = False
        self._carriers.failures += 1
        self._failure = why
        self._log.warning("dial-failed", sproxy=self._sproxy, why=why)

    def on_turned_away(self, error: PeerError, caller: Caller) -> None:
        self._introduction.under_way = False
        if caller.refused and error.code == CloseCode.STALE_EPOCH:
            self._introduction.is_stale(caller.detail)
        elif caller.refused and error.code == CloseCode.TWIN:
            if caller.detail:
                self._rename()
        elif self._known and caller.refused and self._refusals.is_final(error):
            self._instance.ended()
            why = say_close(error.code or CloseCode.ORDERLY, str(error))
            self._end_session(CloseCode.ORDERLY, f"sproxy ended it: {why}", "warning")
            self._need_carrier()
        elif self._known and caller.refused and self._refusals.is_elsewhere(error):
            self._dialer.shun_answered()
            self._tell_failure(f"another sproxy with the same key answered, not the one that has this session: {error}")
        elif error.code == CloseCode.TOO_MANY:
            self.on_cut_off(str(error))
        else:
            self._dial_failed(str(error))

    def _give_up(self) -> None:
        """There can be no session: reset the applications that wait for it, as a failed connect would."""
        if not (self._config.eager or self._owes_goodbye):
            self._dialer.stop()
        self._waiting_at = None
        self.exit_status = int(self._config.stdio)
        session = self._endpoint.session
        if session.streams.opened:
            self._endpoint.close(CloseCode.ORDERLY, "no session")
            self._session_over(session, "no session")

    # ---- from outside

    def commands(self) -> dict[str, Command]:
        return self._inspection.commands()

    def inspect(self) -> dict[str, Any]:
        return {"state": "stopping" if self._stopping else "running", "listening": self._listening.addresses,
                "remote": self._places.listening, "sproxy": self._sproxy}

    def inspect_sessions(self) -> Iterator[tuple[Endpoint, Callable[[], dict[str, Any]]]]:
        """The session, if there is one or is to be one."""
        if self._known or self._dialer.next_try_at is not None:
            yield self._endpoint, self._inspect_session

    def _inspect_session(self) -> dict[str, Any]:
        now, next_try_at = self._loop.now(), self._dialer.next_try_at
        facts = session_facts(self._endpoint, self._outages, now)
        if facts["state"] == "connecting":
            facts["why"] = self._failure
        return facts | {
            "peer": self._sproxy, "key": self._introduction.host_fingerprint, "comment": None,
            "age_s": seconds(now - self._began_at) if self._began_at is not None else None,
            "next_try_s": seconds(max(0, next_try_at - now)) if next_try_at is not None else None}

    def kill_session(self, _endpoint: Endpoint, why: str) -> None:
        self._end_session(CloseCode.ORDERLY, why, "warning")

    def reload(self) -> None:
        """SIGHUP: known_hosts is read at every dial, and sessions go on."""
        self._log.info("reloaded")

    def hung_up(self) -> bool:
        return self._next_ssh.hung_up(lambda: self.shut_down("SIGHUP"))

    def shut_down(self, _signal: str) -> None:
        """Stop accepting, drain, say goodbye."""
        self._listening.close()
        self._places.close()
        self._log.info("stopping", streams=self._endpoint.app_count)
        self._stop()
        Drain(self._loop, self._unfinished, self._config.drain_us,
              lambda: self._parting.when_answered(self._say_goodbye))

    def _unfinished(self) -> list[Endpoint]:
        return [self._endpoint] if self._known and self._endpoint.session.streams.open_count else []

    def _say_goodbye(self) -> None:
        self._end_session(CloseCode.SHUTDOWN, "cproxy ends")
        if not self._config.stdio:  # with the end of its session that has left
            self._leave()

    def _leave(self) -> None:
        """End. If sproxy could not be told, a process of its own will tell it."""
        path = self._instance.path
        if self._instance.former and self._instance.persistent and path is not None:
            self._instance.release()
            process = self._guard.leave(path)
            self._log.info("goodbye-left", process=process, why=(
                "there is no carrier: a small process stays to tell sproxy once it answers, for an hour at most"))
        else:
            self._guard.dismiss()
        self._dialer.close(self._loop.stop)


if __name__ == "__main__":
    sys.exit(main())
