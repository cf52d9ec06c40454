"""mproxy recv: takes what `mproxy send` sends."""

from __future__ import annotations

import itertools
import os
import resource
import select
import signal
import stat
import time
from functools import partial

from mproxy.ground.config import SECOND_US, format_host_port, say_address
from mproxy.ground.errors import UsageError
from mproxy.io.bind import open_udp
from mproxy.policy.network import NetworkWatch
from mproxy.programs.reach import Reach
from mproxy.programs.transfer import (
    PARTIAL,
    STATUS_OF_END,
    WRONG_CODE,
    bound_family,
    end_text,
    find_addresses,
    show_name,
    sockaddr_bytes,
    with_packet_size,
    with_result,
    write_line,
)
from mproxy.programs.transfer_keys import ReceiverTrust, SenderTrust
from mproxy.service.exit import complain
from mproxy.service.run import Program, run_program
from mproxy.service.status import parts_of, program_facts, transfer_facts
from mproxy.transfer.allowance import Allowance
from mproxy.transfer.destinations import NOBODY_READS, IntoDirectory, IntoFile, IntoPipe
from mproxy.transfer.file_names import current_umask
from mproxy.transfer.messages import MOST_AHEAD, FileKind, Result
from mproxy.transfer.receiver import FileReceiver, ReceiveObserver
from mproxy.transfer.workers import Workers
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import EndCode
from mproxy.transport.keying import DISAGREE
from mproxy.transport.observers import DatagramObserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop, Watch
    from mproxy.programs.deleting import Deleting
    from mproxy.programs.transfer import LookUp
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.service.control import Command, Reply
    from mproxy.service.log import Log
    from mproxy.transfer.bundle import BundleEntry
    from mproxy.transfer.deletion_out import Surplus
    from mproxy.transfer.destinations import Destination
    from mproxy.transfer.messages import File
    from mproxy.transport._link import Link

# A handshake is three packets, and a sender at once announces what it has; 10 s outlast several losses on a long path.
OPEN_WITHIN_US = 10_000_000

# How long a goodbye is repeated; nobody wants to wait longer for a program that is to end.
FAREWELL_US = 150_000

# A sender slower than this keeps its place only while nobody else needs it. Its transfer can continue later, and a path
# this slow is not fit for files.
SLOW_BYTES_A_SECOND = 1024
SLOW_FOR_SECONDS = 10.0
MESSAGE_WORTH = 256  # bytes: many small files are progress, too

# One that gives way to its successor has to write its last blocks before it lets go of the file.
LOOK_AGAIN_US = 50_000

# How long an interrupted receiver waits for what is being written.
LEAVE_WITHIN_US, LEAVE_LOOK_US = 3_000_000, 5_000

# How often at most to look for abandoned files, for which the whole directory is searched.
MOST_SWEEP_US = 6 * 3600 * SECOND_US

# An arriving file takes three descriptors; this many are for everything else.
FILE_DESCRIPTORS, OTHER_DESCRIPTORS = 3, 64

OUTPUT_CLOSED = 128 + signal.SIGPIPE  # as shells count it

ONE_SENDER = "the receiver accepts only one sender, and already has one"
ANEW = "the same file is being sent again"


def destination_of(config: TransferConfig, expects: Callable[[bytes], bool] | None = None) -> Destination:
    """The destination of -o; `expects` as of IntoDirectory."""
    output, umask = config.output, 0 if config.perms else current_umask()
    as_user = f" as {config.user}" if config.user else ""
    if output == "-":
        return IntoPipe()
    if output is None or output.endswith("/") or os.path.isdir(output):
        path = output or "."
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise UsageError(f"-o {path}: cannot create this directory{as_user}: {error.strerror}") from None
        if as_user and not _may_write(path):
            raise UsageError(f"-o {path}: cannot write to this directory{as_user}")
        return IntoDirectory(path, config.force, dots=not config.open, umask=umask, expects=expects)
    if os.path.exists(output) and not os.path.isfile(output):
        raise UsageError(f"-o {output}: a device, pipe or socket is never replaced by a file; to write into it use"
                         " '-o -' and redirect standard output")
    directory = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(directory):
        raise UsageError(f"-o {output}: its directory does not exist{as_user and ', or cannot be reached' + as_user}")
    if as_user and not _may_write(directory):
        raise UsageError(f"-o {output}: cannot write to its directory{as_user}")
    return IntoFile(output, config.force, umask=umask)


def _may_write(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK, effective_ids=True)


def files_each(senders: int) -> int:
    """How many files each sender may have open, so that the descriptors last for all."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(1, min(MOST_AHEAD, (descriptors - OTHER_DESCRIPTORS) // FILE_DESCRIPTORS // senders))


class Recv(Program, DatagramObserver, ReceiveObserver):
    """`mproxy recv`: receives files from several senders; or from one, which it dials, if `look_up(family)` tells where
    that is. `program` is what complaints begin with; `expects` as of IntoDirectory."""

    # From `open` and `start` on.
    _endpoint: DatagramEndpoint
    _destination: Destination
    _workers: Workers   # that write
    _in_order: Workers  # one thread, for pipes
    _sweeper: Workers   # one thread more: a directory may be large

    def __init__(self, config: TransferConfig, log: Log, loop: Loop, look_up: LookUp | None = None,
                 program: str = "mproxy recv", expects: Callable[[bytes], bool] | None = None) -> None:
        self._look_up = look_up or (self._find_sender if config.code else None)
        self._program, self._expects = program, expects
        self.deleting: Deleting | None = None  # asks the person who has started a copy to here
        self._reach: Reach | None = None
        self._started_at = loop.now()
        self._config, self._log, self._loop = config, log, loop
        self._network: NetworkWatch | None = None
        self._output: Watch | None = None
        self._receivers: dict[FileReceiver, tuple[str, int]] = {}
        self._began: dict[FileReceiver, int] = {}    # receiver -> when
        self._ended = {"transfers": 0, "moved_bytes": 0, "kept_bytes": 0}  # sums of those that have ended
        self._total_bytes: int | None = None
        self._closing: list[FileReceiver] = []  # connection over, still busy with files
        # While senders wait for a place: what each receiver had got, and when.
        self._marks: dict[FileReceiver, tuple[int, float]] = {}
        self._outcome: int | None = None  # exit status of --once
        # What the sender of --once announced first, once something of it arrived or was settled.
        self._served: tuple[bytes, bytes] | None = None
        # The only sender that may send: with --once, or while its file goes to standard output.
        self._taken: FileReceiver | None = None
        self._worst, self._leaving, self._leave_us = 0, False, LEAVE_WITHIN_US
        # After a signal: until when the senders are told.
        self._farewell_us: int | None = None
        self._allowance = Allowance(files_each(config.senders))
        self._address = ("", 0)
        self._family: int | None = None  # of addresses that our socket can reach; None: both
        self._trust = SenderTrust(config, log)

    def open(self) -> None:
        """Open the port and read the keys."""
        config = self._config
        datagram = with_packet_size(config.datagram, False)
        if config.ack_to is not None:
            host, port = config.ack_to
            family, sockaddr = find_addresses(host, port)[0]
            datagram = datagram.replace(answer_to=sockaddr_bytes(family, sockaddr))
        with open_udp(config.bind, 0 if self._look_up else config.port) as own:
            self._endpoint = DatagramEndpoint(self._loop, own.fileno(), datagram, None if self._look_up else self,
                                              most=config.senders)
            self._address, self._family = own.getsockname(), bound_family(own)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._address[1]

    @property
    def authorized_keys_file(self) -> str | None:
        """The list of keys that is read again when it changes; None if there is none."""
        return self._trust.path

    def start(self) -> None:
        """Begin to receive. Files made from now on belong to the present user."""
        self._destination = destination_of(self._config, self._expects)
        self._destination.takes_attributes = self._config.xattrs
        # Who may replace a file may know what its blocks look like; a stranger may not.
        self._destination.offers_sketches = self._config.force and not self._config.open
        self._workers = Workers(self._loop.call_soon_threadsafe, min(4, os.cpu_count() or 1))
        self._in_order = Workers(self._loop.call_soon_threadsafe, 1)
        self._sweeper = Workers(self._loop.call_soon_threadsafe, 1)
        self._destination.spread = self._workers.spread
        self._destination.deletes = self._config.delete and not self._config.open
        if self._config.open:
            self._log.warning("open-door", why=(
                "--open: anyone who can reach the port can send files; use --key or --own-key to let in only those"
                " with keys"))
        if self._look_up is not None:
            self._dial(self._look_up)
        else:
            self._log.info("listening", address=self._address[0], port=self._address[1])
        if self._config.sweep:
            self._sweep()
        self._watch_output()
        try:
            self._network = NetworkWatch()
            self._loop.watch(self._network.fileno(), self._on_network)
        except OSError:
            pass  # then the engine's own timeouts have to do

    def _dial(self, look_up: LookUp) -> None:
        self._workers.submit(lambda: look_up(self._family), self._looked_up)

    def _looked_up(self, addresses: list[Address] | None, error: Exception | None) -> None:
        if self._leaving:
            return
        if addresses is None:
            self.exit_status = STATUS_OF_END[EndCode.TIMED_OUT]
            complain(self._program, error)
            self._leave()
            return
        self._reach = Reach(self._loop, self._endpoint, addresses, self.on_link, self._not_reached)

    def _not_reached(self, code: int, why: str) -> None:
        if not self._leaving:
            self.exit_status = STATUS_OF_END.get(code, 1)
            complain(self._program, self._end_text(code, why))
            self._leave()

    def _end_text(self, code: int, why: str) -> str:
        config = self._config
        if config.code is not None and (why == DISAGREE or not config.host):
            return WRONG_CODE if why == DISAGREE else f"the sender: {why}"
        return end_text(code, why, config.host, config.port)

    def _on_network(self, _events: int) -> None:
        if self._network is not None and self._network.read_events():
            self._endpoint.probe()

    def _watch_output(self) -> None:
        """Whether somebody reads standard output, as between two senders no write would tell."""
        if self._config.output == "-" and stat.S_IFMT(os.fstat(1).st_mode) in (stat.S_IFIFO, stat.S_IFSOCK):
            self._output = self._loop.watch(1, self._on_output, read=False)

    def _on_output(self, events: int) -> None:
        """Nobody reads it: end as SIGPIPE ends other programs, but tell the senders."""
        if not events & (select.EPOLLERR | select.EPOLLHUP):
            return
        if self._output is not None:
            self._output.close()
        if self._leaving:
            return
        self._log.warning("output-closed", why="nobody reads standard output any more")
        self.exit_status = OUTPUT_CLOSED
        self._end(EndCode.ABORTED, NOBODY_READS)

    def _sweep(self) -> None:
        """Remove abandoned partial files, now and at intervals."""
        ttl_us = self._config.partial_ttl_us
        before_ns = time.time_ns() - ttl_us * 1000
        self._sweeper.submit(lambda: self._destination.remove_abandoned(before_ns), self._was_swept)
        self._loop.call_later(min(ttl_us, MOST_SWEEP_US), self._sweep)

    def _was_swept(self, removed: tuple[int, int] | None, _error: Exception | None) -> None:
        if removed and removed[0]:
            self._log.info("partials-removed", files=removed[0], bytes=removed[1])

    def on_link(self, link: Link) -> None:
        if self._leaving:
            stopped = self._farewell_us is not None
            link.abort(int(EndCode.STOPPED if stopped else EndCode.ABORTED),
                       b"the receiver was stopped" if stopped else ONE_SENDER.encode())
            return
        self._reach = None
        trust = ReceiverTrust(self._config, self._log) if self._look_up else self._trust
        receiver = FileReceiver(link, self._destination, self._workers, self, keying=trust.keying(),
                                in_order=self._in_order, allowance=self._allowance)
        self._began[receiver] = self._loop.now()
        self._receivers[receiver] = link.peer
        self._loop.call_later(OPEN_WITHIN_US, partial(self._check_announced, receiver))

    def _find_sender(self, family: int | None) -> list[Address]:
        from mproxy.programs.finding import find_sender
        return find_sender(self._config, family)

    @staticmethod
    def _check_announced(receiver: FileReceiver) -> None:
        """Whoever has no key, or nothing to send, must not take a place from those who have."""
        if not receiver.announced:
            why = "no file announced within 10 s" if receiver.open else "no keys within 10 s"
            receiver.give_up(EndCode.TIMED_OUT, why)

    def on_first_file(self, receiver: FileReceiver) -> str | None:
        """Why this sender may not send; None if it may. One that sends the same as another one here takes over: the
        other was killed or has lost its path, and we have not noticed yet. Not on standard output: what is written
        there cannot be taken back."""
        if not self._config.once and not self._destination.one_sender:
            return None
        taken, once = self._taken, self._config.once
        is_other = receiver.first != (taken.first if taken is not None else self._served)
        if is_other and once and (taken is not None or self._served is not None):
            return ONE_SENDER
        if taken is not None and (is_other or (self._destination.one_sender and taken.progress)):
            return "another sender is writing to the receiver's output"
        self._taken = receiver
        if taken is not None:
            taken.give_up(EndCode.ABORTED, ANEW)
        return None

    def on_open(self, receiver: FileReceiver) -> None:
        """A sender is there and has the keys."""
        self._log.info("sender", peer=say_address(self._receivers[receiver]))

    def on_busy(self, receiver: FileReceiver, file: File, looks: int, again: Callable[[], None]) -> bool:
        """Another transfer is writing this file. If it has the same source, the later one takes over (if each did,
        they would end each other); what a vanished sender has begun is brought to its end."""
        earlier = itertools.takewhile(lambda other: other is not receiver, self._receivers)
        older = [other for other in earlier if other.is_receiving(file)]
        for other in older:
            other.give_up(EndCode.ABORTED, ANEW)
        self._closing = [other for other in self._closing if other.closing]
        if looks > 1 and not older and not any(other.is_closing(file) for other in self._closing):
            return False
        self._loop.call_later(LOOK_AGAIN_US, again)
        return True

    def on_crowded(self, again: Callable[[], None]) -> None:
        """Too many files are open, here or elsewhere: try again."""
        self._loop.call_later(LOOK_AGAIN_US, again)

    def on_surplus(self, receiver: FileReceiver, surplus: list[Surplus], answer: Callable[[bool], object]) -> None:
        """A sender would have this deleted, which --delete allows; who copies to here himself is asked."""
        if self.deleting is not None:
            self.deleting.on_surplus(surplus, answer)
            return
        self._log.info("deleting", peer=say_address(self._receivers.get(receiver, ("?", 0))), files=len(surplus))
        answer(True)

    def on_full(self) -> None:
        """A sender is waiting for a place: one that makes no progress is disconnected."""
        now = time.monotonic()
        for receiver in list(self._receivers):
            done = receiver.progress + MESSAGE_WORTH * receiver.messages
            done_then, then = self._marks.setdefault(receiver, (done, now))
            if receiver.waits_for_us or done - done_then > SLOW_BYTES_A_SECOND * (now - then):
                self._marks[receiver] = done, now
            elif now - then >= SLOW_FOR_SECONDS:
                receiver.give_up(EndCode.TIMED_OUT, "too slow, while others are waiting for its place")

    def on_file(self, receiver: FileReceiver, file: File, code: Result, root: bytes, text: str) -> None:
        if receiver is self._taken:
            self._served = receiver.first
        if code == Result.DONE and not self._config.json and not self._log.writes_info:
            return  # there may be a million of them
        name, peer = show_name(file.name), say_address(self._receivers.get(receiver, ("?", 0)))
        self._worst = with_result(self._worst, code)
        if self._config.json:
            if self._config.output != "-":
                write_line({"file": name, "peer": peer, "result": code.name.lower(),
                            "hash": root.hex() if code == Result.DONE and any(root) else None, "text": text})
        elif code == Result.DONE and any(root):
            size = file.size if file.kind == FileKind.FILE else receiver.received_bytes
            self._log.info("received", file=name, peer=peer, bytes=size, hash=root.hex())
        elif code != Result.DONE and self._look_up is not None:
            complain(self._program, f"{name}: {text}")
        elif code != Result.DONE:
            self._log.warning("not-received", file=name, peer=peer, why=text)

    def on_files(self, receiver: FileReceiver, arrived: Callable[[], list[BundleEntry]]) -> None:
        if receiver is self._taken:
            self._served = receiver.first
        if self._config.json or self._log.writes_info:  # otherwise nobody is told of them
            super().on_files(receiver, arrived)

    def on_left_out(self, receiver: FileReceiver, name: bytes, why: str) -> None:
        """Only who has asked for the files wants to know; otherwise the sender's user is told."""
        if self._look_up is not None:
            self._worst = self._worst or PARTIAL
            self._log.warning("left-out", file=show_name(name) if name else "...", why=why)

    def on_finished(self, receiver: FileReceiver, error: str | None, code: int) -> None:
        if receiver.closing:
            self._closing.append(receiver)
        peer = say_address(self._receivers.pop(receiver, ("?", 0)))
        self._marks.pop(receiver, None)
        self._began.pop(receiver, None)
        self._note_ended(receiver)
        if error is None:
            self._log.info("finished", peer=peer, bytes=receiver.received_bytes, kept=receiver.kept_bytes)
        elif self._look_up is not None:
            complain(self._program, self._end_text(code, error))
        elif receiver.open:
            self._log.warning("broken-off", peer=peer, why=error, bytes=receiver.progress)
        else:
            self._log.warning("refused", peer=peer, why=error)
        # Somebody without the key, or who never sent anything, is not the sender that --once waits for; nor is one
        # whose successor is already here.
        if receiver is self._taken:
            self._taken = None
            if receiver.received_bytes:
                self._served = receiver.first
        if not self._config.once or self._leaving:
            return
        if error is None:
            self._outcome = self._worst or (self.deleting.status if self.deleting is not None else 0)
        elif self._look_up is not None or (self._served is not None and self._served == receiver.first):
            self._outcome = STATUS_OF_END.get(code, 1)
        if self._outcome is not None and self._taken is None and (error is None or not self._receivers):
            self.exit_status = self._outcome
            self._leave()

    def _note_ended(self, receiver: FileReceiver) -> None:
        self._ended["transfers"] += receiver.open
        self._ended["moved_bytes"] += receiver.received_bytes
        self._ended["kept_bytes"] += receiver.kept_bytes

    @property
    def done_bytes(self) -> int:
        """Bytes of files that have arrived, or were here already."""
        return self._ended["moved_bytes"] + self._ended["kept_bytes"] + sum(
            receiver.progress + receiver.kept_bytes for receiver in self._receivers)

    @property
    def total_bytes(self) -> int | None:
        """Of all that comes, or has come last, from a sender; None: not known yet."""
        self._total_bytes = next((receiver.total_bytes for receiver in self._receivers), self._total_bytes)
        return self._total_bytes

    @property
    def peer(self) -> tuple[str, int] | None:
        """Where a sender is; None while there is none."""
        return next((receiver.link.peer for receiver in self._receivers if receiver.open), None)

    def give_up(self, why: str) -> None:
        """There is nobody who could send any more."""
        if self._leaving:
            return
        self.exit_status = 1
        if not self._receivers:
            complain(self._program, why)
        self._end(EndCode.ABORTED, why)

    def _leave(self) -> None:
        """Stop when the last repetitions are answered and the last blocks are written."""
        if not self._leaving:
            self._leaving = True
            for receiver in list(self._receivers):
                receiver.give_up(EndCode.ABORTED, ONE_SENDER)
        self._leave_us -= LEAVE_LOOK_US
        if self._farewell_us is not None:
            self._farewell_us -= LEAVE_LOOK_US
        speaking = self._endpoint.count and (self._farewell_us is None or self._farewell_us > 0)
        if speaking or (self._leave_us > 0 and any(receiver.closing for receiver in self._closing)):
            self._loop.call_later(LEAVE_LOOK_US, self._leave)
        else:
            self._loop.stop()

    def commands(self) -> dict[str, Command]:
        return {"status": self._tell_status}

    def _tell_status(self, _request: dict[str, Any], reply: Reply) -> None:
        facts = program_facts(self._loop, self._started_at, "recv", self._config.name or f"recv:{self._address[1]}",
                              "stopping" if self._leaving else "running")
        facts["listening"] = [format_host_port(*self._address[:2])]
        facts["ended"] = self._ended
        reply(parts_of(facts, "transfers", map(self._say_transfer, list(self._receivers.items()))))

    def _say_transfer(self, item: tuple[FileReceiver, tuple[str, int]]) -> dict[str, Any]:
        receiver, peer = item
        return transfer_facts(say_address(peer), receiver.received_bytes, receiver.kept_bytes, receiver.total_bytes,
                              self._loop.now() - self._began.get(receiver, 0))

    def shut_down(self, signal_name: str) -> None:
        """SIGINT, SIGTERM: what has arrived stays for the next attempt."""
        if self._config.once:
            self.exit_status = 1
        if self._config.output != "-" and any(receiver.progress for receiver in self._receivers):
            complain(self._program, "interrupted; what has arrived is kept: sent again, it continues where it stopped")
        self._end(EndCode.STOPPED, f"the receiver was interrupted by {signal_name}")

    def _end(self, code: int, why: str) -> None:
        for receiver in list(self._receivers):
            receiver.give_up(code, why)
        self._farewell_us = FAREWELL_US
        self._leave()
        if self._reach is not None:
            self._reach.give_up(code, why)


def main(argv: list[str] | None = None) -> int:
    """`mproxy recv`; the exit status."""
    from mproxy.programs.recv_options import PROGRAM, parse_recv
    return run_program(PROGRAM, parse_recv, Recv, argv)
