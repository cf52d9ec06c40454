"""SOCKS as a server reads it: versions 5 (RFC 1928), without a login, and 4, also with names (4A); CONNECT only.

Nothing here reads a socket. Every byte comes from an application that may be anything: a greeting that is wrong, or too
long, is a SocksError, and no byte behind it is taken.
"""

from __future__ import annotations

import socket

from mproxy.ground.errors import MproxyError, UsageError
from mproxy.ground.words import parse_host, parse_port

CONNECT = 1

# Version 5: number of methods, name, port; version 4: two texts of up to 255 bytes.
MOST_BYTES = 600
LONGEST_TEXT = 255

METHOD_CHOSEN, NO_METHOD = b"\x05\x00", b"\x05\xff"
GRANTED_4, REFUSED_4 = b"\x00\x5a" + bytes(6), b"\x00\x5b" + bytes(6)
NO_COMMAND_5, NO_ADDRESS_5, FAILED_5 = 7, 8, 1


class SocksError(MproxyError):
    """The connection is to be closed, after `answer`."""

    def __init__(self, why: str, answer: bytes = b"") -> None:
        super().__init__(why)
        self.answer = answer


class SocksReader:
    """Reads one greeting. `target` is (host, port) once it is complete; `answers` are to be sent."""

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None
        self.answers = b""
        self.taken = 0  # bytes of the greeting so far
        self._rest = b""  # of a message that is not complete
        self._take = self._take_version

    def feed(self, data: bytes) -> int:
        """How many bytes of `data` belong to the greeting; SocksError. Those behind it are the stream's."""
        before = len(self._rest)
        self._rest += data
        used = 0
        while self.target is None and (length := self._take()):
            used += length
            self._rest = self._rest[length:]
        if self.target is None:
            used += len(self._rest)
        else:
            self._rest = b""
        self.taken += used - before
        if self.taken > MOST_BYTES:
            raise SocksError("the greeting is too long")
        return used - before

    def _take_version(self) -> int:
        """The length of the message that the bytes begin with, acted on; 0: it is not complete. So are the others."""
        version = self._rest[:1]
        if version == b"\x04":
            self._take = self._take_request_4
        elif version == b"\x05":
            self._take = self._take_methods
        elif version:
            raise SocksError("it does not speak SOCKS")
        else:
            return 0
        return self._take()

    def _take_methods(self) -> int:
        if len(self._rest) < 2 or len(self._rest) < 2 + self._rest[1]:
            return 0
        length = 2 + self._rest[1]
        if 0 not in self._rest[2:length]:
            raise SocksError("it insists on a login", NO_METHOD)
        self.answers += METHOD_CHOSEN
        self._take = self._take_request_5
        return length

    def _take_request_5(self) -> int:
        data = self._rest
        if data[:1] not in (b"", b"\x05"):
            raise SocksError("it does not speak SOCKS 5")
        if len(data) < 5:
            return 0
        if data[1] != CONNECT:
            raise SocksError("it asks for something other than CONNECT", _reply_5(NO_COMMAND_5))
        length = {1: 4, 3: 1 + data[4], 4: 16}.get(data[3])
        if length is None:
            raise SocksError("it names an address of an unknown kind", _reply_5(NO_ADDRESS_5))
        if len(data) < 4 + length + 2:
            return 0
        address, port = data[4:4 + length], int.from_bytes(data[4 + length:6 + length])
        if data[3] == 3:
            host = _text(address[1:])
        else:
            host = socket.inet_ntop(socket.AF_INET if data[3] == 1 else socket.AF_INET6, address)
        self._found(host, port, _reply_5(0), _reply_5(FAILED_5))
        return 6 + length

    def _take_request_4(self) -> int:
        data = self._rest
        if len(data) > 1 and data[1] != CONNECT:
            raise SocksError("it asks for something other than CONNECT", REFUSED_4)
        if len(data) < 8:
            return 0
        end = _end_of_text(data, 8)
        if end and data[4:7] == bytes(3) and data[7]:
            begin, end = end, _end_of_text(data, end)
            host = _text(data[begin:end - 1])
        else:
            host = socket.inet_ntop(socket.AF_INET, data[4:8])
        if end:
            self._found(host, int.from_bytes(data[2:4]), GRANTED_4, REFUSED_4)
        return end

    def _found(self, host: str, port: int, granted: bytes, refused: bytes) -> None:
        try:
            self.target = parse_host(host), parse_port(str(port))
        except UsageError as error:
            raise SocksError(f"it asks for host {host[:80]!a}, port {port}: {error}", refused) from None
        self.answers += granted


def _end_of_text(data: bytes, begin: int) -> int:
    """Where the text that ends with a NUL ends; 0: it is not complete."""
    end = data.find(0, begin, begin + LONGEST_TEXT + 1)
    if end < 0 and len(data) > begin + LONGEST_TEXT:
        raise SocksError("a name in its request is too long", REFUSED_4)
    return end + 1


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _reply_5(code: int) -> bytes:
    return bytes((5, code, 0, 1)) + bytes(6)
