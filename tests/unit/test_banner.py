"""What a command prints before the preamble: skipped wherever it is cut, shown in one line, and bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy.ground.errors import PeerError
from mproxy.handshake import encode_preamble
from mproxy.policy.banner import MAGIC, MOST_BYTES, SHOWN_BYTES, Banner

WORDS = encode_preamble() + b"what follows, with a preamble of its own: " + MAGIC


def fed(banner, data, cuts):
    """What comes out of `data`, fed in pieces."""
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return b"".join(banner.feed(data[start:end]) for start, end in zip([0, *ends], ends, strict=False))


# Bytes that nearly are the preamble come often.
TEXT = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([MAGIC[:1], MAGIC[:2], MAGIC[:3], b"\r\n"])),
                max_size=8).map(b"".join).filter(lambda text: MAGIC not in text + MAGIC[:3])


@given(TEXT, st.lists(st.integers(0, 300), max_size=10))
def test_a_banner_is_skipped_wherever_it_is_cut(text, cuts):
    banner = Banner()
    data = text + WORDS
    at = data.find(MAGIC)
    assert fed(banner, data, cuts) == data[at:]
    assert banner.found and banner.length == at


def test_without_a_banner_nothing_is_kept():
    banner = Banner()
    assert banner.feed(WORDS[:2]) == b""
    assert banner.feed(WORDS[2:]) == WORDS
    assert (banner.length, banner.text()) == (0, "")


def test_a_banner_is_shown_in_one_line():
    banner = Banner()
    assert banner.feed(b"\r\n* Welcome *\r\n\r\n\x1b[1mnews\x07\n" + b"x" * 1000 + WORDS) == WORDS
    assert banner.text().startswith("* Welcome * \\x1b[1mnews\\x07 xxx")
    assert len(banner.text()) <= SHOWN_BYTES + 10


@given(st.integers(1, 70_000))
def test_what_never_speaks_is_given_up(piece):
    """Goal: 64 KiB pass, one byte more is refused, and no more than a few bytes are kept of them."""
    banner = Banner()
    sent = 0
    while sent < MOST_BYTES:
        size = min(piece, MOST_BYTES - sent)
        assert banner.feed(b"y" * size) == b""
        sent += size
    assert banner.feed(MAGIC[:2]) == b""
    with pytest.raises(PeerError, match="more than 64 KiB, and nothing that an sproxy says; it began with: yyy"):
        banner.feed(b"y")
