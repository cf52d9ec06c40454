"""The byte ring behaves like a plain bytearray with an offset."""

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.drivers._memory import ByteRing, pool_bytes

LARGEST = (1 << 64) - (1 << 20)   # offsets have 64 bits, and never wrap in practice


@pytest.fixture(autouse=True, scope="module")
def no_garbage():
    """Objects that other tests left behind hold memory of the pool, too, and must not return it during a test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def power_of_two(number):
    """Whether `number` is a power of two, or 0."""
    return number & (number - 1) == 0


class RingMachine(RuleBasedStateMachine):
    """Any sequence of operations; `kept` is the model: bytes [head, head + len(kept))."""

    @initialize(offset=st.integers(0, LARGEST))
    def begin(self, offset):
        self.lent = pool_bytes()[0]
        self.ring = ByteRing(offset)
        self.head = offset
        self.kept = bytearray()
        self.count = 0

    def some(self, length):
        """Bytes that differ from place to place."""
        self.count += 1
        return bytes((i * 7 + self.count * 31 + i // 251) & 0xFF for i in range(length))

    @rule(length=st.one_of(st.integers(0, 50), st.integers(0, 9000), st.integers(60_000, 200_000)))
    def append(self, length):
        data = self.some(length)
        self.ring.append(data)
        self.kept += data

    @rule(length=st.one_of(st.integers(0, 50), st.integers(0, 9000), st.integers(60_000, 200_000)))
    def fill(self, length):
        data = self.some(length)
        free = self.ring.capacity - len(self.kept)
        done = self.ring.fill(data)
        assert done == min(length, free)
        self.kept += data[:done]

    @rule(share=st.floats(0, 1))
    def release(self, share):
        count = round(share * len(self.kept))
        self.ring.release(self.head + count)
        self.head += count
        del self.kept[:count]

    @rule(capacity=st.integers(0, 40_000))
    def reserve(self, capacity):
        before = self.ring.capacity
        self.ring.reserve(capacity)
        assert self.ring.capacity >= max(before, capacity)
        assert self.ring.capacity < max(2 * capacity, before + 1, 4097)

    @rule(first=st.floats(0, 1), share=st.floats(0, 1))
    def view(self, first, share):
        at = round(first * len(self.kept))
        length = round(share * (len(self.kept) - at))
        assert self.ring.view(self.head + at, length) == self.kept[at:at + length]

    @rule(beyond=st.integers(1, 10))
    def nothing_outside(self, beyond):
        with pytest.raises(ValueError):
            self.ring.view(self.head, len(self.kept) + beyond)
        with pytest.raises(ValueError):
            self.ring.release(self.head + len(self.kept) + beyond)
        if self.head:
            with pytest.raises(ValueError):
                self.ring.release(self.head - 1)

    @invariant()
    def agrees(self):
        ring = self.ring
        assert (ring.head, ring.tail) == (self.head, self.head + len(self.kept))
        assert ring.view(ring.head, len(self.kept)) == self.kept
        assert len(self.kept) <= ring.capacity and power_of_two(ring.capacity)
        assert ring.capacity == 0 or ring.capacity >= 4096
        assert pool_bytes()[0] - self.lent == ring.capacity

    def teardown(self):
        if hasattr(self, "ring"):
            self.ring = None
            assert pool_bytes()[0] == self.lent


RingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRing = RingMachine.TestCase


@given(st.integers(0, LARGEST), st.integers(0, 5000), st.integers(1, 20_000), st.integers(0, 12_000))
@settings(max_examples=200, deadline=None)
def test_growing_keeps_what_wrapped(offset, skipped, capacity, length):
    """A ring whose bytes wrap around its end keeps them in order when its storage grows."""
    ring = ByteRing(offset)
    ring.append(bytes(skipped))
    data = bytes(i * 13 % 251 for i in range(length))
    ring.append(data)
    ring.release(offset + skipped)
    ring.reserve(capacity)
    assert ring.view(offset + skipped, length) == data


def test_an_idle_ring_owns_nothing():
    lent = pool_bytes()[0]
    ring = ByteRing()
    assert (ring.capacity, pool_bytes()[0]) == (0, lent)
    ring.append(b"x")
    assert (ring.capacity, pool_bytes()[0]) == (4096, lent + 4096)
    ring.release(1)
    assert (ring.capacity, pool_bytes()[0]) == (0, lent)


@pytest.mark.parametrize("left", [1, 1000, 40_000, 131_072])
def test_an_almost_empty_ring_gives_most_of_its_storage_back(left):
    ring = ByteRing(12345)
    data = bytes(i * 11 % 253 for i in range(1 << 20))
    ring.append(data)
    ring.release(ring.tail - left)
    assert ring.capacity <= max(4096, 4 * left)
    assert ring.view(ring.head, left) == data[-left:]


def test_returned_storage_is_bounded_and_used_again():
    rings = [ByteRing() for _ in range(600)]
    for ring in rings:
        ring.append(bytes(131072))
    lent = pool_bytes()[0]
    del rings, ring
    assert pool_bytes()[0] == lent - 600 * 131072
    assert pool_bytes()[1] <= 32 << 20


def test_storage_is_not_shared():
    rings = [ByteRing() for _ in range(100)]
    for _ in range(3):
        for number, ring in enumerate(rings):
            ring.append(bytes([number]) * 5000)
        for number, ring in enumerate(rings):
            assert ring.view(ring.head, 5000) == bytes([number]) * 5000
            ring.release(ring.tail)
