"""How a carrier begins: preamble, TLS, HELLO, WELCOME. Sans-I/O; runs once a carrier, so plain Python.

Client (`Caller`)                                  Server (`Greeter`)
1. preamble, TLS ClientHello
                                                   2. preamble, TLS flight with the host's key
3. judges that key; TLS Finished with the client's
   key, HELLO, RESUME list, in one flight
                                                   4. judges that key, then HELLO: who, proof, epoch; on a resume
                                                      waits for the whole list that the proof covers
                                                   5. WELCOME with the server's proof, RESUME list
6. checks proof and list

With `--plaintext` steps 1 and 3 leave as one, as do 2 and 5. Whoever drives this sends `outgoing` after every call;
bytes behind the first frame (and the list, on a resume) belong to the session and are in `leftover`.
"""

import hashlib
import hmac
import struct

from mproxy import _wire
from mproxy._frames import FrameParser, encode_frame
from mproxy._wire import CloseCode, FrameType, PreambleFlag
from mproxy.ground.errors import PeerError

PREAMBLE = struct.Struct(">IBBHQ")  # magic, version, flags, reserved, routing tag
HELLO = struct.Struct(">16s16s32s16sQQII32sII")
WELCOME = struct.Struct(">16s32s32s16sQQIIQ32sII")
MAGIC = _wire.MAGIC & 0xFFFFFFFF  # a C enum's number reaches Python as a signed int
NO_SESSION = bytes(_wire.SESSION_ID_BYTES)
NO_SECRET = bytes(_wire.SECRET_BYTES)
NO_PROOF = bytes(_wire.PROOF_BYTES)
NO_DIGEST = bytes(_wire.DIGEST_BYTES)
MIN_BUDGET_BYTES = _wire.MIN_WINDOW_BYTES

# Labels of the exporter (RFC 5705, section 4) and of the proofs. Each is used for one thing.
CHANNEL_LABEL = b"EXPORTER-mproxy-channel"
SECRET_LABEL = b"EXPORTER-mproxy-secret"
CLIENT_LABEL = b"mproxy 2 client\0"
SERVER_LABEL = b"mproxy 2 server\0"

# What stands for a TLS connection in the proofs when there is none.
NO_CHANNEL = bytes(32)

USE_BOTH = "use --plaintext on both sides or on neither"


class Hello:
    """What cproxy asks for. `session_id` is empty for a new session; limits in bytes.

    `list_bytes` and `list_digest` (SHA-256) are those of the RESUME list behind it, zero for a new session. `former`:
    the tag (`session_tag`) of the session that this instance may have left behind, 0 when there is none.
    """

    def __init__(self, session_id, instance_id, nonce, epoch, budget_bytes, window_bytes, features=0,
                 former=0):
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

    def payload(self, proof=None):
        """The payload of the frame, with another proof if one is given."""
        return HELLO.pack(
            self.session_id or NO_SESSION, self.instance_id, self.proof if proof is None else proof, self.nonce,
            self.epoch, self.budget_bytes, self.window_bytes, self.features, self.list_digest, self.list_bytes,
            self.former)

    def encode(self):
        """Return the HELLO frame."""
        return encode_frame(FrameType.HELLO, payload=self.payload())

    @classmethod
    def decode(cls, payload):
        """Parse a HELLO payload of the right length; PeerError for limits nobody can work with."""
        (session_id, instance_id, proof, nonce, epoch, budget, window, features, digest, length,
         former) = HELLO.unpack(payload)
        check_limits(window, budget)
        if not 0 < epoch < 1 << 63:
            raise PeerError(CloseCode.STALE_EPOCH, f"epoch {epoch} is out of range")
        session_id = b"" if session_id == NO_SESSION else session_id
        hello = cls(session_id, instance_id, nonce, epoch, budget, window, features, former)
        hello.proof, hello.list_digest, hello.list_bytes = proof, digest, length
        return hello

    def prove(self, secret, channel, resume_list):
        """Claim a session: bind this HELLO and the list behind it to the secret and to the connection."""
        self.list_bytes, self.list_digest = len(resume_list), digest_of(resume_list)
        self.proof = make_proof(secret, CLIENT_LABEL, channel, self.payload(NO_PROOF))

    def proves(self, secret, channel):
        """Whether the sender holds the session's secret, and speaks on this connection."""
        return same(self.proof, make_proof(secret, CLIENT_LABEL, channel, self.payload(NO_PROOF)))


class Welcome:
    """What sproxy grants. `secret` is all zero but for a new session without TLS.

    `site` says which of several sproxies with one key this is, and is the same after its restart; 0: unknown.
    """

    def __init__(self, session_id, secret, nonce, epoch, budget_bytes, window_bytes, features=0, routing_tag=0,
                 site=0):
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
        self.list_digest = NO_DIGEST
        self.list_bytes = 0

    def payload(self, proof=None):
        """The payload of the frame, with another proof if one is given."""
        return WELCOME.pack(
            self.session_id, self.secret, self.proof if proof is None else proof, self.nonce, self.epoch,
            self.budget_bytes, self.window_bytes, self.features, self.routing_tag, self.list_digest, self.list_bytes,
            self.site)

    def encode(self):
        """Return the WELCOME frame."""
        return encode_frame(FrameType.WELCOME, payload=self.payload())

    @classmethod
    def decode(cls, payload):
        """Parse a WELCOME payload of the right length."""
        (session_id, secret, proof, nonce, epoch, budget, window, features, tag, digest, length,
         site) = WELCOME.unpack(payload)
        check_limits(window, budget)
        welcome = cls(session_id, secret, nonce, epoch, budget, window, features, tag, site)
        welcome.proof, welcome.list_digest, welcome.list_bytes = proof, digest, length
        return welcome

    def prove(self, secret, channel, hello, resume_list):
        """Answer a claim: bind both sides' words and our list to the secret and to the connection."""
        self.list_bytes, self.list_digest = len(resume_list), digest_of(resume_list)
        self.proof = make_proof(secret, SERVER_LABEL, channel, hello.payload() + self.payload(NO_PROOF))

    def proves(self, secret, channel, hello):
        """Whether the sender holds the session's secret, and answers this HELLO on this connection."""
        return same(self.proof, make_proof(secret, SERVER_LABEL, channel, hello.payload() + self.payload(NO_PROOF)))


def session_tag(session_id):
    """The beginning of a session's id as a number: enough to tell one session of an instance from another."""
    return int.from_bytes(session_id[:4])


def check_limits(window_bytes, budget_bytes):
    """PeerError when the peer offers limits outside of what the protocol allows."""
    if not _wire.MIN_WINDOW_BYTES <= window_bytes <= _wire.MAX_WINDOW_BYTES:
        raise PeerError(CloseCode.LIMIT_ERROR, f"peer offers an invalid stream window: {window_bytes} bytes")
    if budget_bytes < MIN_BUDGET_BYTES:
        raise PeerError(CloseCode.LIMIT_ERROR, f"peer offers an invalid session budget: {budget_bytes} bytes")


def make_proof(secret, label, channel, words):
    """HMAC-SHA256 by the session's secret (RFC 2104)."""
    return hmac.digest(secret, label + channel + words, "sha256")


def same(one, other):
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


def digest_of(data):
    """SHA-256 of a RESUME list."""
    return hashlib.sha256(data).digest()


def encode_preamble(version=_wire.VERSION, tag=0, flags=0):
    """Return the 16 bytes that open a carrier in either direction."""
    return PREAMBLE.pack(MAGIC, version, flags, 0, tag)


class _Opening:
    """One side of the beginning; `tls` is None without encryption.

    `judge(spki)` is called once, when the peer has proved to hold that key and before any frame is read or sent; it
    raises PeerError to turn the peer away.
    """

    our_name = peer_name = ""  # in messages
    is_server = False

    def __init__(self, tls, judge, tag):
        self.tls = tls
        self.outgoing = b""  # to be sent; whoever does takes it away
        self.peer_tag = 0
        self.finished = False  # frames may flow: TLS is set up, if wanted, and its key was judged
        self._judge = judge
        self._our_preamble = encode_preamble(tag=tag, flags=PreambleFlag.TLS if tls is not None else 0)
        self._preamble = b""
        self._parser = FrameParser()
        self._first = None   # the peer's HELLO or WELCOME, while its list is awaited
        self._behind = b""   # what came behind it

    @property
    def leftover(self):
        """Bytes for the session: what came behind the first frame."""
        return self._behind

    @property
    def met(self):
        """The peer has said something."""
        return bool(self._preamble)

    @property
    def proven(self):
        """The peer's first frame was right; only the rest of its list is missing."""
        return self._first is not None

    def channel(self):
        """32 bytes that only the two ends of this connection can know; zero without TLS."""
        if self.tls is None:
            return NO_CHANNEL
        preambles = (self._preamble + self._our_preamble if self.is_server else self._our_preamble + self._preamble)
        return self.tls.exporter(CHANNEL_LABEL, preambles, len(NO_CHANNEL))

    def fresh_secret(self, session_id):
        """The secret of a session that begins on this connection: with TLS both ends know it, and it is never sent."""
        return self.tls.exporter(SECRET_LABEL, session_id, _wire.SECRET_BYTES)

    def feed(self, data):
        """Take bytes of the peer; returns its first frame's Hello or Welcome once that (and its list) is whole."""
        missing = _wire.PREAMBLE_BYTES - len(self._preamble)
        if missing > 0:
            self._preamble += data[:missing]
            data = data[missing:]
            self._check_preamble()
            if len(self._preamble) < _wire.PREAMBLE_BYTES:
                return None
            self._met()
        if self.tls is not None:
            data = self._through_tls(data)
        if self._first is not None:
            self._behind += data
        else:
            for frame_type, _flags, _stream, seq, ack, payload, _offset in self._parser.feed(data, limit=1):
                self._first = self._read_first(frame_type, seq, ack, payload)
                self._behind = self._parser.unparsed
        return self._complete() if self._first is not None else None

    def _met(self):
        """The peer's preamble is right."""

    def _through_tls(self, data):
        data = self.tls.receive(data)
        if self.tls.finished and not self.finished:
            self._judge(self.tls.peer_spki())
            self.finished = True
            self._open()
        self.outgoing += self.tls.take_out()
        return data

    def _open(self):
        """Frames may flow from now on."""

    def _read_first(self, frame_type, seq, ack, payload):
        """The Hello or Welcome of the peer's first frame; PeerError when it is none."""
        raise NotImplementedError

    def _complete(self):
        """The first frame, when the list that it announces is whole and is the one it was proven for."""
        first = self._first
        if len(self._behind) < first.list_bytes:
            return None
        if first.list_bytes and not same(digest_of(self._behind[:first.list_bytes]), first.list_digest):
            raise PeerError(CloseCode.BAD_PROOF, "the list of streams does not match its proof")
        return first

    def _check_preamble(self):
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
        encrypts = bool(flags & PreambleFlag.TLS)
        if encrypts != (self.tls is not None):
            peer, us = ("encrypts", "does not") if encrypts else ("does not encrypt", "does")
            raise PeerError(CloseCode.ENCRYPTION, f"{self.peer_name} {peer}, {self.our_name} {us}: {USE_BOTH}")


def describe_bytes(data):
    """Say what a stranger's first bytes look like, without repeating more than a few of them."""
    if data[:1] in (b"\x15", b"\x16"):  # an alert, a handshake
        return "TLS"
    if data[:4] in (b"GET ", b"POST", b"HEAD", b"PUT ", b"HTTP", b"OPTI", b"CONN"):
        return "HTTP"
    if data[:4] == b"SSH-":
        return "SSH"
    return data[:4].hex(" ")


def judge_nobody(_spki):
    """Trust every key."""


class Greeter(_Opening):
    """sproxy's side of a new carrier.

    `meet(tag)` is called when the preamble is right, before anything costs more than a few bytes: what it raises comes
    through. `check(hello, channel)` is called when HELLO is whole, before the list behind it is kept: it raises
    PeerError unless a resume is proven.
    """

    our_name, peer_name, is_server = "sproxy", "cproxy", True

    def __init__(self, check, tls=None, judge=judge_nobody, meet=lambda tag: None):
        super().__init__(tls, judge, 0)
        self._check = check
        self._meet = meet
        self.prefix = self._our_preamble  # what goes before WELCOME or GOODBYE

    def _met(self):
        self._meet(self.peer_tag)
        if self.tls is not None:
            self.outgoing, self.prefix = self.prefix, b""

    def _read_first(self, frame_type, seq, ack, payload):
        if frame_type != FrameType.HELLO:
            raise PeerError(CloseCode.STATE_ERROR, "first frame is not HELLO")
        hello = Hello.decode(payload)
        if not hello.session_id:
            hello.list_bytes = 0
        self._check(hello, self.channel())
        return hello

    def farewell(self, error):
        """Bytes that tell the peer why it is turned away; what it cannot read yet is left out."""
        reason = str(error).encode(errors="replace")[:_wire.MAX_REASON_BYTES]
        frame = encode_frame(FrameType.GOODBYE, seq=int(error.code), ack=error.detail, payload=reason)
        if self.tls is None or self.prefix:
            return self.prefix + frame
        if self.tls.finished and not self.tls.broken:
            return self.outgoing + self.tls.seal(frame)
        return self.outgoing + self.tls.take_out()


class Caller(_Opening):
    """cproxy's side of a new carrier. `compose()` gives (Hello, RESUME list, secret) as late as they are needed."""

    our_name, peer_name = "cproxy", "sproxy"

    def __init__(self, compose, tls=None, judge=judge_nobody, tag=0):
        super().__init__(tls, judge, tag)
        self._compose = compose
        self._secret = b""
        self.hello = None
        self.list_bytes = 0   # of our list
        self.refused = False  # the peer is an sproxy, of the right key if keys are in use, and said GOODBYE
        self.detail = 0       # what that GOODBYE said besides: see PeerError
        self.outgoing = self._our_preamble
        if tls is None:
            self.finished = True
            self._open()
        else:
            tls.receive(b"")
            self.outgoing += tls.take_out()

    def _open(self):
        self.hello, resume_list, self._secret = self._compose()
        self.list_bytes = len(resume_list)
        if self.hello.session_id:
            self.hello.prove(self._secret, self.channel(), resume_list)
        words = self.hello.encode() + resume_list
        self.outgoing += words if self.tls is None else self.tls.seal(words)

    def _read_first(self, frame_type, seq, ack, payload):
        """The Welcome; PeerError when the peer is not one of ours or turns us away."""
        if frame_type == FrameType.GOODBYE:
            self.refused = True
            self.detail = ack
            code = CloseCode(seq) if seq in set(CloseCode) else CloseCode.ORDERLY
            raise PeerError(code, payload.decode(errors="replace") or code.name, ack)
        if frame_type != FrameType.WELCOME:
            raise PeerError(CloseCode.STATE_ERROR, "first frame is not WELCOME")
        welcome = Welcome.decode(payload)
        hello = self.hello
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
