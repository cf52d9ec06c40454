"""mproxy send: files and directories to `mproxy recv`, over UDP."""

import os
import signal

from mproxy.ground.config import format_host_port
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_host, parse_name, parse_port, split_host_port
from mproxy.policy.network import NetworkWatch
from mproxy.programs.delivery import Delivery
from mproxy.programs.impair import open_udp
from mproxy.programs.options import OneLineParser
from mproxy.programs.progress import Progress
from mproxy.programs.transfer import (
    STATUS_OF_END,
    STATUS_OF_LEFT_OUT,
    STATUS_OF_RESULT,
    Stopwatch,
    add_common,
    bound_family,
    configure,
    end_text,
    find_addresses,
    is_loopback,
    show_name,
    with_packet_size,
    write_line,
)
from mproxy.programs.transfer_keys import explain_refusal, sender_keying
from mproxy.service.ending import complain
from mproxy.service.run import Program, run_program
from mproxy.service.status import parts_of, program_facts, transfer_facts
from mproxy.transfer.messages import FileKind, Result
from mproxy.transfer.sender import find_sources
from mproxy.transfer.workers import Workers
from mproxy.transport._endpoint import DatagramEndpoint
from mproxy.transport._packet import EndCode

_USAGE = "mproxy send [options] FILE... HOST PORT"

_DESCRIPTION = """\
Send files and directories to 'mproxy recv' at HOST PORT (or HOST:PORT), over
UDP. FILE '-' is standard input. Sending a file again after an interruption
continues where it stopped, as long as the file has not changed."""

_EPILOG = """\
exit status: 0 everything arrived, 2 wrong command line, 3 no space, 4 no
permission, 5 already exists, 6 no answer, 7 the keys do not agree, 8 all but
what is neither a file nor a directory (symbolic links) arrived, 130
interrupted, 1 any other failure.

TIME is a number with us, ms, s, m, h or d (1s, 1.5m; a bare number is seconds).

examples:
  mproxy send --key secret movie.mkv photos/ server 7000
  tar c . | mproxy send --key secret - server 7000
"""


def parse_send(argv):
    """The TransferConfig of the command line `argv`."""
    parser = OneLineParser("mproxy send", _USAGE, _DESCRIPTION, _EPILOG)
    add_common(parser)
    parser.add_argument("--quiet", action="store_true", default=None, help="no progress bar")
    parser.add(parser, "--known-hosts", parse_name, metavar="FILE", help=(
        "remembered keys of receivers, as for cproxy (default known_hosts in its state directory)"))
    parser.add(parser, "--ack-port", parse_port, metavar="PORT", help=(
        "receive answers on this local port ('mproxy recv --ack-to'), not on the one that sends"))
    given, words = parser.split(argv)
    words = split_host_port(words, -1)
    if len(words) < 3:
        parser.error(f"missing argument: {('FILE', 'HOST', 'PORT')[len(words)]}; expected FILE... HOST PORT")
    host, port = parser.take_words(words[-2:], (("HOST", parse_host), ("PORT", parse_port)))
    if words[:-2].count("-") > 1:
        raise UsageError("'-' (standard input) can be given only once")
    return configure(given, "client-key.pem", paths=tuple(words[:-2]), host=host, port=port)


class Send(Program):
    """`mproxy send`: sends files to one receiver."""

    # A farewell leaves at once and is repeated while there is time; nobody waits longer for a program that is to end.
    FAREWELL_US = 150_000
    LAST_WORDS_US = 5_000_000  # after a good end: three timeouts, unless the path was very slow

    def __init__(self, config, log, loop):
        self.exit_status = 1
        self._config, self._log, self._loop = config, log, loop
        self._started_at = self._began_at = loop.now()
        self._total = None  # bytes of all files, None: unknown
        self._delivery = self._endpoint = self._endpoint_config = self._network = None
        self._progress = Progress(loop, log, config.quiet)
        self._workers = None
        self._worst = 0
        self._left_any_out = False
        self._stopped = None  # the signal that ends it
        self._finished = False
        self._watch = Stopwatch()

    def start(self):
        """Look at the files and the receiver's name, which may take a while; then dial."""
        config = self._config
        self._workers = Workers(self._loop.call_soon_threadsafe, min(4, os.cpu_count() or 1))
        own = open_udp(config.bind, 0)
        family = bound_family(own)
        self._watch_network()

        def look_up():
            return find_addresses(config.host, config.port, family)

        def prepare():
            left_out = []
            sources = find_sources(config.paths, lambda path, error: left_out.append((path, error)))
            return sources, left_out, look_up()

        self._workers.submit(prepare, lambda found, error: self._prepared(own, look_up, found, error))

    def _prepared(self, own, look_up, found, error):
        """The files are known: connect to the receiver."""
        config = self._config
        with own:
            if self._finished:
                return
            if error is not None:
                self._fail(error)
                return
            sources, left_out, addresses = found
            for path, why in left_out:
                self._left_out(path, why)
            try:
                self._open(own, addresses)
            except MproxyError as error:
                self._fail(error)
                return
        self._delivery = Delivery(self._loop, self._endpoint, config.host, config.port, look_up,
                                  lambda: sender_keying(config, self._log), self, self._endpoint_config.idle_us)
        self._began_at, self._total = self._loop.now(), _total_of(sources)
        self._progress.start(self._total, lambda: self._delivery.done_bytes,
                             lambda: self._delivery.statistics.get("lost", 0))
        self._delivery.start(sources, addresses, self._workers)

    def _open(self, own, addresses):
        config = self._config
        datagram = with_packet_size(config.datagram, all(is_loopback(entry[1][0]) for entry in addresses))
        answers = None
        if config.ack_port is not None:
            datagram = datagram.replace(fixed_path=True)
            answers = open_udp(config.bind, config.ack_port)
        self._endpoint_config = datagram
        self._endpoint = DatagramEndpoint(self._loop, own.fileno(), datagram,
                                          answers_fd=answers.fileno() if answers else -1)
        if answers:
            answers.close()

    def _fail(self, error):
        """End before anything was sent."""
        if not isinstance(error, (MproxyError, OSError)):
            raise error
        self._finished = True
        self._complain(error)
        self._loop.stop()

    def _left_out(self, path, error):
        if error is not None:
            self._worst = 1
        self._left_any_out = True
        self._log.warning("left-out", file=show_name(os.fsencode(path)), why=_kind_of(path) if error is None
                          else error.strerror)

    def _watch_network(self):
        try:
            self._network = NetworkWatch()
        except OSError:
            return  # then the engine's own timeouts must do
        self._loop.watch(self._network.fileno(), self._on_network)

    def _on_network(self, _events):
        if self._network.read_events() and self._endpoint is not None:
            self._endpoint.probe()

    # ---- of Delivery

    def on_file(self, source):
        """A file was sent, or failed."""
        outcome, name = source.outcome, show_name(source.name)
        self._worst = self._worst or STATUS_OF_RESULT.get(outcome.code, 1)
        done = outcome.code == Result.DONE
        if self._config.json:
            self._write({"file": name, "result": outcome.code.name.lower(), "bytes": source.size,
                         "hash": outcome.root.hex() if done and source.kind != FileKind.DIRECTORY else None,
                         "text": outcome.text})
        elif not done:
            self._complain(f"{name}: {outcome.text}")
        elif source.kind != FileKind.DIRECTORY:
            self._log.info("sent", file=name, bytes=source.size, hash=outcome.root.hex())

    def on_trouble(self, event, **fields):
        """Something that the user should know, while the transfer continues."""
        level = self._log.info if event in ("heard-again", "dialled-anew") else self._log.warning
        level(event, receiver=format_host_port(self._config.host, self._config.port), **fields)

    def on_finished(self, error, code):
        """The transfer has ended."""
        config, delivery = self._config, self._delivery
        self._finished = True
        self._progress.close()
        if error is None:
            self.exit_status = self._worst or (STATUS_OF_LEFT_OUT if self._left_any_out else 0)
        elif self._stopped is not None:
            self.exit_status = 128 + self._stopped
        else:
            self.exit_status = STATUS_OF_END.get(code, 1)
            self._complain(end_text(code, explain_refusal(error, config.key), config.host, config.port))
        summary = {"bytes": delivery.sent_bytes, "kept": delivery.kept_bytes,
                   "seconds": round(self._watch.seconds, 3), **delivery.statistics}
        if config.json:
            self._write({"status": self.exit_status, **summary})
        else:
            self._log.info("finished", **summary)
        self._wait_for_end()

    # ---- the end

    def _wait_for_end(self, left_us=LAST_WORDS_US):
        """The engine answers the peer's last repetitions for a moment."""
        if self._endpoint.count and left_us > 0:
            self._loop.call_later(5_000, lambda: self._wait_for_end(left_us - 5_000))
        else:
            self._loop.stop()

    def commands(self):
        """What can be asked through the control socket."""
        return {"status": self._tell_status}

    def _tell_status(self, _request, reply):
        config, delivery = self._config, self._delivery
        to = format_host_port(config.host, config.port)
        facts = program_facts(self._loop, self._started_at, "send", config.name or f"send->{to}",
                              "stopping" if self._finished or self._stopped is not None else "running")
        transfers = []
        if delivery is not None:
            transfers.append(transfer_facts(to, delivery.sent_bytes, delivery.done_bytes - delivery.sent_bytes,
                                            self._total, self._loop.now() - self._began_at))
        reply(parts_of(facts, "transfers", transfers))

    def shut_down(self, signal_name):
        """SIGINT, SIGTERM: what has arrived stays there for the next attempt."""
        if self._finished:
            self._loop.stop()
            return
        self._stopped = signal.Signals[signal_name]
        self.exit_status = 128 + self._stopped
        self._progress.close()
        self._complain("interrupted; send again to continue")
        if self._delivery is None:
            self._finished = True
            self._loop.stop()
            return
        self._delivery.give_up(EndCode.ABORTED, f"interrupted by {signal_name}")
        self._loop.call_later(self.FAREWELL_US, self._loop.stop)

    def _complain(self, text):
        self._progress.clear()
        complain("mproxy send", text)

    def _write(self, data):
        self._progress.clear()
        write_line(data)


def _total_of(sources):
    """Bytes of files; None where nobody knows, before a pipe has ended."""
    if any(source.kind == FileKind.PIPE for source in sources):
        return None
    return sum(source.expected_bytes for source in sources)


def _kind_of(path):
    return "a symbolic link" if os.path.islink(path) else "neither a file nor a directory"


def main(argv=None):
    """`mproxy send`; the exit status."""
    return run_program("mproxy send", parse_send, Send, argv)
