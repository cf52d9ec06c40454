"""The ciphers of a Noise handshake: one message, with a key of its own. What flows afterwards is _seal's."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from libc.string cimport memset

from mproxy.ground._aead cimport (
    AEAD_NONCE_BYTES, AEAD_TAG_BYTES, Aead, AeadCipher, aead_agrees, aead_begin, aead_end, aead_key_bytes, aead_pass,
    aead_start, aead_tag, aead_take_key,
)


cdef int begin(Aead *aead, int cipher, bint sealing, bytes key, bytes nonce, bytes header) except -1:
    """Get ready for the message; `aead_end` has to follow even after an error."""
    memset(aead, 0, sizeof(Aead))
    assert <size_t>len(key) == aead_key_bytes(<AeadCipher>cipher) and len(nonce) == AEAD_NONCE_BYTES
    if not (aead_begin(aead, <AeadCipher>cipher, sealing) and aead_take_key(aead, <const uint8_t *><char *>key)
            and aead_start(aead, <const uint8_t *><char *>nonce, <const uint8_t *><char *>header, len(header))):
        raise MemoryError
    return 0


def seal_message(int cipher, bytes key, bytes nonce, bytes header, bytes plain):
    """`plain`, sealed, with its tag; `header` is authenticated, too. `cipher` is an AeadCipher."""
    cdef Aead aead
    cdef bytes out = PyBytes_FromStringAndSize(NULL, len(plain) + AEAD_TAG_BYTES)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(out)
    try:
        begin(&aead, cipher, True, key, nonce, header)
        if not (aead_pass(&aead, at, <const uint8_t *><char *>plain, len(plain))
                and aead_tag(&aead, at + len(plain))):
            raise MemoryError
    finally:
        aead_end(&aead)
    return out


def open_message(int cipher, bytes key, bytes nonce, bytes header, bytes sealed):
    """What was sealed; None if it is not authentic."""
    cdef Aead aead
    cdef Py_ssize_t length = len(sealed) - AEAD_TAG_BYTES
    cdef const uint8_t *data = <const uint8_t *><char *>sealed
    cdef bytes out
    if length < 0:
        return None
    out = PyBytes_FromStringAndSize(NULL, length)
    try:
        begin(&aead, cipher, False, key, nonce, header)
        if aead_pass(&aead, <uint8_t *>PyBytes_AS_STRING(out), data, length) and aead_agrees(&aead, data + length):
            return out
    finally:
        aead_end(&aead)
    return None
