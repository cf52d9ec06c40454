"""Sealing: published test cases of the ciphers, refusal of everything not authentic, generations of keys."""

import pytest
from tests.drivers._datagram import DrivenKey

from mproxy.transport._seal import Cipher

KEY = bytes(range(32))
CIPHERS = [Cipher.AESGCM, Cipher.CHACHAPOLY]
GENERATION = 1 << 20


def pair(cipher, first=0):
    return DrivenKey(KEY, cipher, first, True), DrivenKey(KEY, cipher, first, False)


def test_aes_256_gcm_of_the_specification():
    """McGrew and Viega, The Galois/Counter Mode of Operation, test case 14: zero key, zero nonce, zero block."""
    sealed = DrivenKey(bytes(32), Cipher.AESGCM, 0, True).seal(0, b"", bytes(16))
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


@pytest.mark.parametrize("cipher, name, order", [(Cipher.AESGCM, "AESGCM", "big"),
                                                 (Cipher.CHACHAPOLY, "ChaCha20Poly1305", "little")])
def test_the_same_as_another_implementation_with_the_nonce_of_noise(cipher, name, order):
    from cryptography.hazmat.primitives.ciphers import aead
    number = 0x0102030405
    nonce = bytes(4) + number.to_bytes(8, order)
    expected = getattr(aead, name)(KEY).encrypt(nonce, b"data", b"header")
    assert DrivenKey(KEY, cipher, number, True).seal(number, b"header", b"data") == expected


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("length", [0, 1, 16, 1400, 65_000])
def test_there_and_back(cipher, length):
    ours, theirs = pair(cipher)
    data = bytes(number & 0xFF for number in range(length))
    sealed = ours.seal(5, b"header", data)
    assert len(sealed) == length + 16
    assert theirs.open(5, b"header", sealed) == data


@pytest.mark.parametrize("cipher", CIPHERS)
def test_every_changed_bit_is_noticed(cipher):
    ours, theirs = pair(cipher)
    sealed = ours.seal(1, b"head", b"text")
    for place in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[place // 8] ^= 1 << place % 8
        assert theirs.open(1, b"head", bytes(damaged)) is None
    assert theirs.open(1, b"Head", sealed) is None
    assert theirs.open(2, b"head", sealed) is None
    assert theirs.open(1, b"head", sealed[:-1]) is None
    assert theirs.open(1, b"head", b"") is None
    assert theirs.failed == len(sealed) * 8 + 4
    assert theirs.open(1, b"head", sealed) == b"text"


@pytest.mark.parametrize("cipher", CIPHERS)
def test_no_number_twice(cipher):
    ours, _theirs = pair(cipher, 100)
    assert ours.seal(99, b"", b"before the first") is None
    assert ours.seal(100, b"", b"one") is not None
    assert ours.seal(100, b"", b"again") is None
    assert ours.seal(102, b"", b"a gap is fine") is not None
    assert ours.seal(101, b"", b"backwards") is None


@pytest.mark.parametrize("cipher", CIPHERS)
def test_generations(cipher):
    """Packets around a change of key may arrive in any order; a number that is far off does not change the key."""
    ours, theirs = pair(cipher, 7)
    last_old = ours.seal(7 + GENERATION - 1, b"", b"last of the first key")
    first_new = ours.seal(7 + GENERATION, b"", b"first of the second")
    assert theirs.open(7 + GENERATION, b"", first_new) == b"first of the second"
    assert theirs.open(7 + GENERATION - 1, b"", last_old) == b"last of the first key"
    assert theirs.open(7 + 3 * GENERATION, b"", first_new) is None
    third = ours.seal(7 + 2 * GENERATION, b"", b"third")
    assert theirs.open(7 + 2 * GENERATION, b"", third) == b"third"
    assert theirs.open(7 + GENERATION - 1, b"", last_old) is None, "two generations ago"
    assert theirs.open(7 + GENERATION, b"", first_new) == b"first of the second"


def test_generations_differ():
    ours, _ = pair(Cipher.AESGCM)
    one = ours.seal(5, b"", bytes(32))
    other = DrivenKey(KEY, Cipher.AESGCM, 0, True)
    second = other.seal(GENERATION + 5, b"", bytes(32))
    assert one[:32] != second[:32]


def test_a_wrong_key_is_a_programming_error():
    with pytest.raises(ValueError):
        DrivenKey(b"short", Cipher.AESGCM, 0, True)
    with pytest.raises(ValueError):
        DrivenKey(KEY, 3, 0, True)
