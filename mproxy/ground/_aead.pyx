"""Authenticated ciphers from two libraries. Why, and the order of calls: _aead.pxd."""

from libc.stdlib cimport free

from mproxy.ground._evp cimport (
    CRYPTO_memcmp, EVP_CIPHER, EVP_CIPHER_CTX_ctrl, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new, EVP_CTRL_AEAD_GET_TAG,
    EVP_CTRL_AEAD_SET_TAG, EVP_CipherFinal_ex, EVP_CipherInit_ex, EVP_CipherUpdate, EVP_aes_128_gcm, EVP_aes_256_gcm,
    EVP_chacha20_poly1305, OPENSSL_cleanse,
)

# The other library is looked for at compile time (setup.py), because its calls are macros. Without it `gcm_new` returns
# NULL, and the rest is never called.
cdef extern from *:
    """
    #ifdef MPROXY_IPSEC_MB
    #include <intel-ipsec-mb.h>
    #include <stdlib.h>

    typedef struct {
        struct gcm_key_data key;
        struct gcm_context_data message;
    } Gcm;

    static IMB_MGR *gcm_library;

    static int gcm_find_library(void) {
        IMB_ARCH found = IMB_ARCH_NONE;
        if (gcm_library != NULL)
            return 1;
        gcm_library = alloc_mb_mgr(0);
        if (gcm_library == NULL)
            return 0;
        init_mb_mgr_auto(gcm_library, &found);
        /* It can do without AES instructions, by tables whose timing tells about the key. */
        if (imb_get_errno(gcm_library) == 0 && found >= IMB_ARCH_SSE)
            return 1;
        free_mb_mgr(gcm_library);
        gcm_library = NULL;
        return 0;
    }

    static void *gcm_new(void) {
        void *memory = NULL;  /* the key's tables are read in whole lines of the cache */
        return posix_memalign(&memory, 64, sizeof(Gcm)) == 0 ? memory : NULL;
    }

    static void gcm_take_key(Gcm *self, int wide, const uint8_t *key) {
        if (wide) IMB_AES256_GCM_PRE(gcm_library, key, &self->key);
        else IMB_AES128_GCM_PRE(gcm_library, key, &self->key);
    }

    static void gcm_start(Gcm *self, int wide, const uint8_t *nonce, const uint8_t *header, size_t length) {
        if (wide) IMB_AES256_GCM_INIT(gcm_library, &self->key, &self->message, nonce, header, length);
        else IMB_AES128_GCM_INIT(gcm_library, &self->key, &self->message, nonce, header, length);
    }

    static void gcm_pass(Gcm *self, int wide, int sealing, uint8_t *out, const uint8_t *data, size_t length) {
        if (wide && sealing) IMB_AES256_GCM_ENC_UPDATE(gcm_library, &self->key, &self->message, out, data, length);
        else if (wide) IMB_AES256_GCM_DEC_UPDATE(gcm_library, &self->key, &self->message, out, data, length);
        else if (sealing) IMB_AES128_GCM_ENC_UPDATE(gcm_library, &self->key, &self->message, out, data, length);
        else IMB_AES128_GCM_DEC_UPDATE(gcm_library, &self->key, &self->message, out, data, length);
    }

    static void gcm_finish(Gcm *self, int wide, int sealing, uint8_t *tag) {
        if (wide && sealing) IMB_AES256_GCM_ENC_FINALIZE(gcm_library, &self->key, &self->message, tag, 16);
        else if (wide) IMB_AES256_GCM_DEC_FINALIZE(gcm_library, &self->key, &self->message, tag, 16);
        else if (sealing) IMB_AES128_GCM_ENC_FINALIZE(gcm_library, &self->key, &self->message, tag, 16);
        else IMB_AES128_GCM_DEC_FINALIZE(gcm_library, &self->key, &self->message, tag, 16);
    }
    #else
    #include <stdlib.h>
    typedef struct { char nothing; } Gcm;
    #define gcm_find_library() 0
    #define gcm_new() NULL
    #define gcm_take_key(...) abort()
    #define gcm_start(...) abort()
    #define gcm_pass(...) abort()
    #define gcm_finish(...) abort()
    #endif
    """
    bint gcm_find_library() nogil
    ctypedef struct Gcm:
        pass
    void *gcm_new() nogil
    void gcm_take_key(void *self, bint wide, const uint8_t *key) nogil
    void gcm_start(void *self, bint wide, const uint8_t *nonce, const uint8_t *header, size_t length) nogil
    void gcm_pass(void *self, bint wide, bint sealing, uint8_t *out, const uint8_t *data, size_t length) nogil
    void gcm_finish(void *self, bint wide, bint sealing, uint8_t *tag) nogil

cdef bint gcm_is_there = False
cdef bint gcm_was_sought = False


def use_multi_buffer(bint wanted):
    """Set whether keys made from now on are to be the other library's; returns whether they are."""
    global gcm_is_there, gcm_was_sought
    gcm_is_there = wanted and gcm_find_library()
    gcm_was_sought = True
    return gcm_is_there


cdef bint find_once() noexcept nogil:
    """Look for the other library when the first key is made: that takes a millisecond, which plaintext need not pay."""
    if not gcm_was_sought:
        with gil:
            use_multi_buffer(True)
    return gcm_is_there


# ---- keys

cdef size_t aead_key_bytes(AeadCipher cipher) noexcept nogil:
    return 16 if cipher == AES_128_GCM else 32


cdef bint aead_begin(Aead *self, AeadCipher cipher, bint sealing) noexcept nogil:
    """Allocate what the cipher needs in a zeroed Aead; false when there is no memory. `aead_end` frees it."""
    self.cipher = cipher
    self.sealing = sealing
    if cipher != CHACHA20_POLY1305 and find_once():
        self.gcm = gcm_new()
    if self.gcm == NULL:
        self.context = EVP_CIPHER_CTX_new()
    return self.gcm != NULL or self.context != NULL


cdef bint aead_take_key(Aead *self, const uint8_t *key) noexcept nogil:
    """Work with this key of `aead_key_bytes` from here on."""
    cdef const EVP_CIPHER *algorithm
    if self.gcm != NULL:
        gcm_take_key(self.gcm, self.cipher == AES_256_GCM, key)
        return True
    if self.cipher == CHACHA20_POLY1305:
        algorithm = EVP_chacha20_poly1305()
    else:
        algorithm = EVP_aes_256_gcm() if self.cipher == AES_256_GCM else EVP_aes_128_gcm()
    return EVP_CipherInit_ex(self.context, algorithm, NULL, key, NULL, self.sealing) == 1


cdef void aead_end(Aead *self) noexcept nogil:
    """Wipe and free the key. Does nothing to an Aead that is all zero."""
    EVP_CIPHER_CTX_free(self.context)
    if self.gcm != NULL:
        OPENSSL_cleanse(self.gcm, sizeof(Gcm))
        free(self.gcm)
    self.context = NULL
    self.gcm = NULL


# ---- messages

cdef bint aead_start(Aead *self, const uint8_t *nonce, const uint8_t *header, size_t header_bytes) noexcept nogil:
    """Begin a message with its own nonce; `header` is authenticated, too. False, here and below: libcrypto failed."""
    cdef int n
    if self.gcm != NULL:
        gcm_start(self.gcm, self.cipher == AES_256_GCM, nonce, header, header_bytes)
        return True
    return (EVP_CipherInit_ex(self.context, NULL, NULL, NULL, nonce, -1) == 1
            and (header_bytes == 0 or EVP_CipherUpdate(self.context, NULL, &n, header, <int>header_bytes) == 1))


cdef bint aead_pass(Aead *self, uint8_t *out, const uint8_t *data, size_t length) noexcept nogil:
    """Encrypt or decrypt the next `length` bytes of the message, at most 2 GiB, into `out`, which is `data` itself or
    does not overlap it."""
    cdef int n
    if length == 0:
        return True
    if self.gcm != NULL:
        gcm_pass(self.gcm, self.cipher == AES_256_GCM, self.sealing, out, data, length)
        return True
    return EVP_CipherUpdate(self.context, out, &n, data, <int>length) == 1


cdef bint aead_tag(Aead *self, uint8_t *tag) noexcept nogil:
    """End a sealed message and give its tag."""
    cdef int n
    if self.gcm != NULL:
        gcm_finish(self.gcm, self.cipher == AES_256_GCM, True, tag)
        return True
    return (EVP_CipherFinal_ex(self.context, tag, &n) == 1
            and EVP_CIPHER_CTX_ctrl(self.context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, tag) == 1)


cdef bint aead_agrees(Aead *self, const uint8_t *tag) noexcept nogil:
    """End an opened message: whether its tag shows that it is authentic."""
    cdef uint8_t own[16]
    cdef int n
    if self.gcm != NULL:
        gcm_finish(self.gcm, self.cipher == AES_256_GCM, False, own)
        return CRYPTO_memcmp(own, tag, AEAD_TAG_BYTES) == 0
    return (EVP_CIPHER_CTX_ctrl(self.context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, <void *>tag) == 1
            and EVP_CipherFinal_ex(self.context, own, &n) == 1)
