"""What the two sides say about places where sproxy listens for a cproxy, LISTEN and LISTENING, and about targets of
datagrams, ASSOCIATE and ASSOCIATED (docs/protocol.md).

cproxy repeats all that it asks for on every carrier, and sproxy answers each time. So a frame that is lost with its
carrier needs no memory.
"""

from mproxy._frames cimport Frame, encode_header
from mproxy._session cimport Session
from mproxy._wire cimport HEADER_BYTES, FrameFlag, FrameType
from mproxy.ground.errors import LocalError


def ask_listen(Session session not None, int number, bytes place not None):
    """cproxy, on an active carrier: ask sproxy to listen at `place`, whose number from 1 on is ours to choose."""
    say(session, FrameType.LISTEN, 0, number, 0, place)


def end_asking(Session session not None):
    """cproxy: that was all; what sproxy had from before is over."""
    say(session, FrameType.LISTEN, FrameFlag.END, 0, 0, b"")


def answer_listen(Session session not None, int number, bint listens, bytes text not None):
    """sproxy: whether it listens; `text`: where, or why not."""
    say(session, FrameType.LISTENING, 0, number, listens, text)


def ask_associate(Session session not None, int number, bytes target not None):
    """cproxy, on an active carrier: ask sproxy to send datagrams with that number, from 1 on, to `target`."""
    say(session, FrameType.ASSOCIATE, 0, number, 0, target)


def end_associating(Session session not None):
    """cproxy: that was all; sproxy is to send no others."""
    say(session, FrameType.ASSOCIATE, FrameFlag.END, 0, 0, b"")


def answer_associate(Session session not None, int number, bint goes, bytes text not None):
    """sproxy: whether they are sent; `text`: where to, or why not."""
    say(session, FrameType.ASSOCIATED, 0, number, goes, text)


cdef say(Session session, int type, int flags, int number, bint listens, bytes text):
    cdef Frame frame
    cdef unsigned char header[HEADER_BYTES]
    if not session.streams.active:
        raise LocalError("there is no carrier for that")
    frame.type = <unsigned char>type
    frame.flags = <unsigned char>flags
    frame.stream = 0
    frame.length = <unsigned int>len(text)
    frame.seq = number
    frame.ack = listens
    encode_header(header, &frame)
    if session.transmitter.add_control(header, HEADER_BYTES) < 0 or (
            session.transmitter.add_control(<const unsigned char *><const char *>text, len(text)) < 0):
        raise MemoryError
