"""mproxy send: files and directories to `mproxy recv`, over UDP."""

import os

from mproxy.datagram._endpoint import DatagramEndpoint
from mproxy.datagram._packet import EndCode
from mproxy.datagram.messages import FileKind, Result
from mproxy.datagram.sender import FileSender, find_sources
from mproxy.datagram.workers import Workers
from mproxy.errors import MproxyError, UsageError
from mproxy.policy.network import NetworkWatch
from mproxy.programs.common import run_program
from mproxy.programs.impair import open_udp
from mproxy.programs.options import OneLineParser, complain
from mproxy.programs.reach import Reach
from mproxy.programs.transfer import (
    STATUS_OF_END,
    STATUS_OF_LEFT_OUT,
    STATUS_OF_RESULT,
    Progress,
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
from mproxy.programs.transfer_keys import sender_keying
from mproxy.words import parse_host, parse_name, parse_port

_USAGE = "mproxy send [options] FILE... HOST PORT"

_DESCRIPTION = """\
Send files and directories to 'mproxy recv' at HOST PORT, over UDP. FILE '-' is
standard input. Sent again after an interruption, a file goes on where it
stopped, as long as it has not changed."""

_EPILOG = """\
exit status: 0 everything arrived, 2 wrong command line, 3 no space, 4 no
permission, 5 there already, 6 no answer, 7 the keys do not agree, 8 arrived
but for what is neither a file nor a directory (symbolic links), 1 else.

examples:
  mproxy send movie.mkv photos/ server 7000
  tar c . | mproxy send --key secret - server 7000
"""


def parse_send(argv):
    """The TransferConfig of the command line `argv`."""
    parser = OneLineParser("mproxy send", _USAGE, _DESCRIPTION, _EPILOG)
    add_common(parser)
    parser.add(parser, "--known-hosts", parse_name, metavar="FILE", help=(
        "remembered keys of receivers, as of cproxy (default known_hosts in its state directory)"))
    parser.add(parser, "--ack-port", parse_port, metavar="PORT", help=(
        "answers arrive on this port of ours ('mproxy recv --ack-to'), not on the one that sends"))
    given, words = parser.split(argv)
    if len(words) < 3:
        parser.error(f"{('FILE', 'HOST', 'PORT')[len(words)]} is missing: expected FILE... HOST PORT")
    host, port = parser.take_words(words[-2:], (("HOST", parse_host), ("PORT", parse_port)))
    if words[:-2].count("-") > 1:
        raise UsageError("'-' is standard input, of which there is only one: leave the others out")
    return configure(given, "client-key.pem", paths=tuple(words[:-2]), host=host, port=port)


class Send:
    """The program."""

    def __init__(self, config, log, loop):
        self.exit_status = 1
        self._config, self._log, self._loop = config, log, loop
        self._sender = self._endpoint = self._reach = self._progress = self._network = None
        self._sources = []
        self._worst = 0
        self._left_any_out = False
        self._stopped = False
        self._watch = Stopwatch()

    def start(self):
        """Dial."""
        config = self._config
        self._sources = find_sources(config.paths, self._left_out)
        answers = None
        with open_udp(config.bind, 0) as own:
            addresses = find_addresses(config.host, config.port, bound_family(own))
            datagram = with_packet_size(config.datagram, all(is_loopback(entry[1][0]) for entry in addresses))
            if config.ack_port is not None:
                datagram = datagram.replace(fixed_path=True)
                answers = open_udp(config.bind, config.ack_port)
            self._endpoint = DatagramEndpoint(self._loop, own.fileno(), datagram,
                                              answers_fd=answers.fileno() if answers else -1)
        if answers:
            answers.close()
        self._reach = Reach(self._loop, self._endpoint, addresses, self._begin, self._unreached)
        self._watch_network()

    def _left_out(self, path, error):
        if error is not None:
            self._worst = 1
        self._left_any_out = True
        self._log.warning("left-out", file=show_name(os.fsencode(path)), why=_kind_of(path) if error is None
                          else error.strerror)

    def _begin(self, link):
        """The receiver has answered."""
        workers = Workers(self._loop.call_soon_threadsafe, min(4, os.cpu_count() or 1))
        self._sender = FileSender(link, self._sources, workers, self, sender_keying(self._config, self._log))
        total = sum(_size_of(source.path) for source in self._sources if source.kind == FileKind.FILE)
        self._progress = Progress(self._loop, total, lambda: self._sender.sent_bytes + self._sender.kept_bytes,
                                  lambda: f"lost {link.statistics['lost']}", self._config.quiet)
        self._sender.start()

    def _unreached(self, code, reason):
        """No address has answered."""
        self._finish(reason, code, {"bytes": 0, "kept": 0})

    def _watch_network(self):
        try:
            self._network = NetworkWatch()
        except OSError:
            return  # then the engine's own timeouts must do
        self._loop.watch(self._network.fileno(), self._on_network)

    def _on_network(self, _events):
        if self._network.read_events():
            self._endpoint.probe()

    def on_file(self, source):
        """One file's outcome."""
        outcome, name = source.outcome, show_name(source.name)
        self._worst = self._worst or STATUS_OF_RESULT.get(outcome.code, 1)
        done = outcome.code == Result.DONE
        if self._config.json:
            write_line({"file": name, "result": outcome.code.name.lower(), "bytes": source.size,
                        "hash": outcome.root.hex() if done and source.kind != FileKind.DIRECTORY else None,
                        "text": outcome.text})
        elif not done:
            complain("mproxy send", f"{name}: {outcome.text}")
        elif source.kind != FileKind.DIRECTORY:
            self._log.info("sent", file=name, bytes=source.size, hash=outcome.root.hex())

    def on_finished(self, error, code):
        """The connection is over."""
        self._progress.close()
        self._finish(error, code, {"bytes": self._sender.sent_bytes, "kept": self._sender.kept_bytes},
                     self._sender.link.statistics)

    def _finish(self, error, code, counts, statistics=None):
        config = self._config
        if error is not None and not self._stopped:
            complain("mproxy send", end_text(code, error, True, config.host, config.port))
        if error is not None:
            self.exit_status = STATUS_OF_END.get(code, 1)
        else:
            self.exit_status = self._worst or (STATUS_OF_LEFT_OUT if self._left_any_out else 0)
        summary = {**counts, "seconds": round(self._watch.seconds, 3), **(statistics or {})}
        if config.json:
            write_line({"status": self.exit_status, **summary})
        else:
            self._log.info("finished", **summary)
        self._wait_for_end()

    def _wait_for_end(self):
        """The engine answers the peer's last repetitions for a moment."""
        if self._endpoint.count:
            self._loop.call_later(5_000, self._wait_for_end)
        else:
            self._loop.stop()

    def shut_down(self, signal_name):
        """SIGINT, SIGTERM: what has arrived stays there for the next attempt."""
        self._stopped = True
        (self._sender or self._reach).give_up(EndCode.ABORTED, f"interrupted by {signal_name}")


def _kind_of(path):
    return "a symbolic link" if os.path.islink(path) else "neither a file nor a directory"


def _size_of(path):
    """Of a file that may have gone meanwhile; then opening it will say so."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def main(argv=None):
    """`mproxy send`; the exit status."""
    try:
        return run_program("mproxy send", parse_send, Send, argv)
    except MproxyError as error:
        complain("mproxy send", error)
        return 1
