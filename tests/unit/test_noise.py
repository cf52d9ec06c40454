"""The Noise handshake: both sides agree, others cannot take part, and changed messages are refused."""

import pytest

from mproxy.transport.noise import (
    Handshake,
    NoiseError,
    generate_key,
    x25519_key,
    x25519_public,
)

PSK = bytes(range(32))
NAMES = [f"Noise_{pattern}_25519_{cipher}_SHA256" for pattern in ("NNpsk0", "XX")
         for cipher in ("AESGCM", "ChaChaPoly")]


def sides(name, **theirs):
    """Initiator and responder; `theirs` are wrong values for the responder."""
    common = {"psk": PSK} if "psk" in name else {}
    statics = [generate_key(), generate_key()] if "XX" in name else [None, None]
    arguments = {"prologue": b"both say so", **common}
    return (Handshake(name, True, static=statics[0], **arguments),
            Handshake(name, False, static=statics[1], **{**arguments, **theirs}))


def talk(initiator, responder, damage=lambda number, message: message):
    """The whole handshake; the payloads that arrived."""
    payloads, number, turn = [], 0, (initiator, responder)
    while not (initiator.finished and responder.finished):
        message = damage(number, turn[0].write(b"payload %d" % number))
        payloads.append(turn[1].read(message))
        turn, number = turn[::-1], number + 1
    return payloads


@pytest.mark.parametrize("name", NAMES)
def test_both_have_the_same_keys(name):
    ours, theirs = sides(name)
    payloads = talk(ours, theirs)
    assert payloads == [b"payload %d" % number for number in range(3 if "XX" in name else 2)]
    assert ours.keys() == theirs.keys()[::-1]
    assert ours.keys()[0] != ours.keys()[1]
    assert ours.hash == theirs.hash


def test_every_handshake_has_keys_of_its_own():
    keys = set()
    for _ in range(5):
        ours, theirs = sides("Noise_NNpsk0_25519_AESGCM_SHA256")
        talk(ours, theirs)
        keys |= set(ours.keys())
    assert len(keys) == 10


def test_static_keys_are_shown_to_the_other_side_alone():
    name = "Noise_XX_25519_AESGCM_SHA256"
    ours, theirs = sides(name)
    seen = []
    talk(ours, theirs, lambda number, message: seen.append(message) or message)
    for side, key in ((ours, ours.remote_static), (theirs, theirs.remote_static)):
        assert len(key) == 32, side
        assert all(key not in message for message in seen)


@pytest.mark.parametrize("theirs", [{"psk": bytes(32)}, {"prologue": b"something else"}])
def test_disagreement_is_noticed(theirs):
    with pytest.raises(NoiseError):
        talk(*sides("Noise_NNpsk0_25519_AESGCM_SHA256", **theirs))


@pytest.mark.parametrize("name", ["Noise_NNpsk0_25519_ChaChaPoly_SHA256", "Noise_XX_25519_AESGCM_SHA256"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_damage_is_noticed(name, number):
    if number == 2 and "XX" not in name:
        number = 1
    for place in (0, 31, 40, -1):
        def damage(at, message, place=place):
            changed = bytearray(message)
            if at == number and place < len(message):
                changed[place] ^= 1
            return bytes(changed)
        ours, theirs = sides(name)
        with pytest.raises(NoiseError):
            talk(ours, theirs, damage)


@pytest.mark.parametrize("length", [0, 31, 32, 47])
def test_short_messages(length):
    _, theirs = sides("Noise_NNpsk0_25519_AESGCM_SHA256")
    with pytest.raises(NoiseError):
        theirs.read(bytes(length))


def test_a_low_order_key_is_refused():
    _, theirs = sides("Noise_XX_25519_AESGCM_SHA256")
    theirs.read(bytes(32))
    with pytest.raises(NoiseError):
        theirs.write()


def test_ed25519_keys_as_x25519_keys():
    """The converted public key belongs to the converted private key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    for _ in range(5):
        key = Ed25519PrivateKey.generate()
        private = x25519_key(key.private_bytes_raw())
        assert x25519_public(key.public_key().public_bytes_raw()) == private.public


@pytest.mark.parametrize("key", [b"\1" + bytes(31), bytes([0xFF] * 31 + [0x7F])])
def test_keys_that_are_none(key):
    with pytest.raises(NoiseError):
        x25519_public(key)
