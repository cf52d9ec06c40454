"""The other end of `mproxy copy`: what ssh starts. It listens on a UDP port, and lets in who has the key that has come
through ssh; it receives as `mproxy recv --once` does, or sends to who dials it.

It stays when ssh ends while files are on their way, because ssh does not survive an outage and they do. Without a
connection it ends with ssh, and with one when nothing has been heard for `--timeout`.
"""

from __future__ import annotations

import os

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.io.stdio import check_stdio, open_stdio
from mproxy.programs.copy_begun import take_asked
from mproxy.programs.copy_places import at_home, find_landing, find_paths, make_directory_of, without_dots
from mproxy.programs.copy_words import MOST_REQUEST_BYTES, VERSION, pack_answer
from mproxy.programs.packet_pipe import PacketPipe
from mproxy.programs.recv import Recv
from mproxy.programs.started import free_udp_port
from mproxy.programs.transfer_config import TransferConfig, copy_datagram
from mproxy.service.exit import USAGE, complain
from mproxy.service.run import Program, run_program
from mproxy.transfer import zstd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mproxy.io._loop import Loop
    from mproxy.programs.copy_source import Sending
    from mproxy.service.control import Command
    from mproxy.service.log import Log

PROGRAM = "mproxy copy"

# How often to look whether anything is left to do without ssh.
LOOK_US = 500_000


class CopyRequest:
    """What the one end asks of the other; MproxyError if that is not to be understood."""

    def __init__(self, line: bytes) -> None:
        import json
        try:
            said = json.loads(line)
            if said["version"] != VERSION:
                raise ValueError
            self.target: str | None = said.get("target")  # None: it is to send
            self.paths: list[str] = said.get("paths", [])
            self.several: bool = said.get("several", False)
            self.renamed: str | None = said.get("renamed")
            self.dry_run: bool = said.get("dry_run", False)
            self.is_watched: bool = said.get("is_watched", False)
            options = {**said["options"], "rules": tuple(map(tuple, said["options"].get("rules", ())))}
            self.config = TransferConfig(
                datagram=copy_datagram(said["datagram"]),
                secret=bytes.fromhex(said["secret"]), port=0, once=True, sweep=False, log_level="error",
                **options)
        except (ValueError, KeyError, TypeError, AttributeError, UsageError):
            raise MproxyError("mproxy on the other host is of another version, and does not understand this one;"
                              " install the same on both") from None


def main() -> int:
    """`mproxy copy --other-end`; the exit status. What goes wrong is for the other end to say."""
    line = _read_line()
    if not line:
        return USAGE
    try:
        request = CopyRequest(line)
        config = _configure(request)
        if request.dry_run and config.output is not None and not os.path.isdir(config.output):
            os.write(1, pack_answer({}))  # nothing is there that could be deleted
            return 0
    except MproxyError as error:
        return _refuse(str(error))
    return run_program("mproxy recv", lambda _argv: config, lambda config, log, loop: OtherEnd(
        request, config, log, loop), [])


def _read_line() -> bytes:
    """What is asked."""
    try:
        check_stdio([0, 1])
    except UsageError as error:
        complain(PROGRAM, str(error))
        return b""
    line = take_asked()
    while not line.endswith(b"\n"):
        data = os.read(0, 65536)
        if not data or len(line) > MOST_REQUEST_BYTES:
            complain(PROGRAM, "--other-end is for the mproxy copy of another host, which starts this by ssh")
            return b""
        line += data
    return line


def _refuse(why: str, status: int = 1) -> int:
    try:
        os.write(1, pack_answer({"error": why, "status": status}))
    except OSError:
        pass  # nobody is there any more
    return status


def _configure(request: CopyRequest) -> TransferConfig:
    """Where to, and under which names; MproxyError."""
    if request.target is None:
        paths = find_paths(request.paths)
        if request.renamed is None:
            from mproxy.programs.send import check_names
            paths = without_dots(paths)
            check_names(paths)
        elif len(paths) > 1:
            raise MproxyError(f"{len(paths)} names match, but there is no directory {request.renamed}; several are"
                              " copied into one, so name one that exists, or write a slash behind it to have it made")
        if request.config.compress:
            zstd.load()
        return request.config.replace(paths=tuple(paths), renamed=request.renamed)
    landing = find_landing(at_home(request.target), request.several)
    if not request.dry_run:
        make_directory_of(landing)
    return request.config.replace(output=landing.directory, renamed=landing.name)


class OtherEnd(Program):
    """Receives or sends, and joins that to the pipe to the other end."""

    def __init__(self, request: CopyRequest, config: TransferConfig, log: Log, loop: Loop) -> None:
        self._loop = loop
        self._renamed = config.renamed
        self._pipe: PacketPipe | None = None
        self._program: Recv | Sending
        if request.target is None:
            from mproxy.programs.copy_source import Sending  # only here: each of the halves takes a while to import
            self._program = Sending(config, log, loop, request.dry_run, self._found, request.is_watched)
        else:
            self._program = Recv(config.replace(port=free_udp_port()), log, loop, program=PROGRAM)

    @property
    def exit_status(self) -> int:  # type: ignore[override]
        """That of the transfer."""
        return self._program.exit_status

    def open(self) -> None:
        self._program.open()

    def start(self) -> None:
        try:
            self._program.start()
        except MproxyError as error:
            _refuse(str(error))
            self._loop.stop()
            return
        if isinstance(self._program, Recv):
            self._join({"port": self._program.port, "renamed": self._renamed})

    def _found(self, answer: dict[str, Any]) -> None:
        """What there is to send was found, or nothing was."""
        if "port" in answer:
            self._join(answer)
        else:
            os.write(1, pack_answer(answer))
            self._loop.stop()

    def _join(self, answer: dict[str, Any]) -> None:
        """Answer, and carry packets from now on."""
        seen = os.environ.get("SSH_CONNECTION", "").split()
        here = seen[2] if len(seen) == 4 else ""
        os.write(1, pack_answer({**answer, "address": here}))
        read_fd, write_fd = open_stdio()
        self._pipe = PacketPipe(self._loop, read_fd, write_fd, answer["port"], self._look)
        self._pipe.open()

    def _look(self) -> None:
        """Without ssh: is anything left to do?"""
        assert self._pipe is not None
        peer = self._program.peer
        if peer is None or peer[1] == self._pipe.port:
            self._program.shut_down("SIGHUP")
        else:
            self._loop.call_later(LOOK_US, self._look)

    def commands(self) -> Mapping[str, Command]:
        return self._program.commands()

    def shut_down(self, signal_name: str) -> None:
        self._program.shut_down(signal_name)
