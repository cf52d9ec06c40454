"""How a carrier begins: preamble, HELLO, WELCOME. Sans-I/O; runs once a carrier, so plain Python.

Client (`Caller`)                                Server (`Greeter`)
1. `opening` -> preamble, HELLO, RESUME list
                                                 2. `feed` -> Hello, when whole; the program decides
                                                 3. `welcome` or `farewell` -> preamble, WELCOME or GOODBYE
4. `feed` -> Welcome, or PeerError

What follows on the carrier belongs to the session; bytes that came too early are in `leftover`.
"""

import struct

from mproxy import _wire
from mproxy._frames import FrameParser, encode_frame
from mproxy._wire import CloseCode, FrameType
from mproxy.errors import PeerError

PREAMBLE = struct.Struct(">IBBHQ")  # magic, version, flags, reserved, routing tag
HELLO = struct.Struct(">16s16s32s16sQQII")
WELCOME = struct.Struct(">16s32sQQIIQ")
MAGIC = _wire.MAGIC & 0xFFFFFFFF  # a C enum's number reaches Python as a signed int
NO_SESSION = bytes(_wire.SESSION_ID_BYTES)
MIN_BUDGET_BYTES = _wire.MIN_WINDOW_BYTES


class Hello:
    """What cproxy asks for. `session_id` is empty for a new session; limits in bytes."""

    def __init__(self, session_id, instance_id, proof, nonce, epoch, budget_bytes, window_bytes, features=0):
        self.session_id = session_id
        self.instance_id = instance_id
        self.proof = proof
        self.nonce = nonce
        self.epoch = epoch
        self.budget_bytes = budget_bytes
        self.window_bytes = window_bytes
        self.features = features

    def encode(self):
        """Return the HELLO frame."""
        return encode_frame(FrameType.HELLO, payload=HELLO.pack(
            self.session_id or NO_SESSION, self.instance_id, self.proof, self.nonce, self.epoch,
            self.budget_bytes, self.window_bytes, self.features))

    @classmethod
    def decode(cls, payload):
        """Parse a HELLO payload of the right length; PeerError for limits nobody can work with."""
        session_id, instance_id, proof, nonce, epoch, budget, window, features = HELLO.unpack(payload)
        check_limits(window, budget)
        if not 0 < epoch < 1 << 63:
            raise PeerError(CloseCode.STALE_EPOCH, f"epoch {epoch} is out of range")
        session_id = b"" if session_id == NO_SESSION else session_id
        return cls(session_id, instance_id, proof, nonce, epoch, budget, window, features)

    def proves(self, secret):
        """Whether the sender holds the session's secret."""
        import hmac
        return hmac.compare_digest(self.proof, make_proof(secret, self))


class Welcome:
    """What sproxy grants. `secret` is all zero on a resume."""

    def __init__(self, session_id, secret, epoch, budget_bytes, window_bytes, features=0, routing_tag=0):
        self.session_id = session_id
        self.secret = secret
        self.epoch = epoch
        self.budget_bytes = budget_bytes
        self.window_bytes = window_bytes
        self.features = features
        self.routing_tag = routing_tag

    def encode(self):
        """Return the WELCOME frame."""
        return encode_frame(FrameType.WELCOME, payload=WELCOME.pack(
            self.session_id, self.secret, self.epoch, self.budget_bytes, self.window_bytes, self.features,
            self.routing_tag))

    @classmethod
    def decode(cls, payload):
        """Parse a WELCOME payload of the right length."""
        session_id, secret, epoch, budget, window, features, tag = WELCOME.unpack(payload)
        check_limits(window, budget)
        return cls(session_id, secret, epoch, budget, window, features, tag)


def check_limits(window_bytes, budget_bytes):
    """PeerError when the peer offers limits outside of what the protocol allows."""
    if not _wire.MIN_WINDOW_BYTES <= window_bytes <= _wire.MAX_WINDOW_BYTES:
        raise PeerError(CloseCode.LIMIT_ERROR, f"peer offers a stream window of {window_bytes} bytes")
    if budget_bytes < MIN_BUDGET_BYTES:
        raise PeerError(CloseCode.LIMIT_ERROR, f"peer offers a session budget of {budget_bytes} bytes")


def make_proof(secret, hello):
    """HMAC-SHA256 over what a resume claims. The epoch only goes up, so a recorded proof is worth nothing later."""
    import hmac  # costs 5 ms to import; only a resume needs it
    claim = hello.session_id + hello.instance_id + hello.nonce + struct.pack(">Q", hello.epoch)
    return hmac.digest(secret, b"mproxy resume\0" + claim, "sha256")


def encode_preamble(version=_wire.VERSION, tag=0):
    """Return the 16 bytes that open a carrier in either direction."""
    return PREAMBLE.pack(MAGIC, version, 0, 0, tag)


class _Opening:
    """Collects a peer's preamble and first frame, never more than they may be long."""

    def __init__(self):
        self._preamble = b""
        self._parser = FrameParser()
        self.peer_tag = 0

    @property
    def leftover(self):
        """Bytes that came behind the first frame; they are the session's."""
        return self._parser.unparsed

    def feed(self, data):
        """Return (type, seq, ack, payload) of the first frame, or None while it is not whole."""
        missing = _wire.PREAMBLE_BYTES - len(self._preamble)
        if missing > 0:
            self._preamble += data[:missing]
            data = data[missing:]
            self._check_preamble()
            if len(self._preamble) < _wire.PREAMBLE_BYTES:
                return None
        for frame_type, _flags, _stream, seq, ack, payload, _offset in self._parser.feed(data, limit=1):
            return frame_type, seq, ack, payload
        return None

    def _check_preamble(self):
        got = self._preamble
        magic = PREAMBLE.pack(MAGIC, 0, 0, 0, 0)[:4]
        if not magic.startswith(got[:4]):
            raise PeerError(CloseCode.VERSION_ERROR, f"not an mproxy peer: it sent {describe_bytes(got)}")
        if len(got) < _wire.PREAMBLE_BYTES:
            return
        _magic, version, _flags, _reserved, self.peer_tag = PREAMBLE.unpack(got)
        if version != _wire.VERSION:
            raise PeerError(
                CloseCode.VERSION_ERROR,
                f"peer speaks protocol version {version}, this program version {_wire.VERSION}")


def describe_bytes(data):
    """Say what a stranger's first bytes look like, without repeating more than a few of them."""
    if data[:1] == b"\x16":
        return "TLS"
    if data[:4] in (b"GET ", b"POST", b"HEAD", b"PUT ", b"HTTP", b"OPTI", b"CONN"):
        return "HTTP"
    if data[:4] == b"SSH-":
        return "SSH"
    return data[:4].hex(" ")


class Greeter(_Opening):
    """sproxy's side of a new carrier."""

    def feed(self, data):
        """Return the Hello once it is whole, else None. PeerError when the peer is not one of ours."""
        frame = super().feed(data)
        if frame is None:
            return None
        frame_type, _seq, _ack, payload = frame
        if frame_type != FrameType.HELLO:
            raise PeerError(CloseCode.STATE_ERROR, "first frame is not HELLO")
        return Hello.decode(payload)

    @staticmethod
    def farewell(error):
        """Bytes that tell the peer why it is turned away."""
        reason = str(error).encode(errors="replace")[:_wire.MAX_REASON_BYTES]
        return encode_preamble() + encode_frame(FrameType.GOODBYE, seq=int(error.code), ack=error.epoch, payload=reason)


class Caller(_Opening):
    """cproxy's side of a new carrier; `hello` is sent as it stands, `resume_list` behind it.

    `opening` is what still has to be sent: WELCOME can come before the end of a long list has left.
    """

    def __init__(self, hello, resume_list, tag=0):
        super().__init__()
        self.opening = encode_preamble(tag=tag) + hello.encode() + resume_list
        self.hello = hello
        self.refused = False  # the peer is an sproxy and said GOODBYE
        self.stale_epoch = 0

    def feed(self, data):
        """Return the Welcome once it is whole, else None.

        PeerError when the peer is not one of ours or turns us away; with STALE_EPOCH its epoch is in `stale_epoch`.
        """
        frame = super().feed(data)
        if frame is None:
            return None
        frame_type, seq, ack, payload = frame
        if frame_type == FrameType.GOODBYE:
            code = CloseCode(seq) if seq in set(CloseCode) else CloseCode.ORDERLY
            self.refused = True
            self.stale_epoch = ack
            raise PeerError(code, payload.decode(errors="replace") or code.name)
        if frame_type != FrameType.WELCOME:
            raise PeerError(CloseCode.STATE_ERROR, "first frame is not WELCOME")
        welcome = Welcome.decode(payload)
        if welcome.epoch != self.hello.epoch or self.hello.session_id not in (b"", welcome.session_id):
            raise PeerError(CloseCode.STATE_ERROR, "WELCOME for another session or carrier")
        return welcome
