"""What --key takes: secrets that are stretched or taken as they are, and files that only we may read."""

import hashlib

import pytest

from mproxy.ground.errors import UsageError
from mproxy.transport import keying
from mproxy.transport.keying import Key, stretched


@pytest.fixture
def made(tmp_path):
    def make(data, mode=0o600):
        path = tmp_path / "secret"
        path.write_bytes(data)
        path.chmod(mode)
        return str(path)
    return make


@pytest.mark.parametrize("secret", [
    b"correct horse battery staple", b"a very long sentence that somebody can remember", b"g" * 64, b"\xff" * 31,
    "schön und länger als zweiunddreißig Zeichen".encode()])
def test_what_people_choose_is_dear_to_try(monkeypatch, secret):
    tried = []
    monkeypatch.setattr(keying.hashlib, "scrypt", lambda data, **cost: tried.append((data, cost)) or b"s" * 32)
    assert stretched(secret) == b"s" * 32
    (data, cost), = tried
    assert data == secret
    assert cost["n"] * cost["r"] * 128 == 64 << 20, "bytes of memory"
    assert cost["p"] * cost["n"] >= 1 << 17


@pytest.mark.parametrize("secret", [
    bytes(range(200, 232)), bytes(range(3, 32)) + b"\xff\0\xff", b"0123456789abcdef" * 4])
def test_what_nobody_can_guess_costs_nothing(monkeypatch, secret):
    monkeypatch.setattr(keying.hashlib, "scrypt", None)
    assert stretched(secret) == hashlib.blake2b(secret, digest_size=32, person=b"mproxy --key").digest()


def test_the_stretched_one_is_the_same_everywhere(made):
    """From RFC 7914's function, computed once: both sides must come to it."""
    key = Key(made(b"correct horse battery staple\n"))
    assert key.psk == hashlib.scrypt(b"correct horse battery staple", salt=b"mproxy --key", n=65536, r=8, p=2,
                                     maxmem=80 << 20, dklen=32)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o610, 0o666])
def test_a_secret_that_others_may_use_is_refused(made, mode):
    with pytest.raises(UsageError, match="mode 0600"):
        Key(made(bytes(range(200, 232)), mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_secret_of_our_own(made, mode):
    assert Key(made(bytes(range(200, 232)), mode)).psk


def test_a_short_one(made):
    with pytest.raises(UsageError, match="15 bytes is too short"):
        Key(made(b"x" * 15))


def test_a_public_key_is_no_secret(tmp_path):
    path = tmp_path / "key.pub"
    path.write_text("mproxy-ed25519 " + "A" * 60 + " ann@laptop\n")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="public key"):
        Key(str(path))
