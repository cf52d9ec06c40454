"""Messages in and out over a Link: what FileSender and FileReceiver have in common."""

from abc import ABC, abstractmethod

from mproxy.ground.errors import PeerError
from mproxy.transfer.messages import BLOCK, HEADER, Block, MessageType, parse_header, parse_payload
from mproxy.transport._packet import EndCode
from mproxy.transport.keying import DISAGREE
from mproxy.transport.observers import LinkHandler


class Conversation(LinkHandler, ABC):
    """A Link's handler that reads messages. `keying` answers handshakes, None where there are no keys.

    Subclasses have `on_open()`, `on_message(kind, message)`, `block_buffer(block, length)` (None: wait, and call
    `take_block` with a buffer later), `on_block(block, buffer)`, `on_over(code, reason, local)`.
    """

    def __init__(self, link, keying=None):
        self.link = link
        self.over = False
        self.open = False  # the peer has shown that it is there, with the keys
        self._keying = keying
        self._refusal = ""  # why we do not trust the peer's key, which is not for the peer to know
        self._header = bytearray(HEADER.size)
        self._next = self._start  # what the buffer being filled is
        self._kind = MessageType.HELLO  # of the message in hand
        self._length = 0  # of its payload
        self._buffer = bytearray()  # what is being filled
        self._block = Block(0, 0, b"")  # whose data is being received
        link.handler = self

    # ---- of Link

    def on_handshake(self, _link, data):
        """A message of the handshake for keys."""
        try:
            self._keying.take(self.link, data)
        except PeerError as error:
            self._refusal = str(error)
            self.give_up(EndCode.HANDSHAKE_FAILED, DISAGREE)

    def on_established(self, link):
        """The connection is established; `on_open` follows, unless the peer's key was refused."""
        if self._refusal:
            return  # with keys, but we do not trust it
        self.open = True
        self._next = self._take_header
        link.fill(self._header)
        self.on_open()

    def on_filled(self, _link):
        """Another part of a message."""
        try:
            self._next()
        except PeerError as error:
            self.give_up(EndCode.BAD_PACKET, str(error))

    def on_ended(self, _link, code, reason, local):
        """The connection has ended."""
        if not self.over:
            self.over = True
            self.on_over(code, self._refusal or reason, local)

    # ---- of subclasses

    @abstractmethod
    def on_open(self):
        """The connection is open."""

    @abstractmethod
    def on_message(self, kind, message):
        """A message other than BLOCK."""

    @abstractmethod
    def block_buffer(self, block, length):
        """Where a block's data goes."""

    @abstractmethod
    def on_block(self, block, data):
        """A block, its data in the buffer."""

    @abstractmethod
    def on_over(self, code, reason, local):
        """The connection has ended; nothing more will come."""

    # ---- for subclasses

    def give_up(self, code, reason):
        """End the connection and say why."""
        if not self.over:
            self.link.abort(int(code), reason.encode("utf-8", "backslashreplace"))

    def take_block(self, buffer):
        """A buffer for the block that `block_buffer` had none for."""
        self._buffer = buffer
        self._next = self._end_block
        if self._length > BLOCK.size:
            self.link.fill(memoryview(buffer)[:self._length - BLOCK.size])
        else:
            self._end_block()

    @property
    def block_length(self):
        """Bytes of the block whose header has come."""
        return self._length - BLOCK.size

    @property
    def begun_bytes(self):
        """Of the block that is being received."""
        return self.link.filled if self._next == self._end_block else 0

    # ---- parts of a message

    def _start(self):
        raise AssertionError("nothing is read before the connection is established")

    def _take_header(self):
        self._kind, self._length = parse_header(self._header)
        wanted = BLOCK.size if self._kind == MessageType.BLOCK else self._length
        if wanted == 0:
            self._message(self._kind, None)
            return
        self._buffer = bytearray(wanted)
        self._next = self._take_block_header if self._kind == MessageType.BLOCK else self._take_payload
        self.link.fill(self._buffer)

    def _take_payload(self):
        self._message(self._kind, parse_payload(self._kind, self._buffer))

    def _message(self, kind, message):
        self._next = self._take_header
        self.link.fill(self._header)
        self.on_message(kind, message)

    def _take_block_header(self):
        self._block = Block(*BLOCK.unpack(self._buffer))
        buffer = self.block_buffer(self._block, self._length - BLOCK.size)
        if buffer is not None:
            self.take_block(buffer)

    def _end_block(self):
        block, buffer, length = self._block, self._buffer, self._length - BLOCK.size
        self._buffer = bytearray()
        self._next = self._take_header
        self.link.fill(self._header)
        self.on_block(block, memoryview(buffer)[:length])
