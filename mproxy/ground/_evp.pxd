"""What mproxy uses of libcrypto's authenticated ciphers (its manual pages are the reference)."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t


cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_CIPHER:
        pass
    ctypedef struct EVP_CIPHER_CTX:
        pass
    ctypedef struct EVP_MD:
        pass
    int EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG
    const EVP_CIPHER *EVP_aes_128_gcm()
    const EVP_CIPHER *EVP_aes_256_gcm()
    const EVP_CIPHER *EVP_chacha20_poly1305()
    const EVP_MD *EVP_sha256()
    EVP_CIPHER_CTX *EVP_CIPHER_CTX_new()
    void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *context)
    int EVP_CipherInit_ex(EVP_CIPHER_CTX *context, const EVP_CIPHER *cipher, void *engine, const uint8_t *key,
                          const uint8_t *nonce, int encrypt)
    int EVP_CipherUpdate(EVP_CIPHER_CTX *context, uint8_t *out, int *out_length, const uint8_t *data, int length)
    int EVP_CipherFinal_ex(EVP_CIPHER_CTX *context, uint8_t *out, int *out_length)
    int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *context, int what, int length, void *data)

cdef extern from "<openssl/hmac.h>" nogil:
    unsigned char *HMAC(const EVP_MD *hash, const void *key, int key_length, const uint8_t *data, size_t length,
                        uint8_t *out, unsigned int *out_length)

cdef extern from "<openssl/crypto.h>" nogil:
    void OPENSSL_cleanse(void *memory, size_t length)
    int CRYPTO_memcmp(const void *a, const void *b, size_t length)
