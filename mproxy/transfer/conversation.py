"""Messages in and out over a Link: what FileSender and FileReceiver have in common."""

from __future__ import annotations

from mproxy.ground.errors import PeerError
from mproxy.transfer.messages import (
    BLOCK,
    BUNDLE,
    CODED,
    HEADER,
    PACKED_BUNDLE,
    WITH_BULK,
    Block,
    Bundle,
    Coded,
    MessageType,
    parse_header,
    parse_payload,
)
from mproxy.transport._packet import EndCode
from mproxy.transport.keying import DISAGREE
from mproxy.transport.observers import LinkHandler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mproxy.transfer.messages import Message
    Bulk = Block | Bundle | Coded  # what is said of the data that follow
    from mproxy.transport._link import Link
    from mproxy.transport.keying import KeyExchange

# Messages about small files are some hundred bytes each, so whatever has arrived is read in one go. No more than this
# of a large block is copied an extra time.
READ_AHEAD_BYTES = 16384


class Conversation(LinkHandler):
    """A Link's handler that reads messages. `keying` answers handshakes; None where there are no keys."""

    def __init__(self, link: Link, keying: KeyExchange | None = None) -> None:
        self.link = link
        self.over = False
        self.open = False  # the peer has shown that it is there and has the keys
        self._keying = keying
        self._refusal = ""  # why we do not trust the peer's key: it is not told
        self._ahead = memoryview(b"")  # what has arrived, from the beginning of a message
        self._at = self._end = 0  # which of these bytes are still to be read
        self._block: Bulk = Block(0, 0, b"")  # the last block or bundle
        self._length = 0  # of its data
        self._data: memoryview | None = None  # where that goes, while the last `_missing` bytes are still to come
        self._missing = 0
        self._gave_up = False
        link.handler = self

    # ---- of Link

    def on_handshake(self, _link: Link, data: bytes) -> None:
        assert self._keying is not None  # handshakes are for connections with keys
        try:
            self._keying.take(self.link, data)
        except PeerError as error:
            self._refusal = str(error)
            self.give_up(EndCode.HANDSHAKE_FAILED, DISAGREE)

    def on_established(self, link: Link) -> None:
        """The connection is established; `on_open` follows, unless the peer's key was refused."""
        if self._refusal:
            return  # it has keys, but we do not trust them
        self.open = True
        self._ahead = memoryview(bytearray(READ_AHEAD_BYTES))
        self._at_hand(HEADER.size)
        self.on_open()

    def on_filled(self, link: Link) -> None:
        data, self._data = self._data, None
        try:
            if data is None:
                self._end += link.filled
            else:
                self.on_block(self._block, data)
            self._take_messages()
        except PeerError as error:
            self.give_up(EndCode.BAD_PACKET, str(error))

    def on_ended(self, _link: Link, code: int, reason: str, local: bool) -> None:
        if not self.over:
            self.over = True
            self.on_over(code, self._refusal or reason, local)

    # ---- of subclasses

    def on_open(self) -> None:
        """The peer is there, with the keys."""

    def on_message(self, kind: MessageType, message: Message) -> None:
        """A message without bulk."""
        raise NotImplementedError

    def block_buffer(self, block: Bulk, length: int) -> bytearray | None:
        """Where the data of a block, coded or not, or of a bundle goes. None: wait; `take_block` will be called with a
        buffer."""
        raise NotImplementedError

    def on_block(self, block: Bulk, data: memoryview) -> None:
        """A block or a bundle, its data in the buffer."""
        raise NotImplementedError

    def on_over(self, code: int, reason: str, local: bool) -> None:
        """The connection has ended; nothing more will come."""
        raise NotImplementedError

    # ---- for subclasses

    def give_up(self, code: int, reason: str) -> None:
        """End the connection and say why; nothing more is read."""
        self._gave_up = True
        if not self.over:
            self.link.abort(int(code), reason.encode("utf-8", "backslashreplace"))

    def take_block(self, buffer: bytearray) -> None:
        """Here is a buffer for the block for which `block_buffer` had none."""
        try:
            if self._receive(buffer):
                self._take_messages()
        except PeerError as error:
            self.give_up(EndCode.BAD_PACKET, str(error))

    @property
    def block_length(self) -> int:
        """Bytes of data of the block whose header has arrived."""
        return self._length

    @property
    def begun_bytes(self) -> int:
        """Bytes that have arrived of the block that is being received."""
        return 0 if self._data is None else len(self._data) - self._missing + self.link.filled

    # ---- messages

    def _take_messages(self) -> None:
        """Take what has arrived, and have the link call when there is more."""
        while not self._gave_up and self._take_message():
            pass

    def _take_message(self) -> bool:
        """Whether the next message was taken; else it is waited for."""
        if not self._at_hand(HEADER.size):
            return False
        kind, length = parse_header(self._ahead, self._at)
        own_length = WITH_BULK.get(kind, length)
        if not self._at_hand(HEADER.size + own_length):
            return False
        begin = self._at + HEADER.size
        if kind in WITH_BULK:
            self._at = begin + own_length
            self._length = length - own_length
            if kind is MessageType.BLOCK:
                self._block = Block(*BLOCK.unpack_from(self._ahead, begin))
            elif kind is MessageType.CODED:
                self._block = Coded(*CODED.unpack_from(self._ahead, begin))
            elif kind is MessageType.BUNDLE:
                self._block = Bundle(*BUNDLE.unpack_from(self._ahead, begin))
            else:
                self._block = Bundle(*PACKED_BUNDLE.unpack_from(self._ahead, begin))
            buffer = self.block_buffer(self._block, self._length)
            return buffer is not None and self._receive(buffer)
        self._at = begin + length
        self.on_message(kind, parse_payload(kind, self._ahead[begin:self._at]))
        return True

    def _at_hand(self, count: int) -> bool:
        """Whether `count` unread bytes have arrived; else they are waited for."""
        rest = self._end - self._at
        if rest >= count:
            return True
        ahead = self._ahead if count <= len(self._ahead) else memoryview(bytearray(count))
        ahead[:rest] = self._ahead[self._at:self._end]
        self._ahead, self._at, self._end = ahead, 0, rest
        self.link.fill(ahead[rest:], count - rest)
        return False

    def _receive(self, buffer: bytearray) -> bool:
        """Put the block's data into `buffer`; returns whether all of it has arrived."""
        data = memoryview(buffer)[:self._length]
        there = min(self._length, self._end - self._at)
        data[:there] = self._ahead[self._at:self._at + there]
        self._at += there
        self._missing = self._length - there
        if self._missing:
            self._data = data
            self.link.fill(data[there:])
            return False
        self.on_block(self._block, data)
        return True
