"""Two small programs for learning and for trying a path: lines of text as length-prefixed messages over TCP.

On the wire a message is its length, 32 bits big-endian, then that many bytes; at most LIMIT_BYTES.
`MessageReader` and `LineSplitter` know nothing of sockets; `MessageServer` and `MessageClient` only pass bytes to them.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from mproxy.ground.config import format_host_port, say_address
from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import counted, parse_bind, parse_host, parse_port, split_host_port
from mproxy.io.bind import listen_on
from mproxy.io.stdio import check_stdio
from mproxy.policy.resolver import look_up_host, numeric_address
from mproxy.programs.options import OneLineParser
from mproxy.service.exit import complain, exit_status, silence_output
from mproxy.service.log import reserve_standard_fds
from mproxy.service.log_rate import Restraint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn
    Line = tuple[bytes | None, int]  # None: too long; and its length as typed

# Longest payload of a message, that is, a line without its newline.
LIMIT_BYTES = 1024

_LENGTH = struct.Struct(">I")

# Bytes read at once; a client that sends more waits until the others have had their turn.
_READ_BYTES = 1 << 16

# Seconds until a server without descriptors looks again.
_ACCEPT_AGAIN_S = 1

# Seconds for one address to answer, and for the server to end after the end of our input.
_CONNECT_S = 10
_FAREWELL_S = 5


class MessageError(MproxyError):
    """The bytes are not messages: a length is above the limit, or the end is in the middle of a message."""


class MessageReader:
    """Messages out of a byte stream that arrives in pieces of any size.

    `feed` what was read, then call `poll_message` until it gives None; at the end of the stream `finish`. Holds at most
    what was fed and not polled.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def poll_message(self) -> bytes | None:
        """The next whole payload as bytes, or None. Raises MessageError at a length above the limit."""
        if len(self._buffer) < _LENGTH.size:
            return None
        length, = _LENGTH.unpack_from(self._buffer)
        if length > LIMIT_BYTES:
            raise MessageError(f"message of {length} bytes is above the limit of {LIMIT_BYTES} bytes")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_LENGTH.size:end])
        del self._buffer[:end]
        return payload

    def finish(self) -> None:
        """Raise MessageError if the stream ended in the middle of a message."""
        if self._buffer:
            raise MessageError(f"message cut off after {counted(len(self._buffer), 'byte')}, including its length"
                               " field")


def pack_message(payload: bytes) -> bytes:
    """A message as it is on the wire."""
    return _LENGTH.pack(len(payload)) + payload


class LineSplitter:
    """Lines out of a byte stream, without their newlines; those above the limit are counted but not kept."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._line = bytearray()  # the unfinished line, at most limit + 1 bytes of it
        self._length = 0  # of that line, as typed

    def feed(self, data: bytes) -> list[Line]:
        """[(line, length), ...] that `data` completes; line is None where length is above the limit."""
        lines = []
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._append(piece)
            lines.append(self._take())
        self._append(rest)
        return lines

    def finish(self) -> list[Line]:
        """The last line, [] if the input ended with a newline."""
        return [self._take()] if self._length else []

    def _append(self, piece: bytes) -> None:
        self._length += len(piece)
        self._line += piece[:self._limit_bytes + 1 - len(self._line)]

    def _take(self) -> Line:
        length, self._length = self._length, 0
        line, self._line = bytes(self._line), bytearray()
        return (line if length <= self._limit_bytes else None), length


class MessageServer:
    """Takes messages from any number of clients and prints each one's length and text.

    `write(data)` prints, `report(text)` tells of a client's mistake.
    """

    def __init__(self, listeners: Sequence[socket.socket], write: Callable[[bytes], object],
                 report: Callable[[str], object]) -> None:
        self._selector = selectors.DefaultSelector()
        self._listeners = listeners
        self._write = write
        self._report = report
        self._accepting = False
        self._resume_accepting()

    def run(self) -> NoReturn:
        """Serve until an exception (KeyboardInterrupt) ends it."""
        while True:
            self.run_once()

    def run_once(self) -> None:
        """Wait for clients and serve those that have something."""
        ready = self._selector.select(None if self._accepting else _ACCEPT_AGAIN_S)
        for key, _ in ready:
            key.data()
        if not ready:
            self._resume_accepting()

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, sockaddr = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors or memory: the listener would report the waiting client for ever.
            self._report(f"cannot accept: {error.strerror}; trying again later")
            self._pause_accepting()
            return
        client.setblocking(False)
        self._selector.register(client, selectors.EVENT_READ,
                                partial(self._read, client, say_address(sockaddr), MessageReader()))

    def _read(self, client: socket.socket, address: str, reader: MessageReader) -> None:
        try:
            data = client.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(client, f"{address}: {error.strerror or error}")
            return
        reader.feed(data)
        try:
            while (payload := reader.poll_message()) is not None:
                self._write(b"%d\n%b\n" % (len(payload), payload))
            if not data:
                reader.finish()
                self._drop(client)
        except MessageError as error:
            self._drop(client, f"{address}: {error}; connection closed")

    def _drop(self, client: socket.socket, reason: str | None = None) -> None:
        if reason:
            self._report(reason)
        self._selector.unregister(client)
        client.close()
        self._resume_accepting()

    def _pause_accepting(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            self._selector.unregister(listener)

    def _resume_accepting(self) -> None:
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))


class MessageClient:
    """Sends each line of the descriptor `input_fd` as a message over the connected socket `server`.

    `unsent` counts the lines that were too long.
    """

    def __init__(self, server: socket.socket, input_fd: int, report: Callable[[str], object]) -> None:
        self._server = server
        self._input_fd = input_fd
        self._report = report
        self._splitter = LineSplitter()
        self.unsent = 0

    def run(self) -> None:
        """Run until the end of input. Raises MproxyError if the server ends first."""
        poll = select.poll()
        poll.register(self._input_fd, select.POLLIN)
        poll.register(self._server, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self._server.fileno() in ready and not self._server.recv(_READ_BYTES):
                    raise MproxyError("the server closed the connection")
                if self._input_fd in ready:
                    data = self._read_input()
                    self._send(self._splitter.feed(data) if data else self._splitter.finish())
                    if not data:
                        return self._take_leave()
        except (ConnectionResetError, BrokenPipeError) as error:
            raise MproxyError(f"the server closed the connection: {error.strerror}") from None
        except OSError as error:
            raise MproxyError(f"connection lost: {error.strerror or error}") from None

    def _read_input(self) -> bytes:
        try:
            return os.read(self._input_fd, _READ_BYTES)
        except OSError as error:
            raise MproxyError(f"cannot read standard input: {error.strerror}") from None

    def _send(self, lines: Iterable[Line]) -> None:
        for line, length in lines:
            if line is None:
                self.unsent += 1
                self._report(f"line of {length} bytes not sent: the limit is {LIMIT_BYTES} bytes")
            else:
                self._server.sendall(pack_message(line))

    def _take_leave(self) -> None:
        """Say that no more comes, and wait until the server does the same: then it has read everything."""
        self._server.shutdown(socket.SHUT_WR)
        self._server.settimeout(_FAREWELL_S)
        try:
            while self._server.recv(_READ_BYTES):
                pass
        except TimeoutError:
            pass


def server_main(argv: list[str]) -> int:
    """`mproxy message-server`; the exit status."""
    program = "message-server"
    parser = OneLineParser(
        f"mproxy {program}", "mproxy message-server [options] PORT",
        "Print the messages that clients send: each one's length on one line, its text on\n"
        "the next.",
        "example: mproxy message-server 5000")
    parser.add(parser, "--bind", parse_bind, metavar="ADDR", help=(
        "numeric address to listen on (default 127.0.0.1 and ::1: this host alone; 0.0.0.0 or :: is every address)"))
    parser.add_help_options()
    parser.add_word("PORT", lambda text: parse_port(text, lowest=0), "TCP port; 0 takes any free one")
    closed = reserve_standard_fds()
    take_interrupts()

    def serve() -> None:
        options = parser.parse_args(argv)
        if 1 in closed:
            raise UsageError("standard output is closed: there is nowhere to print what clients send")
        hosts = [options.bind] if options.bind else ["127.0.0.1", "::1"]
        listeners = listen_on(hosts, options.PORT, named=bool(options.bind), both=True)
        for listener in listeners:
            complain(program, f"listening on {format_host_port(*listener.getsockname()[:2])}")
        write = _write_to_terminal if os.isatty(1) else _write_output
        try:
            MessageServer(listeners, write, _reporter(program)).run()
        except BrokenPipeError:
            silence_output()  # the reader of the output has seen enough
        except OSError as error:
            raise MproxyError(f"cannot write: {error.strerror}") from None

    return exit_status(program, serve, interrupted=0)


def client_main(argv: list[str]) -> int:
    """`mproxy message-client`; the exit status."""
    program = "message-client"
    parser = OneLineParser(
        f"mproxy {program}", "mproxy message-client HOST PORT",
        f"Send each line of standard input, up to {LIMIT_BYTES} bytes, as a message.",
        "example: mproxy message-client 127.0.0.1 5000")
    parser.add_help_options()
    parser.add_word("HOST", parse_host, "name or address of the server; HOST:PORT means the same")
    parser.add_word("PORT", parse_port, "its TCP port")
    take_interrupts()

    def talk() -> int:
        options = parser.parse_args(split_host_port(argv, 0))
        check_stdio([0])
        reserve_standard_fds()
        with _connect(options.HOST, options.PORT) as server:
            client = MessageClient(server, 0, lambda text: complain(program, text))
            client.run()
        return 1 if client.unsent else 0

    return exit_status(program, talk, interrupted=0)


def take_interrupts() -> None:
    """From here on Ctrl-C is KeyboardInterrupt: the ordinary way to end these programs."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _connect(host: str, port: int) -> socket.socket:
    """A socket connected to the first address of `host` that answers."""
    addresses, failure = numeric_address(host, port) or look_up_host(host)
    for family, sockaddr in addresses:
        server = socket.socket(family, socket.SOCK_STREAM)
        server.settimeout(_CONNECT_S)
        try:
            server.connect((sockaddr[0], port, *sockaddr[2:]))
            server.settimeout(None)
            return server
        except OSError as error:
            server.close()
            failure = f"cannot connect to {format_host_port(host, port)}: {error.strerror or error}"
    raise MproxyError(failure)


def _reporter(program: str) -> Callable[[str], None]:
    """Reports what clients do wrong, at a limited rate: the next report says how many were left out."""
    restraint = Restraint()

    def report(text: str) -> None:
        more = restraint.admit("warning", "client", {}, time.monotonic())
        if more is not None:
            complain(program, f"{text} (and {more} more like it)" if more else text)
    return report


def _write_to_terminal(data: bytes) -> None:
    """All of `data` on standard output, a terminal, with what it would obey escaped."""
    text = data.decode(errors="backslashreplace")
    shown = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
    _write_output(shown.encode(errors="backslashreplace"))


def _write_output(data: bytes) -> None:
    """All of `data` on standard output, now."""
    while data:
        try:
            data = data[os.write(1, data):]
        except BlockingIOError:
            select.select((), (1,), ())
