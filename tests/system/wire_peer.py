"""Small imitations of cproxy and sproxy that break the protocol: they send whatever a test wants, at any point.

They were written from docs/protocol.md alone, with their own numbers: if the programs and the document differed,
these peers would not work with them. They do not encrypt: the programs they talk to run with --plaintext.
"""

import hashlib
import hmac
import os
import struct
import time
from collections import namedtuple

from traffic import read_exactly

MAGIC, VERSION = 0xAB6D7078, 2
HELLO, WELCOME, RESUME, HEARTBEAT, OPEN, DATA, ACK, RESET, GOODBYE = range(1, 10)
FIN, WANT_ACK, REPLY, END, DONE, ABORTED, IGNORABLE = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x80
(ORDERLY, SHUTDOWN, FRAME_ERROR, STREAM_ERROR, OFFSET_ERROR, LIMIT_ERROR, STATE_ERROR, VERSION_ERROR, UNKNOWN_SESSION,
 BAD_PROOF, STALE_EPOCH, TOO_MANY, REPLACED, EXPIRED, INTERNAL, KEY_REFUSED) = range(16)

PREAMBLE = struct.Struct(">IBBHQ")
HEADER = struct.Struct(">BBHIIQQ")
HELLO_PAYLOAD = struct.Struct(">16s16s32s16sQQII32sII")
WELCOME_PAYLOAD = struct.Struct(">16s32s32s16sQQIIQ32sII")

Frame = namedtuple("Frame", "type flags stream seq ack payload")
Welcome = namedtuple("Welcome", "session secret proof nonce epoch budget window features tag digest length reserved")

MIB = 1 << 20
NOBODY = bytes(16)


def preamble(version=VERSION, magic=MAGIC, tag=0):
    return PREAMBLE.pack(magic, version, 0, 0, tag)


def frame(kind, flags=0, stream=0, seq=0, ack=0, payload=b"", length=None, reserved=0):
    """The bytes of a frame, which need not be valid."""
    length = len(payload) if length is None else length
    return HEADER.pack(kind, flags, reserved, stream, length, seq, ack) + payload


def hello(session=NOBODY, secret=b"", epoch=1, instance=None, window=4 * MIB, budget=64 * MIB, proof=None,
          resume_list=b""):
    """HELLO; with a secret also the proof for it and for the list that will follow."""
    instance = instance or os.urandom(16)
    digest = hashlib.sha256(resume_list).digest() if session != NOBODY else bytes(32)
    length = len(resume_list) if session != NOBODY else 0

    def pack(proof):
        return HELLO_PAYLOAD.pack(
            session, instance, proof, b"n" * 16, epoch, budget, window, 0, digest, length, 0)
    if proof is None:
        claim = b"mproxy 2 client\0" + bytes(32) + pack(bytes(32))
        proof = hmac.digest(secret, claim, hashlib.sha256) if secret else bytes(32)
    return frame(HELLO, payload=pack(proof))


def end_mark(newest=0):
    """The end of a RESUME list; a client names the newest stream that it knows."""
    return frame(RESUME, END, seq=newest)


class Peer:
    """One end of a carrier. Heartbeats are not answered unless `next_frame` is waiting for another frame."""

    def __init__(self, connection):
        self.connection = connection
        self.session = NOBODY

    def send(self, data):
        self.connection.sendall(data)

    def read_preamble(self):
        """The peer's protocol version."""
        magic, version, _, _, self.tag = PREAMBLE.unpack(read_exactly(self.connection, PREAMBLE.size))
        assert magic == MAGIC
        return version

    def read_frame(self):
        kind, flags, reserved, stream, length, seq, ack = HEADER.unpack(read_exactly(self.connection, HEADER.size))
        assert reserved == 0
        return Frame(kind, flags, stream, seq, ack, read_exactly(self.connection, length))

    def next_frame(self, *kinds):
        """The next frame of one of these types; others are skipped, heartbeats answered."""
        while True:
            got = self.read_frame()
            if got.type in kinds:
                return got
            assert got.type != GOODBYE, f"GOODBYE {got.seq}: {got.payload.decode()}"
            if got.type == HEARTBEAT and not got.flags & REPLY:
                self.send(frame(HEARTBEAT, REPLY, ack=got.seq, payload=self.session))

    def end_mark(self, newest=0):
        """Ends the RESUME list."""
        self.send(end_mark(newest))

    def is_ended(self, within=15):
        """Whether the carrier ends, whatever comes before."""
        end = time.monotonic() + within
        self.connection.settimeout(within)
        try:
            while self.connection.recv(65536):
                assert time.monotonic() < end
        except ConnectionResetError:
            pass
        return True


class LyingClient(Peer):
    """Plays cproxy, on the client or another `host`. `join` makes a session or resumes one; then any frame may be
    sent."""

    def __init__(self, lab, port, host=None, **more):
        super().__init__((host or lab.client).connect(port, lab.server_address, **more))

    def join(self, *resume_list, newest=0, **what):
        """HELLO and the list; returns the WELCOME."""
        whole = b"".join(resume_list) + end_mark(newest)
        self.send(preamble() + hello(resume_list=whole, **what) + whole)
        return self.read_welcome()

    def read_welcome(self):
        """sproxy's answer to HELLO, and its list."""
        assert self.read_preamble() == VERSION
        welcome = Welcome._make(WELCOME_PAYLOAD.unpack(self.next_frame(WELCOME).payload))
        self.session = welcome.session
        while not self.next_frame(RESUME).flags & END:
            pass
        return welcome

    def turned_away(self):
        """Reads the refusal: (code, text, epoch)."""
        assert self.read_preamble() == VERSION
        got = self.next_frame(GOODBYE)
        assert self.is_ended()
        return got.seq, got.payload.decode(), got.ack


class LyingServer(Peer):
    """Plays sproxy on `listener`; made when cproxy dials."""

    def __init__(self, listener):
        self._listener = listener
        super().__init__(self._next_dial())

    def _next_dial(self):
        connection, _ = self._listener.accept()
        connection.settimeout(15)
        return connection

    def welcome(self, epoch=None, session=None, window=4 * MIB, budget=64 * MIB, tag=0):
        """Reads HELLO and grants what it asks for, or something else. Passes over a dial that cproxy has given up."""
        while True:
            try:
                version = self.read_preamble()
                break
            except ConnectionResetError:
                self.connection.close()
                self.connection = self._next_dial()
        assert version == VERSION
        asked, _, _, _, asked_epoch, *_ = HELLO_PAYLOAD.unpack(self.next_frame(HELLO).payload)
        self.session = session or (asked if asked != NOBODY else b"s" * 16)
        self.send(preamble() + frame(WELCOME, payload=WELCOME_PAYLOAD.pack(
            self.session, b"k" * 32, bytes(32), b"N" * 16, epoch or asked_epoch, budget, window, 0, tag, bytes(32), 0,
            0)))
        self.end_mark()
