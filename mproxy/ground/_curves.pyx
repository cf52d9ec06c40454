"""Curve25519 by libcrypto: Ed25519 keys and signatures (RFC 8032), X25519 keys and what two agree on (RFC 7748).

A private key of either kind is any 32 random bytes; keys, secrets and signatures are the bytes of the RFCs.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    ctypedef struct EVP_PKEY_CTX:
        pass
    ctypedef struct EVP_MD_CTX:
        pass
    int EVP_PKEY_ED25519, EVP_PKEY_X25519
    EVP_PKEY *EVP_PKEY_new_raw_private_key(int kind, void *engine, const uint8_t *key, size_t length)
    EVP_PKEY *EVP_PKEY_new_raw_public_key(int kind, void *engine, const uint8_t *key, size_t length)
    int EVP_PKEY_get_raw_public_key(const EVP_PKEY *key, uint8_t *out, size_t *length)
    void EVP_PKEY_free(EVP_PKEY *key)
    EVP_PKEY_CTX *EVP_PKEY_CTX_new(EVP_PKEY *key, void *engine)
    void EVP_PKEY_CTX_free(EVP_PKEY_CTX *context)
    int EVP_PKEY_derive_init(EVP_PKEY_CTX *context)
    int EVP_PKEY_derive_set_peer(EVP_PKEY_CTX *context, EVP_PKEY *peer)
    int EVP_PKEY_derive(EVP_PKEY_CTX *context, uint8_t *out, size_t *length)
    EVP_MD_CTX *EVP_MD_CTX_new()
    void EVP_MD_CTX_free(EVP_MD_CTX *context)
    int EVP_DigestSignInit(EVP_MD_CTX *context, EVP_PKEY_CTX **, const void *hash, void *engine, EVP_PKEY *key)
    int EVP_DigestSign(EVP_MD_CTX *context, uint8_t *out, size_t *length, const uint8_t *data, size_t data_length)
    int EVP_DigestVerifyInit(EVP_MD_CTX *context, EVP_PKEY_CTX **, const void *hash, void *engine, EVP_PKEY *key)
    int EVP_DigestVerify(EVP_MD_CTX *context, const uint8_t *signature, size_t length, const uint8_t *data,
                         size_t data_length)

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error()


cdef enum:
    KEY_BYTES = 32
    SIGNATURE_BYTES = 64


cdef const uint8_t *key_bytes(key) except NULL:
    """Where the bytes of a key are: in bytes, or in a bytearray, which can be wiped. ValueError: not as many as a key
    has."""
    if len(key) != KEY_BYTES:
        raise ValueError("a key has 32 bytes")
    return <const uint8_t *>(PyByteArray_AS_STRING(key) if isinstance(key, bytearray)
                             else PyBytes_AS_STRING(<bytes?>key))


cdef EVP_PKEY *private_key(int kind, key) except NULL:
    """libcrypto's form of a private key, to be freed by the caller."""
    cdef EVP_PKEY *made = EVP_PKEY_new_raw_private_key(kind, NULL, key_bytes(key), KEY_BYTES)
    if made == NULL:
        raise MemoryError
    return made


cdef bytes public_of(int kind, key, EVP_PKEY **kept=NULL):
    """The public key of a private one, whose libcrypto's form is `kept` for the caller to free."""
    cdef EVP_PKEY *private = private_key(kind, key)
    cdef bytes public = PyBytes_FromStringAndSize(NULL, KEY_BYTES)
    cdef size_t length = KEY_BYTES
    cdef bint right = EVP_PKEY_get_raw_public_key(private, <uint8_t *>PyBytes_AS_STRING(public), &length) == 1
    if kept != NULL:
        kept[0] = private
    else:
        EVP_PKEY_free(private)
    if not right:
        raise MemoryError
    return public


def ed25519_public_of(seed):
    """The public key of an Ed25519 private key, which is 32 bytes; ValueError if it is not."""
    return public_of(EVP_PKEY_ED25519, seed)


def ed25519_sign(seed, bytes data):
    """The signature of `data`: 64 bytes. ValueError if `seed` is not a key."""
    cdef EVP_PKEY *key = private_key(EVP_PKEY_ED25519, seed)
    cdef EVP_MD_CTX *context = EVP_MD_CTX_new()
    cdef bytes signature = PyBytes_FromStringAndSize(NULL, SIGNATURE_BYTES)
    cdef size_t length = SIGNATURE_BYTES
    cdef bint right = (
        context != NULL and EVP_DigestSignInit(context, NULL, NULL, NULL, key) == 1
        and EVP_DigestSign(context, <uint8_t *>PyBytes_AS_STRING(signature), &length,
                           <const uint8_t *>PyBytes_AS_STRING(data), <size_t>len(data)) == 1)
    EVP_MD_CTX_free(context)
    EVP_PKEY_free(key)
    if not right:
        raise MemoryError
    return signature


def ed25519_verify(public, bytes signature, bytes data):
    """Whether `signature` is that of `data` with the private key of `public`, which is 32 bytes. ValueError if that is
    not a key."""
    cdef EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key_bytes(public), KEY_BYTES)
    cdef EVP_MD_CTX *context = EVP_MD_CTX_new()
    cdef bint right = (
        key != NULL and context != NULL and EVP_DigestVerifyInit(context, NULL, NULL, NULL, key) == 1
        and EVP_DigestVerify(context, <const uint8_t *>PyBytes_AS_STRING(signature), <size_t>len(signature),
                             <const uint8_t *>PyBytes_AS_STRING(data), <size_t>len(data)) == 1)
    EVP_MD_CTX_free(context)
    EVP_PKEY_free(key)
    if not right:
        ERR_clear_error()
    return right


cdef class X25519Key:
    """An X25519 private key that is used more than once: libcrypto's form of it costs as much as an agreement."""

    cdef EVP_PKEY *key
    cdef readonly bytes public  # 32 bytes

    def __init__(self, private):
        """ValueError if it does not have 32 bytes."""
        self.public = public_of(EVP_PKEY_X25519, private, &self.key)

    def __dealloc__(self):
        EVP_PKEY_free(self.key)

    def agree(self, public):
        """What both sides of an exchange arrive at: 32 bytes. ValueError if `public` is not a key, or is one of low
        order, so that anybody would arrive at the same."""
        cdef EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, key_bytes(public), KEY_BYTES)
        cdef EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(self.key, NULL)
        cdef bytes secret = PyBytes_FromStringAndSize(NULL, KEY_BYTES)
        cdef size_t length = KEY_BYTES
        cdef bint right
        right = (theirs != NULL and context != NULL and EVP_PKEY_derive_init(context) == 1
                 and EVP_PKEY_derive_set_peer(context, theirs) == 1
                 and EVP_PKEY_derive(context, <uint8_t *>PyBytes_AS_STRING(secret), &length) == 1)
        EVP_PKEY_CTX_free(context)
        EVP_PKEY_free(theirs)
        if not right:
            ERR_clear_error()
            raise ValueError("the public key is not usable")
        return secret
