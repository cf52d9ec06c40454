# Invariant: the same as for bytes, for any sequence of well-formed frames, losses of the carrier, resumes, slow
# applications and time between them.
"""A whole session fed with frames that are right in themselves."""

import struct

import atheris

from fuzz.sessions import SESSION_ID, Watched
from mproxy._frames import encode_frame
from mproxy._wire import FrameFlag, FrameType

KINDS = [FrameType.RESUME, FrameType.HEARTBEAT, FrameType.OPEN, FrameType.DATA, FrameType.ACK, FrameType.RESET]
FLAGS = {
    FrameType.RESUME: [0, FrameFlag.DONE, FrameFlag.DONE | FrameFlag.ABORTED],
    FrameType.HEARTBEAT: [0, FrameFlag.REPLY],
    FrameType.DATA: [0, FrameFlag.FIN, FrameFlag.WANT_ACK, FrameFlag.FIN | FrameFlag.WANT_ACK],
    FrameType.ACK: [0, FrameFlag.WANT_ACK],
}


def next_frame(source):
    """One frame; its numbers are small, so that they often mean something."""
    kind = source.PickValueInList(KINDS)
    flags = source.PickValueInList(FLAGS.get(kind, [0]))
    stream = source.ConsumeIntInRange(1, 6)
    seq, ack = source.ConsumeIntInRange(0, 6000), source.ConsumeIntInRange(0, 6000)
    if kind == FrameType.HEARTBEAT:
        return encode_frame(kind, flags=flags, seq=seq, ack=ack, payload=SESSION_ID)
    payload = b""
    if kind == FrameType.DATA:
        payload = bytes(source.ConsumeIntInRange(0 if flags & FrameFlag.FIN else 1, 3000))
    return encode_frame(kind, flags=flags, stream=stream, seq=seq, ack=ack, payload=payload)


def check(data):
    """Called with every input."""
    source = atheris.FuzzedDataProvider(data)
    watched = Watched(source.ConsumeBool())
    watched.receive(encode_frame(FrameType.RESUME, flags=FrameFlag.END, seq=source.ConsumeIntInRange(0, 5)))
    while source.remaining_bytes() > 0 and not watched.closed:
        action = source.ConsumeIntInRange(0, 15)
        if action == 0:
            watched.session.carrier_lost()
            watched.attach()
            watched.receive(encode_frame(FrameType.RESUME, stream=1, seq=source.ConsumeIntInRange(0, 6000)))
            watched.receive(encode_frame(FrameType.RESUME, flags=FrameFlag.END, seq=source.ConsumeIntInRange(0, 5)))
        elif action == 1:
            watched.applications_move()
        elif action == 2:
            watched.now += source.ConsumeIntInRange(0, 4_000_000)
            watched.session.handle_timeout(watched.now)
        elif action == 3:
            watched.receive(struct.pack(">BBHIIQQ", 10, FrameFlag.IGNORABLE, 0, 1, 3, 0, 0) + b"new")
        else:
            watched.receive(next_frame(source))
        watched.check()
        if action % 2:
            watched.send()
