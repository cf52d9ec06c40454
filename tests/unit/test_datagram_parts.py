"""The parts of the datagram engine one by one: codec, checksum, ranges, round trip, packet size, cookies' hash."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.drivers._datagram import (
    MtuSearch,
    Ranges,
    RttEstimator,
    pack_header,
    pack_varint,
    sip,
    unpack_header,
    unpack_varint,
)

from mproxy.transport._packet import checksum

# ---- packets


@pytest.mark.parametrize(("data", "expected"), [
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C), (b"123456789", 0xE3069283), (b"", 0)])
def test_crc32c_has_the_values_of_rfc_3720(data, expected):
    """Appendix B.4, and the check value of the polynomial."""
    assert checksum(data) == expected
    assert checksum(data, by_table=True) == expected


@given(st.binary(max_size=9000), st.integers(0, 9000))
def test_crc32c_by_instruction_is_that_by_table_and_can_be_continued(data, cut):
    assert checksum(data) == checksum(data, by_table=True)
    assert checksum(data[cut:], checksum(data[:cut])) == checksum(data)


@pytest.mark.parametrize("length", [383, 384, 385, 1472, 3071, 3072, 3073, 65507])
def test_crc32c_of_long_blocks(length):
    data = bytes(i * i & 0xFF for i in range(length))
    assert checksum(data) == checksum(data, by_table=True)


def test_header_has_the_layout_of_the_page():
    header = pack_header(5, 3, 0x0102, 0x1112131415161718, 0x2122232425262728, 0x3132333435363738)
    assert header.hex() == "0503" + "0102" + "1112131415161718" + "2122232425262728" + "3132333435363738"
    assert unpack_header(header + bytes(4)) == (
        5, 3, 0x0102, 0x1112131415161718, 0x2122232425262728, 0x3132333435363738)


@pytest.mark.parametrize("packet", [b"", bytes(31), bytes(32), b"\x07" + bytes(40), b"\x05" + bytes(30)])
def test_what_is_no_packet(packet):
    with pytest.raises(ValueError, match="not a packet"):
        unpack_header(packet)


@given(st.integers(0, 2**63 - 1))
def test_varints_come_back(value):
    packed = pack_varint(value)
    assert unpack_varint(packed + b"\x00") == (value, len(packed))
    assert unpack_varint(packed[:-1]) == (unpack_varint(packed[:-1])[0], 0)


def test_endless_varint_is_refused():
    assert unpack_varint(b"\x80" * 20)[1] == 0


def test_siphash_has_the_vectors_of_its_paper():
    key = bytes(range(16))
    assert sip(key, bytes(range(15))) == 0xA129CA6149BE45E5
    assert sip(key, b"") == 0x726FDB47DD0E0E31


def siphash(key, data, rounds, last_rounds):
    """As the paper has it, section 2, word by word."""
    def turn(count):
        nonlocal a, b, c, d
        for _ in range(count):
            a, c = (a + b) % 2**64, (c + d) % 2**64
            b, d = rotated(b, 13) ^ a, rotated(d, 16) ^ c
            a = rotated(a, 32)
            c, a = (c + b) % 2**64, (a + d) % 2**64
            b, d = rotated(b, 17) ^ c, rotated(d, 21) ^ a
            c = rotated(c, 32)
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) % 256])
    low, high = struct.unpack("<QQ", key)
    a, b, c, d = (half ^ constant for half, constant in zip(
        (low, high, low, high), struct.unpack(">QQQQ", b"somepseudorandomlygeneratedbytes"), strict=True))
    for (word,) in struct.iter_unpack("<Q", padded):
        d ^= word
        turn(rounds)
        a ^= word
    c ^= 0xFF
    turn(last_rounds)
    return a ^ b ^ c ^ d


def rotated(value, bits):
    return (value << bits | value >> 64 - bits) % 2**64


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=600))
def test_siphash_is_that_of_the_paper(key, data):
    assert sip(key, data) == siphash(key, data, 2, 4)
    assert sip(key, data, short=True) == siphash(key, data, 1, 3)


# ---- ranges

class RangesMachine(RuleBasedStateMachine):
    """Compares any sequence of operations with a plain set."""

    def __init__(self):
        super().__init__()
        self.ranges = Ranges()
        self.model = set()

    @rule(start=st.integers(0, 120), length=st.integers(0, 20))
    def add(self, start, length):
        self.ranges.add(start, start + length)
        self.model |= set(range(start, start + length))

    @rule(start=st.integers(0, 120), length=st.integers(0, 40))
    def remove(self, start, length):
        self.ranges.remove(start, start + length)
        self.model -= set(range(start, start + length))

    @rule(number=st.integers(0, 130))
    def drop_below(self, number):
        self.ranges.drop_below(number)
        self.model = {i for i in self.model if i >= number}

    @rule()
    def drop_lowest(self):
        lowest = next(iter(self.ranges), (0, 0))
        self.ranges.drop_lowest()
        self.model -= set(range(*lowest))

    @rule(start=st.integers(0, 120), length=st.integers(1, 20))
    def overlaps(self, start, length):
        assert self.ranges.overlaps(start, start + length) == any(i in self.model for i in range(start, start + length))

    @invariant()
    def is_the_set_and_minimal(self):
        found = list(self.ranges)
        assert {i for start, end in found for i in range(start, end)} == self.model
        assert all(start < end for start, end in found)
        assert all(one[1] < other[0] for one, other in itertools.pairwise(found))
        assert len(self.ranges) == len(found)


TestRanges = RangesMachine.TestCase


def test_ranges_of_large_numbers():
    ranges = Ranges()
    ranges.add(2**64 - 10, 2**64 - 1)
    assert 2**64 - 2 in ranges and 2**64 - 1 not in ranges


# ---- round trip: RFC 6298 section 2, step by step

def test_first_measurement():
    """(2.2): SRTT = R, RTTVAR = R/2, RTO = SRTT + max(G, 4 * RTTVAR)."""
    rtt = RttEstimator()
    assert rtt.timeout() == 1_000_000  # (2.1)
    rtt.sample(100_000)
    assert (rtt.smoothed, rtt.variation) == (100_000, 50_000)
    assert rtt.timeout() == 300_000


def test_following_measurements():
    """(2.3): RTTVAR = 3/4 RTTVAR + 1/4 |SRTT - R'|, then SRTT = 7/8 SRTT + 1/8 R'."""
    rtt = RttEstimator()
    rtt.sample(100_000)
    rtt.sample(200_000)
    assert (rtt.smoothed, rtt.variation) == (112_500, 62_500)
    assert rtt.timeout() == 112_500 + 4 * 62_500
    rtt.sample(112_500)
    assert (rtt.smoothed, rtt.variation) == (112_500, 46_875)


def test_steady_path_times_out_a_granule_above_the_round_trip():
    rtt = RttEstimator()
    for _ in range(100):
        rtt.sample(50_000)
    assert rtt.timeout() in range(50_900, 51_200)  # RTTVAR fades to a few microseconds, G is 1 ms


def test_back_off_doubles_up_to_the_bound():
    """(5.5) and (2.5)."""
    rtt = RttEstimator()
    rtt.sample(100_000)
    assert [rtt.timeout(backoff=n) for n in range(6)] == [300_000, 600_000, 1_200_000, 2_400_000, 3_000_000, 3_000_000]


def test_delay_of_the_ack_is_taken_off_but_not_below_the_minimum():
    """RFC 9002 section 5.3."""
    rtt = RttEstimator()
    rtt.sample(100_000, 50_000)
    assert rtt.smoothed == 100_000
    rtt.sample(130_000, 20_000)
    assert rtt.smoothed == 100_000 + 10_000 // 8
    assert rtt.minimum == 100_000


def test_old_minimum_is_forgotten():
    rtt = RttEstimator()
    rtt.sample(10_000, now=0)
    rtt.sample(50_000, now=5_000_000)
    assert rtt.minimum == 10_000
    rtt.sample(50_000, now=10_000_001)
    assert rtt.minimum == 50_000


# ---- packet size

def search(carries, ceiling, base=1200):
    """Let a search run on a path that carries packets up to `carries`; returns (size found, probes sent)."""
    mtu, now, probes = MtuSearch(base, ceiling), 0, 0
    while size := mtu.probe(now):
        probes += 1
        assert size <= ceiling
        (mtu.acked if size <= carries else mtu.lost)(size, now)
        now += 20_000
        assert probes < 100
    return mtu.current, probes


@pytest.mark.parametrize(("carries", "ceiling", "found", "most_probes"), [
    (65507, 65507, 65507, 1), (1472, 1472, 1472, 1), (1472, 65507, 1472, 20), (1452, 1472, 1452, 8),
    (8972, 65507, 8972, 8), (1200, 1472, 1200, 40), (1420, 1472, 1400, 24), (1200, 1200, 1200, 0)])
def test_search_finds_the_size_of_the_path(carries, ceiling, found, most_probes):
    size, probes = search(carries, ceiling)
    assert size <= carries
    assert found <= size
    assert probes <= most_probes


def test_one_lost_probe_is_no_answer():
    mtu = MtuSearch(1200, 1472)
    assert mtu.probe(0) == 1472
    assert mtu.probe(0) == 0, "one at a time"
    mtu.lost(1472, 1)
    assert mtu.probe(1) == 1472
    mtu.acked(1472, 2)
    assert mtu.current == 1472


def test_black_hole_goes_back_to_the_base():
    mtu = MtuSearch(1200, 1472)
    mtu.acked(mtu.probe(0), 0)
    mtu.black_hole(1)
    assert mtu.current == 1200
    assert 1200 < mtu.probe(1) < 1472


def test_a_path_narrower_than_the_base():
    """Goal: where the base vanishes, too, packets are small, and the search finds what passes; up is possible again."""
    mtu = MtuSearch(1200, 1472)
    mtu.acked(mtu.probe(0), 0)
    mtu.black_hole(1)
    mtu.black_hole(2)
    assert mtu.current == 548
    for now in range(3, 60):
        size = mtu.probe(now)
        if size:
            (mtu.acked if size <= 1172 else mtu.lost)(size, now)
    assert 1172 - 24 <= mtu.current <= 1172
    mtu.acked(1472, 60)
    mtu.black_hole(61)
    assert mtu.current == 1200, "it has passed once more"


def test_host_refusal_bounds_the_search():
    mtu = MtuSearch(1200, 9000)
    assert mtu.probe(0) == 9000
    mtu.too_big(9000, 1)
    assert mtu.probe(1) == 8972


def test_probe_leaves_room_for_data():
    """A probe is never larger than the window allows: first the usual sizes, the interface's when there is room."""
    mtu = MtuSearch(1200, 65483)
    assert mtu.probe(0, 1000) == 0, "not even the smallest"
    assert mtu.probe(0, 9600) == 8972
    mtu.acked(8972, 0)
    assert mtu.probe(0, 9600) == 0, "nothing usual between"
    assert mtu.probe(0, 70000) == 65483
    mtu.acked(65483, 0)
    assert mtu.current == 65483
