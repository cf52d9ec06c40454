"""Authenticated ciphers (RFC 5116): one key, and the messages sealed or opened with it one after the other.

AES-GCM is computed by Intel's Multi-Buffer Crypto library if mproxy was built with it and the processor has AES
instructions: with wide ones (VAES) it takes a third of the time of libcrypto 3.0, which computes everything else. Both
give the same bytes, so a peer cannot tell. A message is passed in parts: aead_start, aead_pass for each part, and then
aead_tag when sealing, aead_agrees when opening. What aead_pass gave must not be used before aead_agrees.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from mproxy.ground._evp cimport EVP_CIPHER_CTX


cdef enum:
    AEAD_TAG_BYTES = 16
    AEAD_NONCE_BYTES = 12


cpdef enum AeadCipher:
    AES_128_GCM = 1
    AES_256_GCM = 2
    CHACHA20_POLY1305 = 3


cdef struct Aead:
    EVP_CIPHER_CTX *context   # libcrypto's cipher and key; NULL: the key is in `gcm`, or there is none yet
    void *gcm                 # the other library's key and current message; NULL: libcrypto computes
    AeadCipher cipher         # the algorithm
    bint sealing              # or opening


cdef size_t aead_key_bytes(AeadCipher cipher) noexcept nogil
cdef bint aead_begin(Aead *self, AeadCipher cipher, bint sealing) noexcept nogil
cdef bint aead_take_key(Aead *self, const uint8_t *key) noexcept nogil
cdef void aead_end(Aead *self) noexcept nogil
cdef bint aead_start(Aead *self, const uint8_t *nonce, const uint8_t *header, size_t header_bytes) noexcept nogil
cdef bint aead_pass(Aead *self, uint8_t *out, const uint8_t *data, size_t length) noexcept nogil
cdef bint aead_tag(Aead *self, uint8_t *tag) noexcept nogil
cdef bint aead_agrees(Aead *self, const uint8_t *tag) noexcept nogil
