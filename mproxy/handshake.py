"""How a carrier begins: preamble, TLS, HELLO, WELCOME. Without I/O; it runs once a carrier, so it is plain Python.

Client (`Caller`)                                  Server (`Greeter`)
1. preamble, TLS ClientHello
                                                   2. preamble, TLS flight with the host's key
3. judges that key; TLS Finished with the client's
   key, HELLO, RESUME list, in one flight
                                                   4. judges that key, then HELLO: who, proof, epoch; on a resume
                                                      waits for the whole list that the proof covers
                                                   5. WELCOME with the server's proof, RESUME list
6. checks proof and list

With `--plaintext` steps 1 and 3 are one, as are 2 and 5; so they are on a link of packets, whose keys are known before
its first byte. Whoever drives this sends `outgoing` after every call; bytes
after the first frame (and the list, on a resume) belong to the session and are in `leftover`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from mproxy import _wire
from mproxy._frames import FrameParser, encode_frame
from mproxy._wire import CloseCode, FrameType, PreambleFlag
from mproxy.ground.errors import PeerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Encryption(Protocol):
        """What the handshake needs of TLS: `mproxy.carrier._tls.Tls`; of a link of packets:
        `mproxy.transport.keying.LinkKeys`."""

        @property
        def finished(self) -> bool: ...
        @property
        def broken(self) -> bool: ...
        def receive(self, data: bytes) -> bytes: ...
        def seal(self, data: bytes) -> bytes: ...
        def take_out(self) -> bytes: ...
        def peer_spki(self) -> bytes | None: ...
        def peer_certificate(self) -> bytes: ...
        def exporter(self, label: bytes, context: bytes, length: int) -> bytes: ...
        def hand_over(self) -> bytearray: ...
        def take_over(self, state: bytes | bytearray) -> None: ...

PREAMBLE = struct.Struct(">IBBHQ")  # magic, version, flags, reserved, routing tag
HELLO = struct.Struct(">16s16s32s16sQQII32sII")
WELCOME = struct.Struct(">16s32s32s16sQQIIQ32sII")
MAGIC = _wire.MAGIC & 0xFFFFFFFF  # a C enum's number reaches Python as a signed int
NO_SESSION = bytes(_wire.SESSION_ID_BYTES)
NO_SECRET = bytes(_wire.SECRET_BYTES)
NO_PROOF = bytes(_wire.PROOF_BYTES)
NO_DIGEST = bytes(_wire.DIGEST_BYTES)
MIN_BUDGET_BYTES = _wire.MIN_WINDOW_BYTES

# Labels of the exporter (RFC 5705, section 4) and of the proofs, each used for one thing only.
CHANNEL_LABEL = b"EXPORTER-mproxy-channel"
SECRET_LABEL = b"EXPORTER-mproxy-secret"
CLIENT_LABEL = b"mproxy 2 client\0"
SERVER_LABEL = b"mproxy 2 server\0"

# What stands for a TLS connection in the proofs when there is none.
CHANNEL_BYTES = 32
NO_CHANNEL = bytes(CHANNEL_BYTES)

# What goes to another process in front of a HELLO: routing tag, id of a new session, lengths of what is to be sent and
# to be said before WELCOME. And how many bytes of secrets there are before those of TLS.
HANDED = struct.Struct("=Q16sII")
HANDED_SECRETS = CHANNEL_BYTES + _wire.SECRET_BYTES

USE_BOTH = "use --plaintext on both sides or on neither"


class Hello:
    """What cproxy asks for. `session_id` is empty for a new session; limits in bytes.

    `list_bytes` and `list_digest` (SHA-256) are those of the RESUME list after it, zero for a new session. `former`:
    the tag (`session_tag`) of the session that this instance may have left behind, 0 if there is none.
    """

    def __init__(self, session_id: bytes, instance_id: bytes, nonce: bytes, epoch: int, budget_bytes: int,
                 window_bytes: int, features: int = 0, former: int = 0) -> None:
        self.session_id = session_id
        self.instance_id = instance_id
        self.proof = NO_PROOF
        self.nonce = nonce
        self.epoch = epoch
        self.budget_bytes = budget_bytes
        self.window_bytes = window_bytes
        self.features = features
        self.former = former
        self.list_digest = NO_DIGEST
        self.list_bytes = 0

    def payload(self, proof: bytes | None = None) -> bytes:
        """The payload of the frame, with another proof if one is given."""
        return HELLO.pack(
            self.session_id or NO_SESSION, self.instance_id, self.proof if proof is None else proof, self.nonce,
            self.epoch, self.budget_bytes, self.window_bytes, self.features, self.list_digest, self.list_bytes,
            self.former)

    def encode(self) -> bytes:
        """The frame, header included."""
        return encode_frame(FrameType.HELLO, payload=self.payload())

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Parse a HELLO payload of the right length; PeerError if its limits are unusable."""
        (session_id, instance_id, proof, nonce, epoch, budget, window, features, digest, length,
         former) = HELLO.unpack(payload)
        check_limits(window, budget)
        if not 0 < epoch < 1 << 63:
            raise PeerError(CloseCode.STALE_EPOCH, f"epoch {epoch} is out of range")
        session_id = b"" if session_id == NO_SESSION else session_id
        hello = cls(session_id, instance_id, nonce, epoch, budget, window, features, former)
        hello.proof, hello.list_digest, hello.list_bytes = proof, digest, length
        return hello

    def prove(self, secret: bytes, channel: bytes, resume_list: bytes) -> None:
        """Claim a session: bind this HELLO and the list after it to the secret and the connection."""
        self.list_bytes, self.list_digest = len(resume_list), digest_of(resume_list)
        self.proof = make_proof(secret, CLIENT_LABEL, channel, self.payload(NO_PROOF))

    def proves(self, secret: bytes, channel: bytes) -> bool:
        """Whether the sender holds the session's secret, and speaks on this connection."""
        return same(self.proof, make_proof(secret, CLIENT_LABEL, channel, self.payload(NO_PROOF)))


class Welcome:
    """What sproxy grants. `secret` is all zero, except for a new session without TLS.

    `site` says which of several sproxies with one key this is, and is the same after its restart; 0: unknown.
    `address`: HOST:PORT at which this one alone can be reached over UDP, for a cproxy that asks; empty: none.
    """

    def __init__(self, session_id: bytes, secret: bytes, nonce: bytes, epoch: int, budget_bytes: int, window_bytes: int,
                 features: int = 0, routing_tag: int = 0, site: int = 0, address: bytes = b"") -> None:
        self.session_id = session_id
        self.secret = secret
        self.proof = NO_PROOF
        self.nonce = nonce
        self.epoch = epoch
        self.budget_bytes = budget_bytes
        self.window_bytes = window_bytes
        self.features = features
        self.routing_tag = routing_tag
        self.site = site
        self.address = address
        self.list_digest = NO_DIGEST
        self.list_bytes = 0

    def payload(self, proof: bytes | None = None) -> bytes:
        """The payload of the frame, with another proof if one is given."""
        return WELCOME.pack(
            self.session_id, self.secret, self.proof if proof is None else proof, self.nonce, self.epoch,
            self.budget_bytes, self.window_bytes, self.features, self.routing_tag, self.list_digest, self.list_bytes,
            self.site) + self.address

    def encode(self) -> bytes:
        """The frame, header included."""
        return encode_frame(FrameType.WELCOME, payload=self.payload())

    @classmethod
    def decode(cls, payload: bytes) -> Welcome:
        """Parse a WELCOME payload of the right length."""
        (session_id, secret, proof, nonce, epoch, budget, window, features, tag, digest, length,
         site) = WELCOME.unpack_from(payload)
        check_limits(window, budget)
        welcome = cls(session_id, secret, nonce, epoch, budget, window, features, tag, site, payload[WELCOME.size:])
        welcome.proof, welcome.list_digest, welcome.list_bytes = proof, digest, length
        return welcome

    def prove(self, secret: bytes, channel: bytes, hello: Hello, resume_list: bytes) -> None:
        """Answer a claim: bind both sides' messages and our list to the secret and the connection."""
        self.list_bytes, self.list_digest = len(resume_list), digest_of(resume_list)
        self.proof = make_proof(secret, SERVER_LABEL, channel, hello.payload() + self.payload(NO_PROOF))

    def proves(self, secret: bytes, channel: bytes, hello: Hello) -> bool:
        """Whether the sender holds the session's secret, and answers this HELLO on this connection."""
        return same(self.proof, make_proof(secret, SERVER_LABEL, channel, hello.payload() + self.payload(NO_PROOF)))


def session_tag(session_id: bytes) -> int:
    """The beginning of a session's id as a number: enough to tell the sessions of one instance apart."""
    return int.from_bytes(session_id[:4])


def check_limits(window_bytes: int, budget_bytes: int) -> None:
    """PeerError when the peer offers limits outside of what the protocol allows."""
    if not _wire.MIN_WINDOW_BYTES <= window_bytes <= _wire.MAX_WINDOW_BYTES:
        raise PeerError(CloseCode.LIMIT_ERROR, f"peer offers an invalid stream window: {window_bytes} bytes")
    if budget_bytes < MIN_BUDGET_BYTES:
        raise PeerError(CloseCode.LIMIT_ERROR, f"peer offers an invalid session budget: {budget_bytes} bytes")


def make_proof(secret: bytes, label: bytes, channel: bytes, words: bytes) -> bytes:
    """HMAC-SHA256 by the session's secret (RFC 2104)."""
    return hmac.digest(secret, label + channel + words, "sha256")


def same(one: bytes, other: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


def digest_of(data: bytes) -> bytes:
    """SHA-256 of a RESUME list."""
    return hashlib.sha256(data).digest()


def encode_preamble(version: int = _wire.VERSION, tag: int = 0, flags: int = 0) -> bytes:
    """The 16 bytes that open a carrier in either direction."""
    return PREAMBLE.pack(MAGIC, version, flags, 0, tag)


class _Opening:
    """One side of the beginning; `tls` is None without encryption.

    `judge(spki)` is called once, when the peer has proven that it holds that key and before any frame is read or sent;
    it raises PeerError to turn the peer away. A `tls` that is finished already, as on a link of packets, seals the
    preambles as well; the client has judged the server's key by then.
    """

    our_name = peer_name = ""  # in messages
    is_server = False

    def __init__(self, tls: Encryption | None, judge: Callable[[bytes], object], tag: int) -> None:
        self.tls = tls
        self.outgoing = b""  # to be sent; whoever sends it empties it
        self.peer_tag = 0
        self.is_probe = False  # the peer only wants to know whether there is somebody
        self.finished = False  # frames may flow: TLS, if wanted, is set up, and the peer's key was judged
        self._judge = judge
        self._is_inside = tls is not None and tls.finished
        self._our_preamble = encode_preamble(tag=tag, flags=PreambleFlag.TLS if tls is not None else 0)
        self._preamble = b""
        self._parser = FrameParser()
        self._first: Hello | Welcome | None = None   # the peer's HELLO or WELCOME, while its list is awaited
        self._behind = b""   # what arrived after it

    @property
    def leftover(self) -> bytes:
        """Bytes for the session: what arrived after the first frame."""
        return self._behind

    @property
    def met(self) -> bool:
        """Whether the peer has sent anything."""
        return bool(self._preamble)

    @property
    def proven(self) -> bool:
        """Whether the peer's first frame was right and only the rest of its list is missing."""
        return self._first is not None

    def channel(self) -> bytes:
        """32 bytes that only the two ends of this connection can know; zero without TLS."""
        if self.tls is None:
            return NO_CHANNEL
        preambles = (self._preamble + self._our_preamble if self.is_server else self._our_preamble + self._preamble)
        return self.tls.exporter(CHANNEL_LABEL, b"" if self._is_inside else preambles, len(NO_CHANNEL))

    def fresh_secret(self, session_id: bytes) -> bytes:
        """The secret of a session that begins on this connection: with TLS both ends derive it; it is never sent."""
        assert self.tls is not None  # without it sproxy sends one
        return self.tls.exporter(SECRET_LABEL, session_id, _wire.SECRET_BYTES)

    def feed(self, data: bytes) -> Hello | Welcome | None:
        """Take bytes of the peer; returns its first frame's Hello or Welcome once that (and its list) is complete."""
        missing = _wire.PREAMBLE_BYTES - len(self._preamble)
        if missing > 0:
            self._preamble += data[:missing]
            data = data[missing:]
            self._check_preamble()
            if len(self._preamble) < _wire.PREAMBLE_BYTES:
                return None
            self._met()
        if self.tls is not None:
            data = self._through_tls(self.tls, data)
        if self._first is not None:
            self._behind += data
        else:
            for frame_type, _flags, _stream, seq, ack, payload, _offset in self._parser.feed(data, limit=1):
                self._first = self._read_first(frame_type, seq, ack, payload)
                self._behind = self._parser.unparsed
        return self._complete(self._first) if self._first is not None else None

    def _met(self) -> None:
        """Called once the peer's preamble has turned out right."""

    def _through_tls(self, tls: Encryption, data: bytes) -> bytes:
        data = tls.receive(data)
        if tls.finished and not self.finished:
            spki = tls.peer_spki()
            assert spki is not None  # without a certificate TLS would not have finished
            self._judge(spki)
            self.finished = True
            self._open()
        self.outgoing += tls.take_out()
        return data

    def _open(self) -> None:
        """Called once frames may flow."""

    def _read_first(self, frame_type: int, seq: int, ack: int, payload: bytes) -> Hello | Welcome:
        """The Hello or Welcome in the peer's first frame; PeerError if that is another frame."""
        raise NotImplementedError

    def _complete(self, first: Hello | Welcome) -> Hello | Welcome | None:
        """The first frame, once the list that it announces is complete, and is the one that was proven."""
        if len(self._behind) < first.list_bytes:
            return None
        if first.list_bytes and not same(digest_of(self._behind[:first.list_bytes]), first.list_digest):
            raise PeerError(CloseCode.BAD_PROOF, "the list of streams does not match its proof")
        return first

    def _check_preamble(self) -> None:
        got = self._preamble
        if not self._our_preamble.startswith(got[:4]):
            raise PeerError(CloseCode.VERSION_ERROR, f"not an mproxy peer: it sent {describe_bytes(got)}")
        if len(got) < _wire.PREAMBLE_BYTES:
            return
        _magic, version, flags, _reserved, self.peer_tag = PREAMBLE.unpack(got)
        if version != _wire.VERSION:
            raise PeerError(
                CloseCode.VERSION_ERROR,
                f"peer speaks protocol version {version}, this program speaks version {_wire.VERSION}")
        self.is_probe = self.is_server and bool(flags & PreambleFlag.PROBE)
        encrypts = bool(flags & PreambleFlag.TLS)
        if not self.is_probe and encrypts != (self.tls is not None):
            peer, us = ("encrypts", "does not") if encrypts else ("does not encrypt", "does")
            raise PeerError(CloseCode.ENCRYPTION, f"{self.peer_name} {peer}, {self.our_name} {us}: {USE_BOTH}")


def describe_bytes(data: bytes) -> str:
    """What a stranger's first bytes look like, without repeating more than a few of them."""
    if data[:1] in (b"\x15", b"\x16"):  # an alert, a handshake
        return "TLS"
    if data[:4] in (b"GET ", b"POST", b"HEAD", b"PUT ", b"HTTP", b"OPTI", b"CONN"):
        return "HTTP"
    if data[:4] == b"SSH-":
        return "SSH"
    line = data[:16].partition(b"\n")[0].rstrip(b"\r")
    if len(line) > 3 and all(0x20 <= byte < 0x7F for byte in line):
        return f"'{line.decode()}'"
    return data[:4].hex(" ")


def judge_nobody(_spki: bytes) -> None:
    """Trust every key."""


class Greeter(_Opening):
    """sproxy's side of a new carrier.

    `meet(tag)` is called when the preamble is right, before anything costs more than a few bytes; its exceptions are
    passed on. `check(hello, channel)` is called when HELLO is complete, before the list after it is kept: it raises
    PeerError unless a resume is proven.
    """

    our_name, peer_name, is_server = "sproxy", "cproxy", True

    if TYPE_CHECKING:
        def feed(self, data: bytes) -> Hello | None: ...

    def __init__(self, check: Callable[[Hello, bytes], object], tls: Encryption | None = None,
                 judge: Callable[[bytes], object] = judge_nobody,
                 meet: Callable[[int], object] = lambda tag: None) -> None:
        super().__init__(tls, judge, 0)
        self._check = check
        self._meet = meet
        self.prefix = self._our_preamble  # what goes before WELCOME or GOODBYE
        self.fresh_id = b""  # of a new session on a connection that began in another process
        self._channel = self._fresh = b""  # of such a one

    def _met(self) -> None:
        self._meet(self.peer_tag)
        if self.tls is not None:
            self.outgoing, self.prefix = self.prefix, b""

    def _read_first(self, frame_type: int, seq: int, ack: int, payload: bytes) -> Hello:
        if frame_type != FrameType.HELLO:
            raise PeerError(CloseCode.STATE_ERROR, "first frame is not HELLO")
        hello = Hello.decode(payload)
        if not hello.session_id:
            hello.list_bytes = 0
        self._check(hello, self.channel())
        return hello

    def hand_over(self, hello: Hello, fresh_id: bytes) -> tuple[bytes, bytearray]:
        """What another process goes on from behind HELLO, by `take_over`; the second is to be wiped. `fresh_id`: of the
        session, if a new one is wanted. This one can do nothing any more. PeerError."""
        secret = bytearray(self.channel())
        fresh_id = b"" if hello.session_id or self.tls is None else self.fresh_id or fresh_id
        secret += self.fresh_secret(fresh_id) if fresh_id else NO_SECRET
        about = HANDED.pack(self.peer_tag, fresh_id or NO_SESSION, len(self.prefix), len(self.outgoing))
        if self.tls is not None:
            secret += self.tls.hand_over()
        return about + hello.payload() + self.prefix + self.outgoing + (self._behind or self._parser.unparsed), secret

    def take_over(self, about: bytes, secret: bytearray) -> Hello | None:
        """Go on from what another process's `hand_over` has given; returns HELLO as `feed` does. PeerError."""
        self.peer_tag, fresh_id, prefix, outgoing = HANDED.unpack_from(about)
        self._preamble = encode_preamble(tag=self.peer_tag)
        self.fresh_id = fresh_id if fresh_id != NO_SESSION else b""
        rest = about[HANDED.size + HELLO.size:]
        self.prefix, self.outgoing, rest = rest[:prefix], rest[prefix:prefix + outgoing], rest[prefix + outgoing:]
        self._channel, self._fresh = bytes(secret[:CHANNEL_BYTES]), bytes(secret[CHANNEL_BYTES:HANDED_SECRETS])
        if self.tls is not None:
            self.tls.take_over(secret[HANDED_SECRETS:])
        self.finished = True
        hello = self._read_first(FrameType.HELLO, 0, 0, about[HANDED.size:HANDED.size + HELLO.size])
        self._first, self._behind = hello, rest
        return hello if self._complete(hello) is not None else None

    def channel(self) -> bytes:
        """The same, wherever the connection began."""
        return self._channel or super().channel()

    def fresh_secret(self, session_id: bytes) -> bytes:
        """The same; of one that began in another process for `fresh_id` alone."""
        return self._fresh if session_id == self.fresh_id else super().fresh_secret(session_id)

    def farewell(self, error: PeerError) -> bytes:
        """Bytes that tell the peer why it is turned away; without what it cannot read yet."""
        reason = str(error).encode(errors="replace")[:_wire.MAX_REASON_BYTES]
        frame = encode_frame(FrameType.GOODBYE, seq=error.code or 0, ack=error.detail, payload=reason)
        if self.tls is None or self.prefix:
            return self.prefix + frame
        if self.tls.finished and not self.tls.broken:
            return self.outgoing + self.tls.seal(frame)
        return self.outgoing + self.tls.take_out()


class Caller(_Opening):
    """cproxy's side of a new carrier. `compose()` gives (Hello, RESUME list, secret), as late as possible."""

    our_name, peer_name = "cproxy", "sproxy"

    if TYPE_CHECKING:
        def feed(self, data: bytes) -> Welcome | None: ...

    def __init__(self, compose: Callable[[], tuple[Hello, bytes, bytes]], tls: Encryption | None = None,
                 judge: Callable[[bytes], object] = judge_nobody, tag: int = 0) -> None:
        super().__init__(tls, judge, tag)
        self._compose = compose
        self._secret = b""
        self.hello: Hello | None = None  # once it was composed
        self.list_bytes = 0   # of our list
        self.refused = False  # the peer is an sproxy, of the right key if keys are in use, and said GOODBYE
        self.detail = 0       # what else that GOODBYE said: see PeerError
        self.outgoing = self._our_preamble
        if tls is None or self._is_inside:
            self.finished = True
            self._open()
        else:
            tls.receive(b"")
            self.outgoing += tls.take_out()

    def _open(self) -> None:
        self.hello, resume_list, self._secret = self._compose()
        self.list_bytes = len(resume_list)
        if self.hello.session_id:
            self.hello.prove(self._secret, self.channel(), resume_list)
        words = self.hello.encode() + resume_list
        self.outgoing += words if self.tls is None else self.tls.seal(words)

    def _read_first(self, frame_type: int, seq: int, ack: int, payload: bytes) -> Welcome:
        """The Welcome; PeerError if the peer is not an sproxy or turns us away."""
        if frame_type == FrameType.GOODBYE:
            self.refused = True
            self.detail = ack
            code = CloseCode(seq) if seq in set(CloseCode) else CloseCode.ORDERLY
            raise PeerError(code, payload.decode(errors="replace") or code.name, ack)
        if frame_type != FrameType.WELCOME:
            raise PeerError(CloseCode.STATE_ERROR, "first frame is not WELCOME")
        welcome = Welcome.decode(payload)
        hello = self.hello
        assert hello is not None  # nobody answers an unasked question
        if welcome.epoch != hello.epoch or hello.session_id not in (b"", welcome.session_id):
            raise PeerError(CloseCode.STATE_ERROR, "WELCOME is for another session or carrier")
        if hello.session_id:
            if not welcome.proves(self._secret, self.channel(), hello):
                raise PeerError(CloseCode.BAD_PROOF, "sproxy did not prove that it has the session")
        else:
            welcome.list_bytes = 0
            if self.tls is not None:
                welcome.secret = self.fresh_secret(welcome.session_id)
        return welcome
