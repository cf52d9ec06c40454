"""Another implementation of TLS than ours, to talk to ours."""

import hmac
import ssl

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tests.keys import pem


class Stranger:
    """A TLS client that uses Python's ssl module; it writes its secrets to the file `key_log`."""

    def __init__(self, chain=None, newest=ssl.TLSVersion.TLSv1_3, key_log=None):
        rules = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        rules.check_hostname, rules.verify_mode = False, ssl.CERT_NONE
        rules.maximum_version = newest
        if chain:
            rules.load_cert_chain(chain)
        if key_log:
            rules.keylog_filename = str(key_log)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = rules.wrap_bio(self.incoming, self.outgoing)

    def meet(self, other):
        """Do the handshake with `other`, as far as it goes; returns what the server decrypted."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        other.receive(self.outgoing.read())
        self.incoming.write(other.take_out())
        self.tls.do_handshake()
        return other.receive(self.outgoing.read())

    def read(self, sealed):
        """Decrypts `sealed`."""
        self.incoming.write(sealed)
        data = b""
        while True:
            try:
                data += self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                return data


def chain_file(directory, certificates):
    """A file with key 1 and so many copies of its certificate."""
    file = directory / "chain.pem"
    start = pem(1).index(b"-----BEGIN CERT")
    file.write_bytes(pem(1) + pem(1)[start:] * (certificates - 1))
    return file


class RecordKey:
    """Seals any record with a traffic secret, as RFC 8446, sections 5.2, 5.3 and 7, has it."""

    def __init__(self, secret, cipher):
        self.secret, self.cipher = secret, cipher
        make, length = (AESGCM, 16) if "AES_128_GCM" in cipher else (ChaCha20Poly1305, 32)
        self.aead, self.iv = make(self.expand("key", length)), self.expand("iv", 12)
        self.number = 0

    def expand(self, label, length):
        """HKDF-Expand-Label."""
        label = b"tls13 " + label.encode()
        info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return hmac.digest(self.secret, info + b"\1", "sha256")[:length]

    def following(self):
        """The key after a key update."""
        return RecordKey(self.expand("traffic upd", 32), self.cipher)

    def seal(self, data, kind=23, padding=0, outer=b"\x17\3\3"):
        """The next record."""
        inner = data + bytes([kind]) + bytes(padding)
        header = outer + (len(inner) + 16).to_bytes(2, "big")
        nonce = (int.from_bytes(self.iv, "big") ^ self.number).to_bytes(12, "big")
        self.number += 1
        return header + self.aead.encrypt(nonce, inner, header)


def secret_in(key_log, label):
    """The latest secret of that name in the file."""
    lines = [line.split() for line in key_log.read_text().splitlines() if line.startswith(label)]
    return bytes.fromhex(lines[-1][2])
