"""The goodbye of a cproxy that ended without one, said for it by a small process.

Otherwise its session, with its daemon connections, would stay at sproxy for --session-ttl. last_words.py starts the
process. It dials at the usual pace, and begins a new session with the identity of the cproxy that ended: so sproxy ends
the former session, and then the new one is ended at once. So no secret is passed on, and a cproxy that starts meanwhile
simply does the same first.
"""

from __future__ import annotations

import ast
import os
import sys

from mproxy._session import Session
from mproxy._wire import CloseCode
from mproxy.endpoint._endpoint import Endpoint
from mproxy.endpoint.observer import EndpointObserver
from mproxy.ground.config import CproxyConfig, SessionConfig
from mproxy.ground.errors import MproxyError
from mproxy.policy.dialer import DialObserver
from mproxy.policy.instance import LeftBehind
from mproxy.policy.reconnect import Reconnect
from mproxy.programs.common import say_session
from mproxy.programs.dialing import make_dialer
from mproxy.programs.introduction import Introduction
from mproxy.programs.last_words import VARIABLE
from mproxy.service.rights import protect_memory
from mproxy.service.run import make_loop
from mproxy.service.signal_handlers import install_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mproxy.ground.errors import PeerError
    from mproxy.handshake import Caller, Welcome
    from mproxy.io._loop import Loop
    from mproxy.service.log import Log
    from mproxy.transport.keying import LinkKeys

# How long it tries. The clock stands still while the host sleeps, so a closed laptop says goodbye when it is opened.
PATIENCE_US = 3_600_000_000

def main() -> int:
    """Run in the process that last_words.py started."""
    protect_memory()
    os.nice(10)
    values = ast.literal_eval(os.environ.pop(VARIABLE))
    files = values.pop("instances")
    config = CproxyConfig(session=SessionConfig(**values.pop("session")), **values)
    return next((status for status in (say_goodbye(config, file) for file in files) if status), 0)


def say_goodbye(config: CproxyConfig, file: str) -> int:
    """For the instance in `file`; returns an exit status, 0 when this process owes nothing for it any more."""
    try:
        left = LeftBehind(file)
    except OSError:
        return 0  # another process sees to it
    loop, log = make_loop(config)
    program = Goodbye(config, log, loop, left)
    try:
        install_signals(loop, program.shut_down)
        program.start()
    except MproxyError:
        return 1  # the key is gone
    loop.run()
    log.tell_rest()
    return program.exit_status


class Goodbye(EndpointObserver, DialObserver):
    """Observer of endpoint and dialer."""

    def __init__(self, config: CproxyConfig, log: Log, loop: Loop, left: LeftBehind) -> None:
        self.exit_status = 1
        self._log = log
        self._loop = loop
        self._left = left
        self._speaking = False  # there is a connection that may have said HELLO
        self._endpoint = Endpoint(loop, Session(config.session, is_server=False), self)
        self._introduction = Introduction(config, log, left, self._endpoint)
        self._dialer = make_dialer(config, log, loop, self, self._introduction)
        self._reconnect = Reconnect(loop, self._endpoint, self._dialer, log, lambda: True)

    def start(self) -> None:
        self._introduction.open_key()
        self._loop.call_later(PATIENCE_US, self._loop.stop)
        self._reconnect.needed()

    def shut_down(self, _signal: str) -> None:
        """SIGTERM: the next start of cproxy will say it."""
        self._loop.stop()

    # ---- told by the dialer

    def still_wanted(self) -> bool:
        """Whether the goodbye is still owed, and by us."""
        owed = self._left.take()
        if not self._speaking:
            self._left.let_go()
        if not owed:
            self._finish()
        return owed

    def make_caller(self, keys: LinkKeys | None = None) -> Caller:
        self._speaking = True
        self._left.take()
        return self._introduction.make_caller(keys)

    def on_welcome(self, connection: Any, caller: Caller, welcome: Welcome) -> None:
        """The former session has ended; there is an empty one instead."""
        self._left.ended()
        self._endpoint.session.learn_identity(welcome.session_id, welcome.secret)
        carrier = self._dialer.make_carrier(connection, caller.tls)
        self._reconnect.settled(carrier.addresses())
        self._endpoint.attach(carrier, welcome.epoch, welcome.window_bytes, welcome.budget_bytes, b"", caller.leftover)

    def on_dial_failed(self, _why: str) -> None:
        self._let_go()

    def on_cut_off(self, _why: str) -> None:
        self._let_go()

    def on_turned_away(self, error: PeerError, caller: Caller) -> None:
        """sproxy refused: a living twin owes nothing; any other refusal may pass."""
        self._let_go()
        if error.code == CloseCode.STALE_EPOCH and caller.refused:
            self._introduction.is_stale(caller.detail)
        elif error.code == CloseCode.TWIN and caller.detail:
            self._finish()

    def _let_go(self) -> None:
        self._speaking = False
        self._left.let_go()

    # ---- told by the endpoint

    def on_resumed(self, endpoint: Endpoint) -> None:
        """The former session is over, and there is nothing more to do."""
        self._log.info("goodbye-said", session=say_session(endpoint.session.session_id))
        self._endpoint.close(CloseCode.SHUTDOWN, "cproxy has ended")
        self._finish()

    def on_lost(self, _endpoint: Endpoint, _why: str) -> None:
        """The carrier of the empty session was lost: nothing to save."""
        self._finish()

    def on_closed(self, _endpoint: Endpoint, _code: int, _reason: str, _local: bool) -> None:
        """sproxy ended the session first."""
        self._finish()

    def on_suspect(self, endpoint: Endpoint) -> None:
        """What follows WELCOME is late."""
        self.on_lost(endpoint, "")

    on_denied = on_suspect

    def _finish(self) -> None:
        self.exit_status = 0
        self._dialer.close(self._loop.stop)


if __name__ == "__main__":
    from mproxy.programs.start import take_name
    take_name("cproxy-goodbye")
    sys.exit(main())
