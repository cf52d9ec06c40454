"""TLS between two ends in memory: what goes in comes out, however it is cut, and nothing else is accepted."""

import ctypes
import mmap
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mproxy._wire import CloseCode
from mproxy.carrier._tls import Tls, TlsContext
from mproxy.ground.errors import PeerError, UsageError
from tests.keys import client, context, joined, pem, server
from tests.stranger import Stranger, chain_file, secret_in

RECORD = 16384
SEAL_BYTES = 22   # RFC 8446, section 5.2: header 5, type 1, tag 16


def in_pieces(data, size):
    """`data` cut into pieces of `size`."""
    return [data[at:at + size] for at in range(0, len(data), size)]


def opened(end, data, size=None):
    """What `end` decrypts from `data`, given in pieces."""
    return b"".join(end.receive(piece) for piece in in_pieces(data, size or len(data) or 1))


# ---- handshake

@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_handshake_in_pieces(size):
    one, other = client(), server()
    assert one.receive(b"") == b""
    assert opened(other, one.take_out(), size) == b""
    assert opened(one, other.take_out(), size) == b""
    assert one.finished and not other.finished
    assert opened(other, one.seal(b"first words"), size) == b"first words"
    assert other.finished
    assert one.peer_spki() == context(2, True).spki
    assert other.peer_spki() == context(1, False).spki


def test_what_vouches_for_a_key_is_shown_with_it():
    """Goal: from the next connection on, until it is replaced or taken back."""
    contexts = TlsContext(pem(1), is_server=False), TlsContext(pem(2), is_server=True)
    longest = bytes(range(200)) * 4
    for carried in (b"one", b"another", longest, b""):
        contexts[0].vouch(carried)
        one, other = joined(Tls(contexts[0]), Tls(contexts[1]))
        assert (other.peer_certificate(), one.peer_certificate()) == (carried, b"")
        assert other.peer_spki() == context(1, False).spki
        contexts[0].vouch(b"later")
        assert other.peer_certificate() == carried
        one.forget()
        assert one.peer_certificate() == b""
    with pytest.raises(ValueError, match="cannot be shown"):
        contexts[0].vouch(longest + b"1")


def test_first_words_leave_with_the_end_of_the_handshake():
    """The client's Finished and what it seals next are one piece of bytes: no round trip between them."""
    one, other = client(), server()
    one.receive(b"")
    other.receive(one.take_out())
    one.receive(other.take_out())
    assert other.receive(one.seal(b"hello")) == b"hello"


def test_tls_1_3_with_a_fast_cipher_and_nothing_else():
    one, other = joined()
    assert one.cipher == other.cipher
    assert one.cipher in ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")


def test_server_says_nothing_but_its_flight():
    """It sends no session ticket: after the handshake the server is silent until it has something to send."""
    _one, other = joined()
    assert other.take_out() == b""


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 100, b"\xff" * 30_000,
])
def test_a_handshake_with_a_stranger_fails(data):
    with pytest.raises(PeerError) as caught:
        server().receive(data)
    assert caught.value.code == CloseCode.ENCRYPTION


def test_tls_1_2_is_refused():
    stranger = Stranger(newest=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(PeerError, match="unsupported protocol"):
        stranger.meet(server())


def test_a_client_without_certificate_is_refused():
    with pytest.raises(PeerError, match="certificate"):
        Stranger().meet(server())


def test_another_make_of_client_is_understood(tmp_path):
    other = server()
    Stranger(chain_file(tmp_path, 1)).meet(other)
    assert other.finished and other.peer_spki() == context(1, True).spki


def test_a_long_chain_of_certificates_is_refused(tmp_path):
    """What a peer can make us hold before it is known is bounded."""
    with pytest.raises(PeerError, match="excessive message size"):
        Stranger(chain_file(tmp_path, 20)).meet(server())


def test_the_end_of_a_connection_is_seen(tmp_path):
    stranger, other = Stranger(chain_file(tmp_path, 1)), server()
    stranger.meet(other)
    stranger.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        stranger.tls.unwrap()
    assert not other.ended
    assert other.receive(stranger.outgoing.read()) == b"last words"
    assert other.ended


# ---- bytes

@pytest.mark.parametrize("length", [1, RECORD - 1, RECORD, RECORD + 1, 300_000, 2_000_000])
@pytest.mark.parametrize("size", [None, 1000, 16_400, 70_000])
def test_bytes_arrive_as_they_were(length, size):
    one, other = joined()
    data = bytes(range(251)) * (length // 251 + 1)
    sealed = one.seal(data[:length])
    records = -(-length // RECORD)
    assert len(sealed) == length + SEAL_BYTES * records
    assert opened(other, sealed, size) == data[:length]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40_000), st.integers(1, 50_000)), max_size=8))
def test_both_directions_in_any_pieces(turns):
    """Invariant: all that was sealed is opened once all of it has been given, however it was cut."""
    ends = joined()
    for swap, length, size in turns:
        one, other = ends[::-1] if swap else ends
        data = bytes([length % 256]) * length
        assert opened(other, one.seal(data), size) == data


def test_keys_change_in_time():
    """RFC 8446, section 5.5: a key protects a bounded number of records; the peer follows by itself."""
    one, other = joined()
    one.records_a_key = 2
    sealed = [one.seal(b"x" * 100) for _ in range(7)]
    assert [len(record) for record in sealed] == [122, 122, 149, 122, 149, 122, 149]
    assert b"".join(map(other.receive, sealed)) == b"x" * 700


@pytest.mark.parametrize("at", [0, 3, 10, 100, -1])
def test_a_changed_byte_ends_the_connection(at):
    one, other = joined()
    sealed = bytearray(one.seal(b"x" * 200))
    sealed[at] ^= 1
    with pytest.raises(PeerError):
        other.receive(bytes(sealed))
        other.receive(one.seal(b"y" * 20_000))
    assert other.broken
    with pytest.raises(PeerError):
        other.receive(one.seal(b"z"))


def test_what_came_before_a_changed_record_is_given():
    one, other = joined()
    good, bad = one.seal(b"good"), bytearray(one.seal(b"bad"))
    bad[8] ^= 1
    assert other.receive(good + bytes(bad)) == b"good"
    assert other.broken


@pytest.mark.parametrize("mistake", ["twice", "swapped", "left out"])
def test_records_keep_their_order(mistake):
    one, other = joined()
    first, second = one.seal(b"1"), one.seal(b"2")
    data = {"twice": first + first, "swapped": second + first, "left out": second}[mistake]
    with pytest.raises(PeerError):
        assert other.receive(data) == b"1"
        other.receive(b"")


def test_records_of_another_connection_are_worth_nothing():
    one, _other = joined()
    _one, other = joined()
    with pytest.raises(PeerError):
        other.receive(one.seal(b"replayed"))


def test_a_failure_leaves_other_connections_alone():
    """OpenSSL has one error queue for each thread: an error left by one connection must not fail the next."""
    bad, good = joined()[1], joined()
    with pytest.raises(PeerError):
        bad.receive(b"\x17\x03\x03\x00\x20" + bytes(32))
    assert good[1].receive(good[0].seal(b"fine")) == b"fine"


# ---- exporter

def test_both_ends_export_the_same_and_nobody_else():
    one, other = joined()
    mine = one.exporter(b"EXPORTER-test", b"context", 32)
    assert mine == other.exporter(b"EXPORTER-test", b"context", 32) and len(mine) == 32
    assert mine != one.exporter(b"EXPORTER-test", b"Context", 32)
    assert mine != one.exporter(b"EXPORTER-tesT", b"context", 32)
    assert mine != joined()[0].exporter(b"EXPORTER-test", b"context", 32)


def test_the_client_can_export_before_its_last_flight():
    """It binds its first words to the connection; the server has not read its Finished yet."""
    one, other = client(), server()
    one.receive(b"")
    other.receive(one.take_out())
    one.receive(other.take_out())
    mine = one.exporter(b"EXPORTER-test", b"", 32)
    other.receive(one.seal(mine))
    assert other.exporter(b"EXPORTER-test", b"", 32) == mine


# ---- keys

@pytest.mark.parametrize("spoil", [
    lambda text: b"", lambda text: b"junk", lambda text: text[:text.index(b"-----BEGIN CERT")],
    lambda text: text[text.index(b"-----BEGIN CERT"):],
    lambda text: text[:text.index(b"-----BEGIN CERT")] + pem(2)[pem(2).index(b"-----BEGIN CERT"):],
])
def test_a_file_without_key_or_certificate_is_refused(spoil):
    with pytest.raises(UsageError, match="Ed25519"):
        TlsContext(spoil(pem(1)), is_server=True)


def test_a_key_may_be_given_in_a_buffer_that_is_wiped():
    text = bytearray(pem(1))
    rules = TlsContext(text, is_server=False)
    text[:] = bytes(len(text))
    joined(Tls(rules))


# ---- what is left of the handshake

def test_forgotten_handshake_is_needed_for_nothing():
    """Goal: data, key updates and the end go on as before, both ways."""
    one, other = joined()
    for end in (one, other):
        end.forget()
        end.forget()
        end.records_a_key = 2
        assert end.peer_spki() is None and end.cipher is None
        with pytest.raises(PeerError):
            end.exporter(b"EXPORTER-x", b"", 32)
    for number in range(5):
        words = b"%d" % number * RECORD
        assert other.receive(one.seal(words)) == words
        assert one.receive(other.seal(words)) == words


def test_handshake_under_way_is_not_forgotten():
    one, other = client(), server()
    one.receive(b"")
    one.forget()
    other.receive(one.take_out())
    one.receive(other.take_out())
    other.receive(one.take_out())
    assert one.finished and other.finished


def test_forgotten_secrets_are_not_in_memory(tmp_path):
    """Goal: in this process' memory the traffic secrets are only where records are made with them, and in nothing
    that OpenSSL has left."""
    one, stranger = server(), Stranger(chain_file(tmp_path, 1), key_log=tmp_path / "secrets")
    stranger.meet(one)
    secrets = [secret_in(tmp_path / "secrets", f"{side}_TRAFFIC_SECRET_0") for side in ("CLIENT", "SERVER")]
    before = [copies_in_memory(secret) for secret in secrets]
    one.forget()
    after = [copies_in_memory(secret) for secret in secrets]
    assert [was - now for was, now in zip(before, after, strict=True)] == [1, 1], (before, after)


MOST_MAPPED_BYTES = 1 << 40  # what is larger is what the sanitizers know of memory, on their build


def copies_in_memory(secret):
    """How often `secret` is found in this process' memory; the search itself adds no copies."""
    count, window = 0, mmap.mmap(-1, 1 << 20)
    ours = ctypes.addressof(ctypes.c_char.from_buffer(window))
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in maps.read().splitlines():
            addresses, rights = line.split()[:2]
            at, end = (int(number, 16) for number in addresses.split("-"))
            if not rights.startswith("rw") or at <= ours < end or end - at > MOST_MAPPED_BYTES:
                continue
            while at < end:
                memory.seek(at)
                try:
                    with memoryview(window)[:min(len(window), end - at)] as part:
                        length = memory.readinto(part)
                except OSError:
                    # A page without memory: of a file that is shorter than its mapping, or of one gone meanwhile.
                    at = (at // mmap.PAGESIZE + 1) * mmap.PAGESIZE
                    continue
                found = window.find(secret, 0, length)
                while found >= 0:
                    count += 1
                    found = window.find(secret, found + 1, length)
                # What lies across the end of the window is found in the next one.
                at += length if length < len(secret) or at + length == end else length - len(secret) + 1
    return count
