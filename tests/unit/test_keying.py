"""What --key takes: secrets that are stretched or used as they are, and files that only we may read."""

import hashlib
import subprocess
import sys

import pytest

from mproxy.ground.errors import UsageError
from mproxy.transport import keying
from mproxy.transport.keying import Key, stretched
from tests import keys
from tests.meta.sources import ROOT


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
    """The value comes from RFC 7914's function, computed once; both sides must get the same."""
    key = Key(made(b"correct horse battery staple\n"))
    assert key.psk == hashlib.scrypt(b"correct horse battery staple", salt=b"mproxy --key", n=65536, r=8, p=2,
                                     maxmem=80 << 20, dklen=32)


AFTERWARDS = """
import sys
from mproxy.transport.keying import Key
from mproxy.transport.noise import Handshake, x25519_key
key = Key(sys.argv[1])
sys.meta_path.clear()
assert len(key.public) == 32
for protocol in ("Noise_XX_25519_AESGCM_SHA256", "Noise_XX_25519_ChaChaPoly_SHA256"):
    Handshake(protocol, True, b"", static=x25519_key(key.seed)).write(b"")
"""


def test_nothing_is_imported_once_a_key_was_read(made):
    """Goal: with --user the packages may lie where the user cannot read."""
    path = made(keys.pem(1))
    subprocess.run([sys.executable, "-c", AFTERWARDS, path], check=True, cwd=ROOT)


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


OURS = "mproxy-ed25519 " + "A" * 60


@pytest.mark.parametrize(("text", "what"), [
    (f"{OURS} ann@laptop", "a public key"),
    (f'# comment\n expiry="2027-01-31" {OURS}', "a public key"),
    (f"server:6200 {OURS}", "a public key"),
    ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPv6bZ2x ann@laptop", "an SSH public key"),
    ('from="10.0.0.0/8" ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHA=', "an SSH public key"),
    ("server sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5", "an SSH public key"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n", "an OpenSSH private key"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n", "a PEM file with RSA PRIVATE KEY"),
    ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIEow\n", "a PEM file with ENCRYPTED PRIVATE KEY"),
    ("Bag Attributes\n-----BEGIN CERTIFICATE-----\nMIIEow\n", "a PEM file with CERTIFICATE"),
    ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", "a PuTTY private key"),
])
def test_a_key_of_something_else_is_no_secret(made, text, what):
    """Goal: neither text that everybody may know nor a private key that must not be copied is taken as the secret."""
    with pytest.raises(UsageError, match=f"this is {what}, which is n(ot|either)"):
        Key(made(text.encode()))


@pytest.mark.parametrize("secret", [
    b"#\n# 2048 bit OpenVPN static key\n#\n-----BEGIN OpenVPN Static key V1-----\n6acef03f62675b4b1bbd03e53b187727\n",
    b"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", b"the ssh-rsa key of a mproxy-ed25519 line", b"-----BEGIN by me"])
def test_what_others_share_is_a_secret(made, secret):
    assert Key(made(secret)).psk
