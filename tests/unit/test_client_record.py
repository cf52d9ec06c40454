"""What sproxy notes of a client: all of it comes back, and what is damaged is refused, whatever is wrong with it."""

import random
import zlib

import pytest

from mproxy._wire import MAX_PLACES
from mproxy.policy import certificates
from mproxy.programs.client_record import ClientRecord, DamagedRecord, PlaceSocket, decode_record

SPKI = bytes(range(44))
MOST_BYTES = 2040  # what there is room for in the arena
FACTS = {
    "spki": SPKI, "instance_id": bytes(range(16)), "host": "fe80::1%eth0", "peer": "[fe80::1%eth0]:4000",
    "holder": "fe80::/64", "stdio": False, "resumed": True, "tags": [1 << 63, 7], "began_at": 5_000_000, "places": [],
    "certificate": b"", "over_udp": True,
    "lost_at": 6_000_000, "away_at": 7_000_000, "outages": 3, "longest_us": 40, "total_us": 60, "resent_bytes": 1 << 40,
}


def facts_of(record):
    return {name: getattr(record, name) for name in ClientRecord.__slots__}


@pytest.mark.parametrize("changes", [
    {}, {"spki": b"", "host": "10.0.0.1", "peer": "10.0.0.1:1", "holder": "10.0.0.1"}, {"holder": SPKI},
    {"stdio": True, "over_udp": False}, {"resumed": False, "tags": []}, {"lost_at": None, "away_at": None},
    {"spki": b"", "holder": b""},
    {"certificate": bytes(range(200)) * 4},
])
def test_all_of_it_comes_back(changes):
    facts = FACTS | changes
    assert facts_of(decode_record(ClientRecord(**facts).encode())) == facts


def test_places_come_back():
    """Goal: without places it is what builds before them can read."""
    places = [PlaceSocket(number, 0xFFFFFFFF - number, 7 + number, 1 << 31) for number in (1, 1, MAX_PLACES)]
    data = ClientRecord(**FACTS | {"places": places}).encode()
    found = decode_record(data).places
    assert [(each.number, each.mark, each.fd, each.inode) for each in found] == [
        (each.number, each.mark, each.fd, each.inode) for each in places]
    assert (data[0], ClientRecord(**FACTS).encode()[0]) == (2, 1)
    for length in range(len(data)):
        with pytest.raises(DamagedRecord):
            decode_record(data[:length])


def test_there_is_room_for_the_longest():
    places = [PlaceSocket(number, 0, 0, 0) for number in range(MAX_PLACES)] * 2
    longest = FACTS | {"host": "h" * 255, "peer": "p" * 255, "holder": "s" * 255, "places": places}
    assert len(ClientRecord(**longest).encode()) <= MOST_BYTES
    names = {"host": "h" * 62, "peer": "p" * 70, "holder": "s" * 62, "certificate": bytes(certificates.MOST_BYTES)}
    assert len(ClientRecord(**longest | names | {"tags": [1, 2, 3]}).encode()) <= MOST_BYTES


def test_a_certificate_that_is_cut_off_is_noticed():
    data = ClientRecord(**FACTS | {"certificate": b"word"}).encode()
    assert data[0] == 3
    for length in range(len(data)):
        with pytest.raises(DamagedRecord):
            decode_record(data[:length])


def test_every_changed_bit_is_noticed():
    data = ClientRecord(**FACTS).encode()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedRecord):
            decode_record(bytes(changed))


def test_every_other_length_is_noticed():
    data = ClientRecord(**FACTS).encode()
    for length in range(len(data)):
        with pytest.raises(DamagedRecord):
            decode_record(data[:length])
    with pytest.raises(DamagedRecord):
        decode_record(data + bytes(1))


def test_what_has_a_right_check_may_be_wrong_all_the_same(seed):
    """Goal: nothing but DamagedRecord, whatever the bytes are: no other exception, no endless loop."""
    chance = random.Random(seed)
    data = ClientRecord(**FACTS).encode()[:-4]
    for _ in range(5000):
        changed = bytearray(data[:chance.choice([len(data), chance.randrange(len(data) + 1)])])
        for _ in range(chance.randrange(4)):
            if changed:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        changed += zlib.crc32(changed).to_bytes(4, "little")
        try:
            record = decode_record(bytes(changed))
        except DamagedRecord:
            continue
        assert record.encode()[:1] == (b"\3" if record.certificate else b"\2" if record.places else b"\1")


def test_another_version_is_refused():
    data = b"\4" + ClientRecord(**FACTS).encode()[1:-4]
    with pytest.raises(DamagedRecord, match="version"):
        decode_record(data + zlib.crc32(data).to_bytes(4, "little"))
