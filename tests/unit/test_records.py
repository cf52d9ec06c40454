"""Records after the handshake: ours with OpenSSL's own record layer, and with ones built from the specification."""

import pytest

from mproxy._wire import CloseCode
from mproxy.ground.errors import PeerError
from tests.keys import joined, server
from tests.stranger import RecordKey, Stranger, chain_file, secret_in

ALERT, HANDSHAKE, DATA = 21, 22, 23
UPDATE, UPDATE_BOTH = b"\x18\0\0\1\0", b"\x18\0\0\1\1"


@pytest.fixture
def met(tmp_path):
    """(stranger, our server) after their handshake; `stranger.key` seals in the stranger's name."""
    log = tmp_path / "keys"
    stranger, ours = Stranger(chain_file(tmp_path, 1), key_log=log), server()
    stranger.meet(ours)
    stranger.key = RecordKey(secret_in(log, "CLIENT_TRAFFIC_SECRET_0"), ours.cipher)
    return stranger, ours


def refused(ours, data):
    """`ours` ends the connection at `data`; why."""
    with pytest.raises(PeerError) as caught:
        ours.receive(data)
    assert caught.value.code == CloseCode.ENCRYPTION and ours.broken
    with pytest.raises(PeerError):
        ours.receive(b"")
    return str(caught.value)


@pytest.mark.parametrize("length", [1, 16384, 16385, 100_000])
def test_openssl_understands_our_records_and_we_its(met, length):
    stranger, ours = met
    data = bytes(range(256)) * (length // 256 + 1)
    stranger.tls.write(data[:length])
    assert ours.receive(stranger.outgoing.read()) == data[:length]
    assert stranger.read(ours.seal(data[:length])) == data[:length]


def test_openssl_follows_our_key_updates(met):
    stranger, ours = met
    ours.records_a_key = 2
    assert b"".join(stranger.read(ours.seal(bytes([n]) * 50)) for n in range(9)) == b"".join(
        bytes([n]) * 50 for n in range(9))


def test_we_follow_updates_and_answer_when_asked(met):
    stranger, ours = met
    key = stranger.key
    second = key.following()
    data = key.seal(b"1") + key.seal(UPDATE, HANDSHAKE) + second.seal(b"2")
    assert ours.receive(data) == b"12"
    assert len(ours.seal(b"x" * 100)) == 122  # nothing was asked of us
    third = second.following()
    assert ours.receive(second.seal(UPDATE_BOTH, HANDSHAKE) + third.seal(b"3")) == b"3"
    assert len(ours.seal(b"x" * 100)) == 27 + 122  # before the next data, once
    assert len(ours.seal(b"x" * 100)) == 122


def test_our_answer_to_an_update_is_understood(met):
    stranger, ours = met
    ours.receive(stranger.key.seal(UPDATE_BOTH, HANDSHAKE))
    assert stranger.read(ours.seal(b"new key")) == b"new key"


def test_the_key_before_an_update_is_worth_nothing(met):
    stranger, ours = met
    ours.receive(stranger.key.seal(UPDATE, HANDSHAKE))
    assert "authentic" in refused(ours, stranger.key.seal(b"old"))


@pytest.mark.parametrize("padding", [1, 300, 16384 - 3])
def test_padding_is_taken_off(met, padding):
    stranger, ours = met
    assert ours.receive(stranger.key.seal(b"abc", padding=padding) + stranger.key.seal(b"d\0\0")) == b"abcd\0\0"


def test_an_empty_record_is_nothing(met):
    stranger, ours = met
    assert ours.receive(stranger.key.seal(b"") + stranger.key.seal(b"x")) == b"x"


@pytest.mark.parametrize("record", [
    lambda key: key.seal(b"", kind=0),                        # nothing but padding
    lambda key: key.seal(b"x" * 16385),                       # longer than a record may be
    lambda key: key.seal(b"x" * 16384, padding=300),
    lambda key: key.seal(b"x", outer=b"\x16\3\3"),            # only data is on the outside
    lambda key: key.seal(b"x", outer=b"\x17\3\1"),
    lambda key: b"\x14\3\3\0\1\1",                            # change_cipher_spec is of the handshake
    lambda key: b"\x17\3\3\0\x10" + bytes(16),
    lambda key: b"\x17\3\3\x41\1",                           # by its length, before it is here
    lambda key: b"\x17\3\3\xff\xff",
    lambda key: key.seal(b"x", kind=20),
    lambda key: key.seal(b"x", kind=24),
    lambda key: key.seal(b"\x18\0\0\1\2", HANDSHAKE),
    lambda key: key.seal(UPDATE + UPDATE, HANDSHAKE),         # a key change ends a record
    lambda key: key.seal(UPDATE[:3], HANDSHAKE),
    lambda key: key.seal(b"\4\0\0\1\0", HANDSHAKE),
    lambda key: key.seal(b"", HANDSHAKE),
    lambda key: key.seal(b"", ALERT),
    lambda key: key.seal(b"\2\x14", ALERT),
])
def test_what_has_no_place_ends_the_connection(met, record):
    stranger, ours = met
    refused(ours, record(stranger.key))


def test_the_end_is_seen_and_what_follows_is_not_read(met):
    stranger, ours = met
    data = stranger.key.seal(b"last") + stranger.key.seal(b"\1\0", ALERT) + stranger.key.seal(b"more")
    assert ours.receive(data) == b"last"
    assert ours.ended and not ours.broken


def test_a_word_of_warning_ends_nothing(met):
    stranger, ours = met
    assert ours.receive(stranger.key.seal(b"\1\x5a", ALERT) + stranger.key.seal(b"go on")) == b"go on"


def test_a_nonce_is_never_used_twice():
    """The same bytes sealed twice differ, under one key and from one key to the next."""
    one, _other = joined()
    one.records_a_key = 4
    records = [one.seal(b"the same")[-30:] for _ in range(40)]
    assert len(set(records)) == len(records)


@pytest.mark.parametrize("size", [1, 5, 21, 22, 16_405, 16_406, 16_407])
def test_a_record_may_arrive_in_pieces(size):
    one, other = joined()
    data = bytes(range(250)) * 300
    sealed = one.seal(data)
    assert b"".join(other.receive(sealed[at:at + size]) for at in range(0, len(sealed), size)) == data
