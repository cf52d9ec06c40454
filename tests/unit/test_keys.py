"""Key files: made once, read only if nobody else could have changed them, shown as ssh shows keys."""

import base64
import datetime
import hashlib
import os
import subprocess
import sys
import threading

import pytest

from mproxy.ground._wipe import wipe
from mproxy.ground.errors import MproxyError
from mproxy.policy import keys
from mproxy.policy.keys import (
    SPKI_PREFIX,
    fingerprint,
    fresh_pem,
    parse_spki,
    public_line,
    read_identity,
    take_identity,
    write_new,
)
from tests.meta.sources import ROOT

# RFC 8032, section 7.1, test 1: the public key; the fingerprint by `openssl pkey -pubin -outform der | sha256sum`.
SPKI = SPKI_PREFIX + bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


@pytest.fixture(scope="module")
def pem():
    """One key for all tests that need any."""
    return bytes(fresh_pem())


def test_fingerprint_is_written_as_ssh_does():
    digest = hashlib.sha256(SPKI).digest()
    assert fingerprint(SPKI) == "SHA256:" + base64.b64encode(digest).decode()[:43]


def test_public_line_is_one_line_whatever_the_comment():
    assert public_line(SPKI, "ann@desk  two") == f"mproxy-ed25519 {base64.b64encode(SPKI).decode()} ann@desk two"
    assert public_line(SPKI).split() == ["mproxy-ed25519", base64.b64encode(SPKI).decode()]
    assert "\n" not in public_line(SPKI, "a\nmproxy-ed25519 b\x1b[2J") and "\x1b" not in public_line(SPKI, "\x1b")


@pytest.mark.parametrize("text", ["", "AAAA", "=", "é", base64.b64encode(SPKI[:-1]).decode(),
                                  base64.b64encode(bytes(44)).decode(), base64.b64encode(SPKI + b"x").decode()])
def test_what_is_no_key(text):
    assert parse_spki(text) is None


def test_a_key_survives_its_line():
    assert parse_spki(public_line(SPKI).split()[1]) == SPKI


def test_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "state" / "host-key.pem"
    identity, new = take_identity(path)
    assert new and oct(path.stat().st_mode)[-3:] == "600" and oct(path.parent.stat().st_mode)[-3:] == "700"
    assert os.listdir(path.parent) == ["host-key.pem"], "nothing temporary is left"
    again, new = take_identity(path)
    assert not new and again.spki == identity.spki and again.pem == identity.pem == path.read_bytes()
    assert b"BEGIN PRIVATE KEY" in identity.pem and identity.spki.startswith(SPKI_PREFIX)


def test_the_key_belongs_to_its_certificate(tmp_path):
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    identity, _ = take_identity(tmp_path / "key")
    private = serialization.load_pem_private_key(bytes(identity.pem), None)
    der = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert der == identity.spki


def test_certificates_are_what_others_make_of_the_key(pem):
    """Byte by byte those of the `cryptography` package, which made them before."""
    x509 = pytest.importorskip("cryptography.x509")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    for text in (pem, *(bytes(fresh_pem()) for _ in range(20))):
        key, found = serialization.load_pem_private_key(text, None), x509.load_pem_x509_certificate(text)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mproxy")])
        made = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                .serial_number(found.serial_number).not_valid_before(datetime.datetime(2000, 1, 1))
                .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59)).sign(key, None))
        pem_of = serialization.Encoding.PEM
        assert text == key.private_bytes(
            pem_of, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + made.public_bytes(pem_of)


def test_making_keys_imports_no_package():
    """Goal: nobody waits for that when a server is started by the first ssh."""
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); from mproxy.policy.keys import fresh_pem; fresh_pem();"
              " from mproxy.transport.keying import Keying; import mproxy.transport.one_time;"
              " print([name for name in sys.modules if name.startswith(('cryptography', 'cffi', 'site'))])")
    done = subprocess.run([sys.executable, "-IS", "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


def test_without_a_path_a_key_of_this_process(pem):
    one, _ = take_identity(None)
    other, _ = take_identity(None)
    assert one.spki != other.spki


def test_starts_at_the_same_time_agree_on_one_key(tmp_path, monkeypatch):
    """All of them find no file and make a key; in the end there is one file, and all have its key."""
    everybody = threading.Barrier(4)

    def make_together():
        pem = make_alone()
        everybody.wait(10)
        return pem

    make_alone = keys.fresh_pem
    monkeypatch.setattr(keys, "fresh_pem", make_together)
    path = tmp_path / "key"
    results = []
    threads = [threading.Thread(target=lambda: results.append(take_identity(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({identity.spki for identity, _ in results}) == 1 and len(results) == 4
    assert [new for _, new in results].count(True) == 1


def test_a_file_that_is_there_is_never_written(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"precious")
    assert not write_new(path, b"other")
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert not write_new(path, b"other")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o601])
def test_a_key_that_others_may_use_is_refused(tmp_path, pem, mode):
    path = tmp_path / "key"
    path.write_bytes(pem)
    path.chmod(mode)
    with pytest.raises(MproxyError, match=r"the key .* is accessible to other users: .*chmod 600"):
        read_identity(path)


def test_neither_links_nor_devices_are_keys(tmp_path, pem):
    real = tmp_path / "real"
    write_new(real, pem)
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(MproxyError, match="cannot read the key"):
        read_identity(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(MproxyError, match="is not a regular file"):
        read_identity(tmp_path / "pipe")


@pytest.mark.parametrize("content", [b"", b"text", b"-----BEGIN CERTIFICATE-----", b"\xff" * 100,
                                     b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_holds_no_key_says_so(tmp_path, content):
    path = tmp_path / "key"
    write_new(path, content)
    with pytest.raises(MproxyError, match="contains no Ed25519 certificate"):
        read_identity(path)


def test_a_key_of_something_else_is_not_to_be_moved_away(tmp_path):
    path = tmp_path / "id_ed25519"
    write_new(path, b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n")
    with pytest.raises(MproxyError, match=r"is an OpenSSH private key, not one of mproxy: .*mproxy keygen") as caught:
        read_identity(path)
    assert "move" not in str(caught.value)


def test_wiping_leaves_nothing():
    secret = bytearray(b"secret")
    wipe(secret)
    assert secret == bytes(6)
    made = os.urandom(32)
    wipe(made)
    assert made == bytes(32)
    wipe(b"")
    wipe(bytes([made[0] + 1]))
    assert bytes([1]) == b"\x01", "what all of Python shares is left alone"
