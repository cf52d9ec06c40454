"""Messages that are no more than their fields (mproxy.transfer.messages)."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Answers(namedtuple("Answers", "codes")):
    """An ANSWER message: a BundleAnswer for each entry of the oldest bundle that has none yet."""

    __slots__ = ()
    codes: bytes

    if TYPE_CHECKING:
        def __new__(cls, codes: bytes) -> Self: ...


class Holes(namedtuple("Holes", "index first count")):
    """A HOLES message."""

    __slots__ = ()
    index: int
    first: int
    count: int

    if TYPE_CHECKING:
        def __new__(cls, index: int, first: int, count: int) -> Self: ...


class End(namedtuple("End", "index size root")):
    """An END message."""

    __slots__ = ()
    index: int
    size: int
    root: bytes

    if TYPE_CHECKING:
        def __new__(cls, index: int, size: int, root: bytes) -> Self: ...


class LeftOut(namedtuple("LeftOut", "name why")):
    """A LEFT_OUT message: something that the sender was to send, and does not. No name: there is more of it."""

    __slots__ = ()
    name: bytes
    why: str

    if TYPE_CHECKING:
        def __new__(cls, name: bytes, why: str) -> Self: ...


class Total(namedtuple("Total", "size")):
    """A TOTAL message: the bytes of all files together, those that are there already included."""

    __slots__ = ()
    size: int

    if TYPE_CHECKING:
        def __new__(cls, size: int) -> Self: ...


class Block(namedtuple("Block", "index number digest")):
    """What a BLOCK message says of its data."""

    __slots__ = ()
    index: int
    number: int
    digest: bytes

    if TYPE_CHECKING:
        def __new__(cls, index: int, number: int, digest: bytes) -> Self: ...


class Bundle(namedtuple("Bundle", "count length", defaults=(0,))):
    """What a BUNDLE or a PACKED_BUNDLE says of its data; `length`: their bytes before they were compressed, 0 if they
    are not."""

    __slots__ = ()
    count: int
    length: int

    if TYPE_CHECKING:
        def __new__(cls, count: int, length: int = 0) -> Self: ...
