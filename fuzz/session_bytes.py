# Invariant: whatever bytes arrive, at either side, the session neither fails nor holds more than its limits allow, its
# accounts agree with its streams, nothing happens after its end; and how the bytes are cut changes nothing of what the
# applications are told.
"""A whole session fed with bytes."""

from fuzz.sessions import Watched
from mproxy._frames import encode_frame
from mproxy._session import EventKind
from mproxy._wire import FrameFlag, FrameType

END = encode_frame(FrameType.RESUME, flags=FrameFlag.END)


def story(watched):
    """What happened, without how the bytes were cut."""
    streams, others = {}, []
    for event in watched.told:
        if event[0] == EventKind.DATA:
            streams[event[1]] = streams.get(event[1], b"")
        else:
            others.append(event)
    return others, sorted(streams)


def check(data):
    """Called with every input; its first bits choose the side, and whether the list is complete."""
    if not data:
        return
    is_server = bool(data[0] & 1)
    whole, single = Watched(is_server), Watched(is_server)
    for watched in (whole, single):
        if data[0] & 2:
            watched.receive(END)
        watched.send()
    whole.receive(data[1:])
    for position in range(1, len(data)):
        single.receive(data[position:position + 1])
    whole.check()
    single.check()
    assert story(whole) == story(single)
    assert whole.session.streams.in_bytes == single.session.streams.in_bytes
    whole.applications_move()
    whole.now += 10_000_000
    whole.session.handle_timeout(whole.now)
    whole.check()
    whole.send()
