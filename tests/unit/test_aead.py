"""Both AEAD libraries: published cases, the same bytes from both, and refusal of everything not authentic."""

import random

import pytest
from cryptography.hazmat.primitives.ciphers import aead as other
from tests.drivers._datagram import pass_message

from mproxy.ground._aead import AeadCipher, use_multi_buffer

HAS_MULTI_BUFFER = use_multi_buffer(True)
OTHERS = {AeadCipher.AES_128_GCM: other.AESGCM, AeadCipher.AES_256_GCM: other.AESGCM,
          AeadCipher.CHACHA20_POLY1305: other.ChaCha20Poly1305}


@pytest.fixture(params=["libcrypto", "multi-buffer"] if HAS_MULTI_BUFFER else ["libcrypto"], autouse=True)
def library(request):
    assert use_multi_buffer(request.param == "multi-buffer") == (request.param == "multi-buffer")
    yield request.param
    use_multi_buffer(True)


def key_bytes(cipher):
    return 16 if cipher == AeadCipher.AES_128_GCM else 32


def cut(data, random):
    """`data` in pieces of any length, some of them empty."""
    places = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(6)))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


def test_aes_128_gcm_of_the_specification():
    """McGrew and Viega, The Galois/Counter Mode of Operation, test case 4: a header, and a last block that is short."""
    key, nonce = bytes.fromhex("feffe9928665731c6d6a8f9467308308"), bytes.fromhex("cafebabefacedbaddecaf888")
    header = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    plain = bytes.fromhex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
                          "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39")
    sealed = bytes.fromhex("42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
                           "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091")
    tag = bytes.fromhex("5bc94fbc3221a5db94fae95ae7121a47")
    assert pass_message(AeadCipher.AES_128_GCM, True, key, nonce, header, [plain]) == (sealed, tag)
    assert pass_message(AeadCipher.AES_128_GCM, False, key, nonce, header, [sealed], tag) == (plain, tag)


@pytest.mark.parametrize("cipher", OTHERS)
@pytest.mark.parametrize("seed", range(60))
def test_the_same_as_another_implementation_however_it_is_cut(cipher, seed):
    """60 seeds for each cipher and library, because the published cases cover neither parts nor such lengths."""
    chance = random.Random(seed)
    key, nonce = chance.randbytes(key_bytes(cipher)), chance.randbytes(12)
    header = chance.randbytes(chance.choice([0, 5, 13, 16, 33]))
    plain = chance.randbytes(chance.choice([0, 1, 15, 16, 17, 255, 1400, 4096, chance.randrange(70_000)]))
    expected = OTHERS[cipher](key).encrypt(nonce, plain, header)
    sealed, tag = pass_message(cipher, True, key, nonce, header, cut(plain, chance))
    assert sealed + tag == expected
    assert pass_message(cipher, False, key, nonce, header, cut(sealed, chance), tag)[0] == plain


@pytest.mark.parametrize("cipher", OTHERS)
@pytest.mark.parametrize("place", ["key", "nonce", "header", "data", "tag"])
def test_one_bit_changed_is_not_authentic(cipher, place):
    chance = random.Random(7)
    for length in (1, 16, 100, 16384):
        said = {"key": bytes(key_bytes(cipher)), "nonce": bytes(12), "header": b"header"}
        data, tag = pass_message(cipher, True, *said.values(), [bytes(length)])
        said |= {"data": data, "tag": tag}
        bit = chance.randrange(8 * len(said[place]))
        changed = bytearray(said[place])
        changed[bit // 8] ^= 1 << bit % 8
        said[place] = bytes(changed)
        with pytest.raises(ValueError, match="not authentic"):
            pass_message(cipher, False, said["key"], said["nonce"], said["header"], [said["data"]], said["tag"])


def test_a_key_of_another_length_is_refused():
    with pytest.raises(ValueError, match="another length"):
        pass_message(AeadCipher.AES_128_GCM, True, bytes(32), bytes(12), b"", [])
