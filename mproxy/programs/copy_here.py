"""This end of `mproxy copy`: starts ssh, asks the other end for its port, and then sends or receives as `mproxy send`
and `mproxy recv` do. It is always this end that dials: the other one is the one that can be reached.

The data go straight to the other end's UDP port. What does not get through there within PIPE_AFTER_US is carried
through ssh itself (packet_pipe). ssh may end meanwhile, as when our address changes: the transfer goes on.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import threading

from mproxy.ground.errors import MproxyError
from mproxy.policy.via_command import ViaCommand
from mproxy.programs.copy_begun import SECRET_BYTES
from mproxy.programs.copy_options import PROGRAM, RECEIVERS, SENDERS, CopyConfig
from mproxy.programs.copy_places import asked_for, find_landing, make_directory_of, without_dots
from mproxy.programs.copy_ssh import NOT_FOUND, ssh_command
from mproxy.programs.copy_words import MOST_REQUEST_BYTES, AnswerReader, pack_request
from mproxy.service.exit import USAGE, complain
from mproxy.service.run import Program, run_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop, Watch
    from mproxy.programs.copy_begun import Begun
    from mproxy.programs.copy_places import Landing
    from mproxy.programs.deleting import Deleting
    from mproxy.programs.early_search import EarlySearch
    from mproxy.programs.packet_pipe import PacketPipe
    from mproxy.programs.progress import Progress
    from mproxy.programs.recv import Recv
    from mproxy.programs.send import Send
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.service.control import Command
    from mproxy.service.log import Log

# How long UDP has before ssh carries the packets as well. A handshake on a slow path takes a second.
PIPE_AFTER_US = 2_000_000

# When the other end has gone, how long what it has said last may take; and how often to look.
LAST_US, LOOK_US = 2_000_000, 250_000

SSH_FAILED = 255   # ssh's own exit status; any other is that of the command
KILL_AFTER_S = 1.0

READ_BYTES = 1 << 16


def copy(config: CopyConfig, begun: Begun | None = None) -> int:
    """`mproxy copy` on the host where it was called; the exit status. `begun`: ssh runs, and was asked."""
    started: list[Copy] = []

    def make(config: CopyConfig, log: Log, loop: Loop) -> Copy:
        started.append(Copy(config, log, loop, begun))
        return started[0]

    try:
        return run_program(PROGRAM, lambda _argv: config, make, [])
    finally:
        for program in started:
            program.close()


class Copy(Program):
    """`mproxy copy`, on the host where it was called."""

    def __init__(self, config: CopyConfig, log: Log, loop: Loop, begun: Begun | None = None) -> None:
        self._config, self._log, self._loop = config, log, loop
        self._status: int | None = None  # as long as no transfer has one
        self._transfer: Send | Recv | None = None
        self._ssh: ViaCommand | None = None
        self._watch: Watch | None = None
        self._reader = AnswerReader()
        self._pipe: PacketPipe | None = None
        self._progress: Progress | None = None
        self._search: EarlySearch | None = None
        self._begun = begun
        self._heard = begun.heard if begun is not None else b""  # and not looked at
        self._secret = begun.secret if begun is not None else os.urandom(SECRET_BYTES)
        self._left_out = 0
        self._deleting: Deleting | None = None  # of what is copied here
        self._landing: Landing | None = None  # of what is copied here
        self._dials = 0
        self._told = False  # that ssh carries the packets, if it does
        self._host = config.remote.host  # as ssh calls it, once `_resolving` has ended
        self._resolving = threading.Thread(target=self._resolve, daemon=True)

    @property
    def exit_status(self) -> int:  # type: ignore[override]
        """That of the transfer, once there is one."""
        if self._status is not None:
            return self._status
        status = self._transfer.exit_status if self._transfer is not None else 1
        from mproxy.programs.transfer import PARTIAL
        return status or (PARTIAL if self._left_out else 0)

    @property
    def _deletes(self) -> bool:
        return bool(self._config.options.get("delete"))

    def start(self) -> None:
        """Begin ssh at once: everything else can be done while it is at it."""
        config = self._config
        if config.pushes and config.dry_run and not self._deletes:
            self._send(("", 0), {})
            return
        try:
            request = self._compose()
        except MproxyError as error:
            self._fail(str(error))
            return
        self._ssh = ViaCommand(self._loop, ssh_command(config), self._log, self._ssh_ended, has_terminal=True)
        if config.pushes and "-" not in config.paths:
            from mproxy.programs.early_search import EarlySearch
            self._search = EarlySearch(self._loop, self._settings(SENDERS, ("", 0)), config.paths)
        if self._begun is None:
            with contextlib.suppress(OSError):  # it has ended already, and will be asked why
                self._ssh.sock.send(request)
        self._watch = self._loop.watch(self._ssh.sock.fileno(), self._on_answer)
        self._resolving.start()
        # Meanwhile import what will be needed.
        from mproxy.programs import recv, send  # noqa: F401
        if self._heard:
            self._read_answer()

    # ---- what is asked

    def _compose(self) -> bytes:
        """What the other end has to know. MproxyError when it need not be asked: there is nothing to copy."""
        config = self._config
        asked: dict[str, Any] = {"secret": self._secret.hex(), "datagram": config.datagram}
        if config.pushes:
            from mproxy.transfer.walk import check_named
            check_named(config.paths)
            asked |= {"target": config.target, "several": len(config.paths) > 1,
                      "dry_run": config.dry_run, "options": config.for_one(RECEIVERS)}
        else:
            landing = self._landing = find_landing(config.target, len(config.paths) > 1)
            asked |= {"paths": config.paths, "renamed": landing.name, "dry_run": config.dry_run,
                      "options": config.for_one(SENDERS), "is_watched": not config.quiet and os.isatty(2)}
        request = pack_request(asked)
        if len(request) > MOST_REQUEST_BYTES:
            raise MproxyError("more names than can be asked for at once; name their directory, or use a pattern in"
                              " quotes")
        return request

    # ---- what is answered

    def _on_answer(self, _events: int) -> None:
        self._read_answer()

    def _read_answer(self) -> None:
        """Take what has come; go on once the answer is there."""
        assert self._ssh is not None
        while self._reader.answer is None and self._watch is not None:
            try:
                data, self._heard = self._heard or self._ssh.sock.recv(READ_BYTES), b""
                is_there = bool(data) and self._reader.take(data)
            except BlockingIOError:
                return
            except (OSError, ValueError):
                data, is_there = b"", False
            if not data:
                self._watch.close()  # how ssh ends will tell why
                self._watch = None
            elif is_there:
                self._watch.close()
                self._watch = None
                self._answered(self._reader.answer or {})

    def _answered(self, answer: dict[str, Any]) -> None:
        try:
            if "error" in answer:
                self._fail(f"{self._config.remote}: {answer['error']}", int(answer["status"]))
                return
            for path, why in answer.get("left_out", ()):
                self._log.warning("left-out", file=str(path), why=str(why))
            self._left_out = int(answer.get("left_out_count", 0))
            if self._config.dry_run and not self._config.pushes:
                self._list(answer["names"])
            if self._config.dry_run and "port" not in answer:
                self._list_alone()
                return
            place = str(answer["address"]), int(answer["port"])
        except (KeyError, TypeError, ValueError):
            self._fail(f"{self._config.remote} has answered what this version does not understand; install the same"
                       " mproxy on both hosts")
            return
        self._open_pipe()
        if self._config.pushes:
            self._send(place, answer)
        else:
            self._receive(place, answer)

    def _list(self, names: list[tuple[str, str, int]]) -> None:
        """--dry-run of what is there."""
        from mproxy.programs.transfer import write_line
        for name, kind, size in names:
            if self._config.json:
                write_line({"file": name, "kind": kind, "bytes": size})
            else:
                print(str(name) + "/" * (kind == "directory"))

    def _list_alone(self) -> None:
        """--dry-run, and there is nothing to be asked that could be deleted."""
        if self._config.pushes:
            self._send(("", 0), {}, False)
            return
        from mproxy.programs.transfer import PARTIAL
        self._status = PARTIAL if self._left_out else 0
        self._loop.stop()

    def _open_pipe(self) -> None:
        from mproxy.programs.packet_pipe import PacketPipe
        assert self._ssh is not None
        fd = self._ssh.sock.detach()
        self._pipe = PacketPipe(self._loop, fd, os.dup(fd), 0, lambda: None)
        self._pipe.take(self._reader.rest)

    # ---- the transfer

    def _send(self, place: tuple[str, int], answer: dict[str, Any], deletes: bool = True) -> None:
        from mproxy.programs.send import Send, check_names
        config = self._config
        renamed = answer.get("renamed")
        try:
            paths = config.paths if renamed else without_dots(config.paths)
            check_names(paths)
            settings = self._settings(SENDERS, place).replace(paths=tuple(paths), renamed=renamed)
            settings = settings.replace(delete=settings.delete and deletes)
        except MproxyError as error:
            self._fail(str(error), USAGE)
            return
        self._begin(Send(settings, self._log, self._loop, self._look_up(place), PROGRAM, self._search))

    def _receive(self, place: tuple[str, int], answer: dict[str, Any]) -> None:
        from mproxy.programs.progress import Progress
        from mproxy.programs.recv import Recv
        config = self._config
        assert self._landing is not None
        if config.dry_run and not os.path.isdir(self._landing.directory):
            self._list_alone()
            return
        try:
            make_directory_of(self._landing)
        except MproxyError as error:
            self._fail(str(error))
            return
        settings = self._settings(RECEIVERS, place).replace(output=self._landing.directory, once=True, sweep=False)
        recv = Recv(settings, self._log, self._loop, self._look_up(place), PROGRAM,
                    asked_for(config.paths, self._landing.name))
        self._progress = Progress(self._loop, self._log, config.quiet)
        if self._deletes:
            from mproxy.programs.deleting import Deleting
            recv.deleting = self._deleting = Deleting(settings, self._log, self._loop, "this host",
                                                      self._progress.close)
        self._begin(recv)
        total = int(answer["bytes"])
        self._progress.start(lambda: total or recv.total_bytes, lambda: recv.done_bytes, int)

    def _settings(self, names: tuple[str, ...], place: tuple[str, int]) -> TransferConfig:
        """Of our side, which has the options of these names."""
        from mproxy.programs.transfer_config import TransferConfig, copy_datagram
        config = self._config
        return TransferConfig(
            datagram=copy_datagram(config.datagram), secret=self._secret,
            host=config.remote.host, port=place[1], bind=config.bind, json=config.json, quiet=config.quiet,
            dry_run=config.dry_run, yes=config.yes, log_level=config.log_level, log_format=config.log_format,
            **config.for_one(names))

    def _begin(self, transfer: Send | Recv) -> None:
        self._transfer = transfer
        try:
            transfer.open()
            transfer.start()
        except MproxyError as error:
            self._fail(str(error))
            return
        self._look()

    def _begin_to_dial(self) -> None:
        self._loop.call_later(PIPE_AFTER_US if self._dials == 1 else 0, self._go_through_ssh)

    def _go_through_ssh(self) -> None:
        """Have ssh carry packets from now on, unless there is a connection meanwhile."""
        if self._pipe is not None and (self._transfer is None or self._transfer.peer is None):
            self._pipe.open()

    def _look_up(self, place: tuple[str, int]) -> Callable[[int | None], list[Address]]:
        """What finds the addresses of the other end; on a worker's thread."""
        def look_up(family: int | None) -> list[Address]:
            from mproxy.programs.transfer import find_addresses
            found: list[Address] = []
            error = None
            self._resolving.join()
            for host in (self._host, place[0]):
                try:
                    found += [each for each in find_addresses(host, place[1], family) if each not in found]
                except MproxyError as failure:
                    error = error or failure
            pipe = self._pipe
            if pipe is not None and not pipe.ended:
                from mproxy.programs.packet_pipe import LOOPBACK
                found += find_addresses(LOOPBACK, pipe.port)
            self._dials += 1
            self._loop.call_soon_threadsafe(self._begin_to_dial)
            if not found:
                raise error or MproxyError(f"{self._config.remote} has no address")
            return found
        return look_up

    def _resolve(self) -> None:
        """Ask what ssh_config calls the host: the name or address of which it is an alias."""
        import subprocess
        config = self._config
        login = ["-l", config.remote.user] if config.remote.user else []
        words = [*config.ssh, "-G", *login, "--", config.remote.host]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  text=True, timeout=10, check=False)
            names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("hostname ")]
            self._host = names[0] if names else self._host

    # ---- while it goes on

    def _look(self) -> None:
        """See which way the packets take."""
        peer = self._transfer.peer if self._transfer is not None else None
        if peer is None or self._pipe is None:
            self._loop.call_later(LOOK_US, self._look)
        elif peer[1] == self._pipe.port:
            self._tell_of_ssh()
        else:
            self._told = True

    def _tell_of_ssh(self) -> None:
        if not self._told:
            self._told = True
            self._log.warning("through-ssh", why=(
                "UDP does not get through, so the data go through ssh, which does not outlive a change of address;"
                " let UDP ports 6200 to 6299 of the other host in"))

    def _ssh_ended(self, ssh: ViaCommand) -> None:
        """It has: of itself, with the connection, or since the other end has."""
        if self._reader.answer is None:
            self._read_answer()
        if self._reader.answer is None:
            self._fail(self._explain(ssh))
        elif self._transfer is not None:
            if ssh.status == SSH_FAILED or ssh.status is None:
                self._loop.call_later(LOOK_US, self._look_without_ssh)
            else:
                self._loop.call_later(LAST_US, self._give_up)

    def _look_without_ssh(self) -> None:
        """Is there a way left?"""
        assert self._transfer is not None
        peer = self._transfer.peer
        if peer is None or (self._pipe is not None and peer[1] == self._pipe.port):
            self._transfer.give_up("ssh has lost its connection, and there is no other way to the other end; copy"
                                   " again to continue")
        else:
            self._loop.call_later(LOOK_US, self._look_without_ssh)

    def _give_up(self) -> None:
        """The other end is no longer there."""
        assert self._transfer is not None and self._ssh is not None
        self._transfer.give_up(f"the other end has ended ({self._ssh.ending}); copy again to continue")

    def _explain(self, ssh: ViaCommand) -> str:
        """Why there was no answer. ssh has told the user itself what was wrong."""
        remote = self._config.remote
        if ssh.status == NOT_FOUND and not shutil.which(self._config.ssh[0]):
            return f"cannot run {self._config.ssh[0]}: is it installed?"
        if ssh.status == NOT_FOUND:
            return (f"mproxy is not installed on {remote}, or not on the PATH of its ssh commands: 'mproxy push"
                    f" {remote}' installs it there, or name it with --remote-mproxy")
        if ssh.status == SSH_FAILED or ssh.status is None:
            return f"ssh to {remote} has failed ({ssh.ending})"
        return (f"mproxy on {remote} has not answered ({ssh.ending}); is it of the same version as this one? See"
                f" '{shlex.join(self._config.ssh)} {remote} mproxy --version'")

    # ---- the end

    def _fail(self, why: str, status: int = 1) -> None:
        self._status = status
        if self._progress is not None:
            self._progress.clear()
        complain(PROGRAM, why)
        self._loop.stop()

    def commands(self) -> dict[str, Command]:
        return {}

    def shut_down(self, signal_name: str) -> None:
        """SIGINT, SIGTERM: what has arrived is kept for the next attempt."""
        if self._transfer is None:
            self._loop.stop()
        else:
            self._transfer.shut_down(signal_name)
        self._status = 128 + signal.Signals[signal_name]

    def close(self) -> None:
        """When the loop has ended: end ssh, whose connection nobody needs any more."""
        if self._progress is not None:
            self._progress.close()
        if self._pipe is not None and self._pipe.carried:
            self._tell_of_ssh()  # it was over before anybody looked
        if self._deleting is not None and not self._deleting.was_asked and self.exit_status:
            self._deleting.on_not_deleted("not everything was found, or has arrived")
        if self._ssh is not None:
            self._ssh.end_now(KILL_AFTER_S)
