"""mproxy send: files and directories to `mproxy recv`, over UDP."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import is_loopback, parse_host, parse_name, parse_port, split_host_port
from mproxy.io.bind import open_udp
from mproxy.policy.network import NetworkWatch
from mproxy.programs.awaited import MOST_STRANGERS, AwaitedDelivery
from mproxy.programs.deleting import Deleting, check_deletion
from mproxy.programs.delivery import Delivery, DeliveryObserver
from mproxy.programs.early_search import begin_search, count_later
from mproxy.programs.options import OneLineParser
from mproxy.programs.progress import Progress
from mproxy.programs.started import free_udp_port
from mproxy.programs.thrift import Thrift
from mproxy.programs.transfer import (
    PARTIAL,
    STATUS_OF_END,
    Stopwatch,
    add_common,
    add_source_options,
    bound_family,
    configure,
    end_text,
    find_addresses,
    show_name,
    take_rules,
    with_packet_size,
    with_result,
    write_line,
)
from mproxy.programs.transfer_keys import ReceiverTrust, explain_refusal
from mproxy.service.exit import complain
from mproxy.service.run import Program, run_program
from mproxy.service.status import parts_of, program_facts, transfer_facts
from mproxy.transfer.deletion_out import NOT_ALL_FOUND, Deletion
from mproxy.transfer.messages import FileKind, Result
from mproxy.transfer.source_queue import SourceQueue
from mproxy.transfer.walk import check_named, name_of
from mproxy.transfer.workers import Workers
from mproxy.transport._datagram_endpoint import DatagramEndpoint
from mproxy.transport._packet import EndCode

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from mproxy.ground.shapes import Address
    from mproxy.io._loop import Loop
    from mproxy.programs.early_search import EarlySearch
    from mproxy.programs.transfer import LookUp
    from mproxy.programs.transfer_config import TransferConfig
    from mproxy.service.control import Command, Reply
    from mproxy.service.log import Log
    from mproxy.transfer.file_run import FileRun
    from mproxy.transfer.source_file import SourceFile
    from mproxy.transport.code_keying import Code
    from mproxy.transport.datagram_config import DatagramConfig

_UNSEALED = ("{}without keys anyone on the path can read and change what is sent; use --key or --own-key, here and at"
             " the receiver")

INTERRUPTED_BY = 128  # and the signal's number, as shells count it

_USAGE = """mproxy send [options] FILE... HOST PORT
       mproxy send [options] FILE..."""

_DESCRIPTION = """\
Send files and directories to 'mproxy recv' at HOST PORT (or HOST:PORT), over
UDP. FILE '-' is standard input. Sending a file again after an interruption
continues where it stopped, as long as the file has not changed.

Without HOST PORT it prints a code, such as 7-violet-harbour, and waits: another
host of the same network gets the files, sealed, by 'mproxy recv
7-violet-harbour'; one elsewhere adds this host's address and port."""

_EPILOG = """\
exit status: 0 everything arrived, 2 wrong command line, 3 no space, 4 no
permission, 5 already exists, 6 no answer, 7 the keys do not agree, 8 partial:
everything arrived but what was named (left out, unreadable, or changed while it
was sent), 130 interrupted, 1 any other failure.

TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).

examples:
  mproxy send --key secret movie.mkv photos/ server 7000
  tar c . | mproxy send --key secret - server 7000
"""


def parse_send(argv: list[str] | None) -> TransferConfig:
    """The TransferConfig of the command line `argv`."""
    parser = OneLineParser("mproxy send", _USAGE, _DESCRIPTION, _EPILOG)
    group = parser.add_argument_group("files")
    add_source_options(parser, group, "; the receiver needs --xattrs, too")
    add_common(parser)
    parser.add_argument("--quiet", action="store_true", default=None, help="no progress bar")
    parser.add(parser, "--known-hosts", parse_name, metavar="FILE", help=(
        "remembered keys of receivers, as for cproxy (default known_hosts in its state directory)"))
    parser.add_argument("--open", action="store_true", default=None, help=(
        "without keys, to 'mproxy recv --open': anyone on the path can read and change what is sent"))
    parser.add(parser, "--ack-port", parse_port, metavar="PORT", help=(
        "receive answers on this local port ('mproxy recv --ack-to'), not on the one that sends"))
    given, words = parser.split(argv)
    if _is_without_host(words):
        return _configure_with_code(given, words)
    words = split_host_port(words, -1)
    if len(words) == 1:
        raise UsageError(f"{words[0]}: there is no such file; expected FILE..., which prints a code, or FILE... HOST"
                         " PORT")
    if len(words) < 3:
        parser.error(f"missing argument: {('FILE', 'HOST', 'PORT')[len(words)]}; expected FILE... HOST PORT")
    host, port = parser.take_words(words[-2:], (("HOST", parse_host), ("PORT", parse_port)))
    _check_sources(words[:-2])
    take_rules(given)
    check_deletion(given, words)
    config = configure(given, "client-key.pem", paths=tuple(words[:-2]), host=host, port=port)
    if config.key is not None and config.open:
        raise UsageError("--open and a key cannot be used together: with a key nothing is sent in the clear; leave one"
                         " out")
    return config


def _is_without_host(words: Sequence[str]) -> bool:
    """Whether all words are files: not if the last two can be HOST PORT."""
    if len(words) >= 3 and words[-1].isascii() and words[-1].isdigit():
        return False
    return bool(words) and all(word == "-" or os.path.lexists(word) for word in words)


def _configure_with_code(given: dict[str, Any], words: Sequence[str]) -> TransferConfig:
    from mproxy.transport import code_keying
    for option in ("ack_port", "known_hosts", "open"):
        if option in given:
            raise UsageError(f"--{option.replace('_', '-')} needs HOST PORT")
    code_keying.load()
    _check_sources(words)
    take_rules(given)
    check_deletion(given, words)
    return configure(given, "client-key.pem", paths=tuple(words), port=0, code=code_keying.make_code())


def _check_sources(paths: Sequence[str]) -> None:
    if paths.count("-") > 1:
        raise UsageError("'-' (standard input) can be given only once")
    check_names(paths)


def check_names(paths: Sequence[str]) -> None:
    """UsageError if two would be one file at the receiver: the second would be refused, or replace the first."""
    named: dict[str, str] = {}
    for path in paths:
        name = name_of(path)
        if name in named:
            raise UsageError(f"{named[name]} and {path} would both be called {show_name(os.fsencode(name))} at the"
                             " receiver; rename one, or send the directories that they are in")
        named[name] = path


class Send(Program, DeliveryObserver):
    """`mproxy send`: sends files to one receiver. `look_up(family)` gives its addresses, where not its name alone does;
    `program` is what complaints begin with."""

    _workers: Workers                  # from `start` on
    _endpoint_config: DatagramConfig   # from when the files are known on

    # How long a goodbye is repeated; nobody wants to wait longer for a program that is to end.
    FAREWELL_US = 150_000
    LAST_WORDS_US = 5_000_000  # after a good end: three timeouts, unless the path is very slow

    def __init__(self, config: TransferConfig, log: Log, loop: Loop, look_up: LookUp | None = None,
                 program: str = "mproxy send", search: EarlySearch | None = None) -> None:
        """`search` has begun to look for the files."""
        self.exit_status = 1
        self._look_up, self._program, self._search = look_up, program, search
        self._config, self._log, self._loop = config, log, loop
        self._trust = ReceiverTrust(config, log)
        self._started_at = self._began_at = loop.now()
        self._sources: SourceQueue | None = None  # once they are looked for
        self._delivery: Delivery | AwaitedDelivery | None = None
        self._network: NetworkWatch | None = None
        self._progress = Progress(loop, log, config.quiet)
        self._endpoint: DatagramEndpoint | None = None
        self._worst = 0
        self._stopped: int | None = None  # the signal that ends it
        self._finished = False
        self._watch = Stopwatch()
        self._thrift = Thrift(config, loop)
        self._deleting: Deleting | None = None
        self._deletion: Deletion | None = None
        self._is_quiet = not config.json and not log.writes_info  # what has arrived is not named

    def start(self) -> None:
        """Look at the files and look up the receiver's name, which may take a while; then dial."""
        config = self._config
        if not config.datagram.sealed and not config.dry_run:
            self._log.warning("unsealed", why=_UNSEALED.format("--open: " if config.open else ""))
        self._workers = Workers(self._loop.call_soon_threadsafe, min(4, os.cpu_count() or 1))
        own = open_udp(config.bind, free_udp_port() if config.code else 0)
        family = bound_family(own)
        self._watch_network()

        def look_up() -> list[Address]:
            return self._look_up(family) if self._look_up else find_addresses(config.host, config.port, family)

        def prepare() -> list[Address]:
            check_named(config.paths)
            return [] if (config.dry_run and not config.delete) or config.code else look_up()

        self._workers.submit(prepare, lambda addresses, error: self._prepared(own, look_up, addresses, error))

    def _prepared(self, own: socket.socket, look_up: Callable[[], list[Address]], addresses: list[Address] | None,
                  error: Exception | None) -> None:
        """What was named is there: look for what is in it, and connect to the receiver."""
        config = self._config
        with own:
            if self._finished:
                return
            if addresses is None:
                self._fail(error or AssertionError())
                return
            self._deletion = self._plan_deletion() if config.delete else None
            sources = self._sources = self._find()
            if config.dry_run and not config.delete:
                sources.on_more = partial(self._list, sources)
                sources.on_more()
                return
            try:
                delivery = self._delivery = self._await(config.code, own) if config.code else Delivery(
                    self._loop, self._open(own, addresses), config.host, config.port, look_up,
                    self._trust.keying, self, self._endpoint_config.idle_us, self._thrift)
            except MproxyError as refusal:
                self._fail(refusal)
                return
        if config.dry_run:
            sources.on_more = partial(self._list, sources, partial(delivery.start, SourceQueue(), addresses,
                                                                   self._workers, self._deletion))
            sources.on_more()
            return
        self._began_at = self._loop.now()
        self._progress.start(lambda: sources.total_bytes, lambda: delivery.done_bytes,
                             lambda: delivery.statistics.get("lost", 0), lambda: sources.found_bytes)
        if self._progress.wanted:
            count_later(self._loop, config, sources, config.renamed)
        delivery.start(sources, addresses, self._workers, self._deletion)

    def _plan_deletion(self) -> Deletion:
        config = self._config
        self._deleting = Deleting(config, self._log, self._loop, config.host or "the other host", self._progress.close)
        return Deletion((), config.rules, self._deleting)

    def _find(self) -> SourceQueue:
        """Begin to look for everything that is to be sent, unless that has begun."""
        config = self._config
        if self._search is not None and self._search.serves(config):
            sources = self._search.sources(config.renamed)
        else:
            sources = SourceQueue(search=begin_search(self._loop, config, config.paths, config.renamed))
        sources.on_left_out = self._left_out
        sources.tell_left_out()
        return sources

    def _open(self, own: socket.socket, addresses: Sequence[Address]) -> DatagramEndpoint:
        config = self._config
        datagram = with_packet_size(config.datagram, all(is_loopback(entry[1][0]) for entry in addresses))
        answers = None
        if config.ack_port is not None:
            datagram = datagram.replace(fixed_path=True)
            answers = open_udp(config.bind, config.ack_port)
        self._endpoint_config = datagram
        endpoint = self._endpoint = DatagramEndpoint(self._loop, own.fileno(), datagram,
                                                     answers_fd=answers.fileno() if answers else -1)
        if answers:
            answers.close()
        return endpoint

    def _await(self, code: Code, own: socket.socket) -> AwaitedDelivery:
        """Let in whoever has the code, and say how."""
        from mproxy.programs.finding import CodeOffer, say_places
        from mproxy.transport.code_keying import CodeKeying
        delivery = AwaitedDelivery(self._loop, lambda: CodeKeying(code, False, self._wrong_code), self,
                                   self._thrift)
        self._endpoint = DatagramEndpoint(self._loop, own.fileno(), with_packet_size(self._config.datagram, False),
                                          delivery, most=MOST_STRANGERS)
        port: int = own.getsockname()[1]
        CodeOffer(self._loop, code.number, port)
        if self._config.json:
            self._write({"code": str(code), "port": port})
        else:
            print(f"On the other host:  mproxy recv {code}")
            for place in say_places(port)[:2]:
                print(f"  elsewhere:        mproxy recv {code} {place}")
            sys.stdout.flush()
        return delivery

    def _wrong_code(self) -> None:
        """One guess is all that anybody has."""
        def end() -> None:
            if self._delivery is not None and self._delivery.peer is None:
                self._delivery.give_up(EndCode.HANDSHAKE_FAILED, "a wrong code was tried, so this one no longer"
                                       " counts: send again for a new one")
        self._loop.call_later(0, end)

    def _fail(self, error: Exception) -> None:
        """End before anything was sent."""
        if not isinstance(error, (MproxyError, OSError)):
            raise error
        self._finished = True
        self._complain(error)
        self._loop.stop()

    def _list(self, sources: SourceQueue, then: Callable[[], object] | None = None) -> None:
        """--dry-run: what would be sent, as far as it was found; `then`: what to do at the end of it."""
        while (source := sources.take(True)) is not None:
            if self._deletion is not None:
                self._deletion.add(source)
            name = show_name(source.name)
            if self._config.json:
                self._write({"file": name, "kind": source.kind.name.lower(), "bytes": source.expected_bytes})
            else:
                self._progress.clear()
                print(name + "/" * (source.kind == FileKind.DIRECTORY))
        if not sources.ended or self._finished:
            return
        sources.on_more = lambda: None
        if then is not None:
            then()
            return
        self._finished = True
        self.exit_status = self._worst
        self._loop.stop()

    def _left_out(self, path: str, why: str | OSError) -> None:
        self._worst = self._worst or PARTIAL
        if self._deletion is not None and not isinstance(why, str):
            self._deletion.spoil(NOT_ALL_FOUND)
        self._log.warning("left-out", file=show_name(os.fsencode(path)),
                          why=why if isinstance(why, str) else why.strerror)

    def _watch_network(self) -> None:
        try:
            self._network = NetworkWatch()
        except OSError:
            return  # then the engine's own timeouts have to do
        self._loop.watch(self._network.fileno(), self._on_network)

    def _on_network(self, _events: int) -> None:
        if self._network is not None and self._network.read_events() and self._endpoint is not None:
            self._endpoint.probe()

    # ---- of Delivery

    def on_file(self, source: SourceFile) -> None:
        outcome = source.outcome
        assert outcome is not None
        done = outcome.code == Result.DONE
        if done and self._is_quiet:
            return  # there may be a million of them
        self._worst = with_result(self._worst, outcome.code)
        name = show_name(source.name)
        if self._config.json:
            self._write({"file": name, "result": outcome.code.name.lower(), "bytes": source.size,
                         "hash": outcome.root.hex() if done and any(outcome.root) else None,
                         "text": outcome.text})
        elif not done:
            self._complain(f"{name}: {outcome.text}")
        elif any(outcome.root):  # not of directories and links, nor of what was there already by its time
            self._log.info("sent", file=name, bytes=source.size, hash=outcome.root.hex())

    def on_run(self, run: FileRun) -> None:
        if not self._is_quiet:
            super().on_run(run)

    def on_trouble(self, event: str, **fields: object) -> None:
        level = self._log.info if event in ("heard-again", "dialled-anew") else self._log.warning
        level(event, receiver=format_host_port(self._config.host, self._config.port), **fields)

    def on_finished(self, error: str | None, code: int) -> None:
        config, delivery = self._config, self._delivery
        assert delivery is not None
        self._finished = True
        if self._sources is not None:
            self._sources.tell_left_out()
        if config.xattrs and not delivery.takes_attributes:
            self._worst = self._worst or PARTIAL
            self._log.warning("xattrs-left-out", why="the receiver was started without --xattrs")
        for why in self._thrift.complain(delivery.takes_codings):
            self._log.warning("sent-plainly", why=why)
        self._progress.close()
        if error is None:
            self.exit_status = self._worst or (self._deleting.status if self._deleting is not None else 0)
        elif self._stopped is not None:
            self.exit_status = INTERRUPTED_BY + self._stopped
        else:
            self.exit_status = STATUS_OF_END.get(code, 1)
            self._complain(error if config.code else end_text(code, explain_refusal(error, config.key), config.host,
                                                              config.port))
        summary = {"bytes": delivery.sent_bytes, "kept": delivery.kept_bytes, "saved": delivery.saved_bytes,
                   "seconds": round(self._watch.seconds, 3), **delivery.statistics}
        if config.json:
            self._write({"status": self.exit_status, **summary})
        else:
            self._log.info("finished", **summary)
        self._wait_for_end()

    # ---- the end

    def _wait_for_end(self, left_us: int = LAST_WORDS_US) -> None:
        """Stay for a moment, while the engine answers the peer's last repetitions."""
        if self._endpoint is not None and self._endpoint.count and left_us > 0:
            self._loop.call_later(5_000, lambda: self._wait_for_end(left_us - 5_000))
        else:
            self._loop.stop()

    def commands(self) -> dict[str, Command]:
        return {"status": self._tell_status}

    def _tell_status(self, _request: dict[str, Any], reply: Reply) -> None:
        config, delivery = self._config, self._delivery
        to = format_host_port(config.host, config.port) if not config.code else f"code {config.code.number}"
        facts = program_facts(self._loop, self._started_at, "send", config.name or f"send->{to}",
                              "stopping" if self._finished or self._stopped is not None else "running")
        transfers = []
        if delivery is not None:
            transfers.append(transfer_facts(to, delivery.sent_bytes, delivery.done_bytes - delivery.sent_bytes,
                                            self._sources.total_bytes if self._sources is not None else None,
                                            self._loop.now() - self._began_at))
        reply(parts_of(facts, "transfers", transfers))

    @property
    def peer(self) -> tuple[str, int] | None:
        """Where the receiver is; None while there is no connection."""
        return self._delivery.peer if self._delivery is not None else None

    def give_up(self, why: str) -> None:
        """There is nobody who could receive any more."""
        if self._finished:
            return
        if self._delivery is not None:
            self._delivery.give_up(EndCode.ABORTED, why)
        else:
            self._fail(MproxyError(why))

    def shut_down(self, signal_name: str) -> None:
        """SIGINT, SIGTERM: what has arrived is kept there for the next attempt."""
        if self._finished:
            self._loop.stop()
            return
        self._stopped = signal.Signals[signal_name]
        self.exit_status = INTERRUPTED_BY + self._stopped
        self._progress.close()
        self._complain("interrupted; send again to continue")
        if self._delivery is None:
            self._finished = True
            self._loop.stop()
            return
        self._delivery.give_up(EndCode.ABORTED, f"interrupted by {signal_name}")
        self._loop.call_later(self.FAREWELL_US, self._loop.stop)

    def _complain(self, text: object) -> None:
        self._progress.clear()
        complain(self._program, text)

    def _write(self, data: dict[str, object]) -> None:
        self._progress.clear()
        write_line(data)


def main(argv: list[str] | None = None) -> int:
    """`mproxy send`; the exit status."""
    return run_program("mproxy send", parse_send, Send, argv)
