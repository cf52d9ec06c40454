# Invariant: a message that a peer sends is refused with a PeerError, or is one that cannot ask for more memory, more
# files or other blocks than there may be; and a name that is taken leads nowhere but into the directory.
"""What senders and receivers of files say to each other, and the names of files."""

import contextlib
import os
import tempfile

from mproxy.ground.errors import PeerError
from mproxy.transfer._rolling import Sketch
from mproxy.transfer.bundle import FileGroup, entries_of, parse_bundle
from mproxy.transfer.coding import decode
from mproxy.transfer.destinations import IntoDirectory
from mproxy.transfer.file_names import BadName
from mproxy.transfer.messages import (
    BUNDLE,
    CODED,
    HEADER,
    MOST_CONTROL_BYTES,
    MOST_INDEX,
    MOST_RANGES,
    MOST_SIZE,
    MOST_SKETCH_BLOCKS,
    WITH_BULK,
    Coded,
    FileKind,
    MessageType,
    parse_header,
    parse_payload,
)
from mproxy.transfer.tree import LEAF_BYTES

PLACE = tempfile.mkdtemp(prefix="fuzz-")
INSIDE = os.path.join(PLACE, "in")
os.mkdir(INSIDE)
os.symlink(PLACE, os.path.join(INSIDE, "link"))
OLDER = os.open("/dev/zero", os.O_RDONLY)
DESTINATION = IntoDirectory(INSIDE, False)


def check_bundle(data):
    """What fills a bundle lies in it."""
    try:
        parts = parse_bundle(data[BUNDLE.size:], data[0] if data else 0)
    except PeerError:
        return
    for part in parts:
        entries = entries_of(data[BUNDLE.size:], part) if isinstance(part, FileGroup) else [part]
        assert all(entry.at + entry.file.size <= len(data) for entry in entries)


def check_coded(data):
    """It makes a block of the length that it says, or none."""
    coded = Coded(*CODED.unpack_from(data.ljust(CODED.size, b"\0")))
    with contextlib.suppress(PeerError):
        made = decode(coded._replace(length=min(coded.length, LEAF_BYTES)), data[CODED.size:], OLDER)
        assert made is None or len(made) == min(coded.length, LEAF_BYTES)


def check(data):
    """Called with every input."""
    if len(data) < HEADER.size:
        return
    try:
        kind, length = parse_header(data[:HEADER.size])
    except PeerError:
        return
    assert length <= (WITH_BULK[kind] + LEAF_BYTES if kind in WITH_BULK else MOST_CONTROL_BYTES)
    if kind == MessageType.BUNDLE:
        check_bundle(data[HEADER.size:])
    elif kind == MessageType.CODED:
        check_coded(data[HEADER.size:])
    if kind in WITH_BULK:
        return
    try:
        message = parse_payload(kind, data[HEADER.size:].ljust(length, b"\0")[:length])
    except PeerError:
        return
    if kind == MessageType.WANT:
        assert len(message.ranges) <= MOST_RANGES
        assert all(count > 0 and first + count <= 1 << 33 for first, count in message.ranges)
    elif kind == MessageType.SKETCH:
        assert message.count <= MOST_SKETCH_BLOCKS
        Sketch(message.block_bytes, message.key, message.sums).find(data, 0, len(data), 0)
    elif kind == MessageType.FILE:
        assert message.index <= MOST_INDEX
        assert message.kind == FileKind.PIPE or message.size <= MOST_SIZE
        open_file(message)


def open_file(file):
    """As a receiver does, which must not touch anything outside."""
    outside = set(os.listdir(PLACE))
    try:
        if file.kind == FileKind.DIRECTORY:
            DESTINATION.make(file)
            target = None
        elif file.kind == FileKind.LINK:
            DESTINATION.link(file)
            target = None
        else:
            target = DESTINATION.open(file)
    except (OSError, PeerError, ValueError, BadName) as error:
        assert not isinstance(error, UnicodeError), error
    else:
        if target is not None:
            target.discard()
            target.close()
    assert set(os.listdir(PLACE)) == outside
