"""A running relay: signals, commands, service manager and log on one side, what does the relaying on the other.

What does the relaying is a Datapath: a Supervisor with workers, or a Kernel.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from mproxy import __version__
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import counted
from mproxy.programs.relay_rules import listed, propose
from mproxy.relay.live_rules import LiveRules
from mproxy.relay.rule_file import ListenError, read_written
from mproxy.relay.supervisor import Supervisor
from mproxy.service.background import PidFile, leave_terminal
from mproxy.service.control import ask, find_running, open_control
from mproxy.service.rights import User
from mproxy.service.run import make_loop, raise_descriptor_limit
from mproxy.service.signal_handlers import install_signals
from mproxy.service.systemd import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from mproxy.ground.shapes import ListenAddress
    from mproxy.relay.datapath import Datapath, Facts
    from mproxy.relay.relay_config import RelayConfig
    from mproxy.relay.rules import Rule
    from mproxy.service.background import Background, LogFile
    from mproxy.service.control import Reply, Server


# How long a start waits for the UDP ports of a relay that is stopping: it keeps them for a second, or longer on a busy
# host.
PREDECESSOR_S, PREDECESSOR_LOOK_S = 10.0, 0.05


def is_any_stopping() -> bool:
    """Whether another relay of this user is about to end."""
    for _program, pid, path in find_running("relay"):
        if pid != os.getpid():
            with contextlib.suppress(MproxyError):
                if ask(path, "status").get("state") == "stopping":
                    return True
    return False


class Service:
    """One relay, from its start to its end."""

    def __init__(self, config: RelayConfig, log_file: LogFile, background: Background,
                 given: dict[ListenAddress, list[socket.socket]]) -> None:
        self._config = config
        self._log_file = log_file
        self._background = background
        self._notifier = Notifier()
        self._loop, self.log = make_loop(config)
        self._started_at = self._loop.now()
        self._live = LiveRules((), config.origin)
        self._reloads = 0
        self._last_reload: list[str] | None = None  # what went wrong; None: nothing
        self._is_ready = False
        self._stopping = False
        self._exit_status = 0
        self._failure: MproxyError | None = None
        self._pidfile: PidFile | None = None
        self._server: Server | None = None
        self._user = User(config.user) if config.user else None
        self._has_given = bool(given)  # sockets of the service manager, which can be taken only once
        self._datapath = self._make_datapath(given)

    def _make_datapath(self, given: dict[ListenAddress, list[socket.socket]]) -> Datapath:
        if self._config.kernel:
            from mproxy.relay.kernel.kernel_mode import Kernel
            return Kernel(self._config, self.log, self._loop)
        return Supervisor(self._config, self.log, self._loop, given, self._prepare_worker)

    def _prepare_worker(self) -> None:
        """Prepare the new process of a worker, before it does anything."""
        if self._config.daemon:
            leave_terminal()
        if self._user is not None:
            self._user.become()

    def run(self, rules: Sequence[Rule]) -> int:
        """Serve until stopped; returns the exit status. MproxyError if it cannot start. `rules`: as they were written,
        before `settle_rules`."""
        self._pidfile = PidFile(self._config.pidfile) if self._config.pidfile else None
        try:
            raise_descriptor_limit()
            install_signals(self._loop, self._stop, self.reload if self._config.file else None, self._stop_at_once)
            self._listen_for_commands()
            self._live = LiveRules(rules, self._config.origin)
            if not self._config.kernel:
                from mproxy.relay.kernel.namespace_lock import take_back
                take_back(self.log)
            self._start()
            self._loop.run()
            if self._failure is not None:
                raise self._failure
        finally:
            if self._server is not None:
                self._server.close()
            self._release_pidfile()
        self.log.tell_rest()
        self.log.info("stopped")
        return self._exit_status

    def _start(self) -> None:
        """Start what does the relaying. A predecessor that stops sends its last answers from its UDP ports, which takes
        a second: wait for it."""
        patience_until = time.monotonic() + PREDECESSOR_S
        while True:
            try:
                self._datapath.start(self._live.rules, self._on_ready, self._on_failed)
                return
            except ListenError:
                if self._has_given or time.monotonic() > patience_until or not is_any_stopping():
                    raise
            time.sleep(PREDECESSOR_LOOK_S)

    def _release_pidfile(self) -> None:
        """The next start need not wait for this run's connections."""
        if self._pidfile is not None:
            self._pidfile.remove()
            self._pidfile = None

    def _on_ready(self) -> None:
        if self._stopping:
            return
        self._is_ready = True
        self.log.info("ready", pid=os.getpid(), rules=len(self._live.rules), mode=self._mode)
        self._notifier.ready(counted(len(self._live.rules), "rule"))
        self._notifier.keep_no_more()
        self._background.ready()
        if self._config.daemon:
            self._log_file.forget_former()
        if self._notifier.watchdog_us:
            self._feed_watchdog()

    def _on_failed(self, error: MproxyError) -> None:
        """It cannot start after all."""
        self._failure = error
        self._loop.stop()

    def _feed_watchdog(self) -> None:
        self._notifier.watchdog()
        self._loop.call_later(self._notifier.watchdog_us // 3, self._feed_watchdog)

    @property
    def _mode(self) -> str:
        return "kernel" if self._config.kernel else "user"

    # ---- commands

    def _listen_for_commands(self) -> None:
        self._server = open_control(self._loop, self.log, "relay", {
            "status": lambda _request, reply: self._datapath.status(lambda facts: reply(self._facts(facts))),
            "reload": lambda _request, reply: self._reload(reply),
            "rule": self._change_rules})

    def _facts(self, facts: Facts) -> Facts:
        return {
            "program": "relay", "name": self._config.shown_name, "version": __version__, "pid": os.getpid(),
            "uid": os.geteuid(), "mode": self._mode, "rules_from": self._config.origin,
            "state": "stopping" if self._stopping else "running" if self._is_ready else "starting",
            "uptime_s": (self._loop.now() - self._started_at) // 1_000_000,
            "reloads": self._reloads, "last_reload_errors": self._last_reload or [], **facts}

    def reload(self) -> bool:
        """SIGHUP: read the file again and change to its rules. True: that is not the end."""
        if self._stopping:
            self.log.error("reload-failed", why="the relay is stopping")
        else:
            self._reload(lambda _answer: None)
        return True

    def _reload(self, reply: Callable[[dict[str, Any]], object]) -> None:
        """Change to the file's rules; then `reply({"ok": bool, "lines": what is wrong, "done": summary})`."""
        if self._stopping or not self._config.file:
            why = "the relay is stopping" if self._stopping else "the rule is from the command line: there is no file"
            reply({"ok": False, "lines": [why]})
            return
        self._notifier.reloading()
        try:
            self._log_file.open()
            self._datapath.reopen_log(2)
            self._datapath.reopen_access()
            proposed = self._live.propose_file(read_written(self._config.file))
            added, changed, removed = self._datapath.apply(proposed.rules)
        except MproxyError as error:
            lines = error.lines()
            for line in lines:
                self.log.error("reload-failed", why=line)
            self._last_reload = lines
            self._notifier.ready("reload failed: the previous rules stay in effect")
            reply({"ok": False, "lines": [*lines, "nothing was changed: the previous rules stay in effect"]})
            return
        self._live.settle(proposed)
        self._last_reload = None
        self._reloads += 1
        self._datapath.when_followed(lambda: self._reloaded(len(proposed.rules), added, changed, removed, reply))

    def _reloaded(self, rules: int, added: int, changed: int, removed: int,
                  reply: Callable[[dict[str, Any]], object]) -> None:
        self.log.info("reloaded", rules=rules, added=added, changed=changed, removed=removed)
        total = counted(rules, "rule")
        self._notifier.ready(total)
        reply({"ok": True, "lines": [], "done": f"{total}: {added} added, {changed} changed, {removed} removed"})

    def _change_rules(self, request: dict[str, Any], reply: Reply) -> None:
        """`mproxy relay rule`: one rule more or less, or all of them; the answer comes when the workers follow."""
        if request.get("do") == "list":
            reply({"ok": True, "rules": listed(self._live)})
            return
        try:
            if self._stopping or not self._is_ready:
                raise MproxyError("the relay is stopping" if self._stopping else "the relay is starting: try again")
            proposed, done = propose(self._live, request)
            self._datapath.apply(proposed.rules)
        except MproxyError as error:
            reply({"ok": False, "lines": error.lines(), "usage": isinstance(error, UsageError)})
            return
        self._live.settle(proposed)
        self._datapath.when_followed(lambda: self._rules_changed(done, reply))

    def _rules_changed(self, done: str, reply: Reply) -> None:
        self.log.info("rules-changed", what=done)
        reply({"ok": True, "lines": [], "done": done})

    # ---- the end

    def _stop(self, why: str) -> None:
        self._stopping = True
        self.log.info("stopping", why=why)
        self._notifier.stopping()
        self._notifier.keep(self._datapath.listening_fds())
        self._release_pidfile()
        self._datapath.stop(self._config.drain_timeout_us, self._loop.stop)

    def _stop_at_once(self) -> None:
        """A second signal: end at once, with the connections."""
        self._exit_status = 1
        self._datapath.stop_at_once()
        self._loop.stop()
