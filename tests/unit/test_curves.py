"""Curve25519: the published cases, the same results as another library's, and refusal of what is not a key."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mproxy.ground._curves import X25519Key, ed25519_public_of, ed25519_sign, ed25519_verify


def test_ed25519_of_the_specification():
    """RFC 8032, section 7.1, test 3."""
    seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex("6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
                              "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a")
    assert ed25519_public_of(seed) == ed25519_public_of(bytearray(seed)) == public
    assert ed25519_sign(seed, b"\xaf\x82") == signature
    assert ed25519_verify(public, signature, b"\xaf\x82")
    assert not ed25519_verify(public, signature, b"\xaf\x83") and not ed25519_verify(public, b"", b"\xaf\x82")
    assert not ed25519_verify(public, bytes(64), b"\xaf\x82") and not ed25519_verify(bytes(32), signature, b"\xaf\x82")
    with pytest.raises(ValueError, match="32 bytes"):
        ed25519_verify(public[1:], signature, b"")


def test_x25519_of_the_specification():
    """RFC 7748, section 5.2."""
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    result = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert X25519Key(scalar).agree(point) == X25519Key(bytearray(scalar)).agree(bytearray(point)) == result


def test_both_libraries_agree():
    for _ in range(20):
        one, other, words = os.urandom(32), os.urandom(32), os.urandom(300)
        key = Ed25519PrivateKey.from_private_bytes(one)
        assert ed25519_public_of(one) == key.public_key().public_bytes_raw()
        assert ed25519_sign(one, words) == key.sign(words)
        public = X25519Key(other).public
        assert public == X25519PrivateKey.from_private_bytes(other).public_key().public_bytes_raw()
        assert X25519Key(one).agree(public) == (
            X25519PrivateKey.from_private_bytes(one).exchange(X25519PublicKey.from_public_bytes(public)))


@pytest.mark.parametrize("public", [bytes(32), b"\1" + bytes(31),
                                    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")])
def test_a_key_of_low_order_is_refused(public):
    with pytest.raises(ValueError, match="not usable"):
        X25519Key(os.urandom(32)).agree(public)


@pytest.mark.parametrize("key", [b"", bytes(31), bytearray(33)])
def test_keys_of_another_length(key):
    for use in (ed25519_public_of, X25519Key, lambda key: ed25519_sign(key, b""),
                X25519Key(bytes(32)).agree):
        with pytest.raises(ValueError, match="32 bytes"):
            use(key)
    with pytest.raises(TypeError):
        ed25519_public_of("x" * 32)
