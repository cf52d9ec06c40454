"""Records of TLS 1.3. Why they are ours: _records.pxd."""

from libc.string cimport memcpy, memset

from mproxy.ground._aead cimport (
    AEAD_TAG_BYTES, AES_128_GCM, CHACHA20_POLY1305, aead_agrees, aead_begin, aead_end, aead_key_bytes, aead_pass,
    aead_start, aead_tag, aead_take_key,
)
from mproxy.ground._evp cimport HMAC, EVP_sha256, OPENSSL_cleanse


cdef enum:
    MAX_LABEL_BYTES = 11


# ---- keys

cdef bint direction_begin(Direction *self, bint chacha, const uint8_t *secret, bint sealing) noexcept nogil:
    """Take the traffic secret of one direction; false when there is no memory. Numbers begin at 0."""
    memcpy(self.secret, secret, SECRET_BYTES)
    return aead_begin(&self.aead, CHACHA20_POLY1305 if chacha else AES_128_GCM, sealing) and use_secret(self)


cdef bint direction_update(Direction *self) noexcept nogil:
    """Go on with the next secret (section 7.2); numbers begin anew. Nothing leads back to the former one."""
    cdef uint8_t following[32]
    cdef bint done = expand(self.secret, b"traffic upd", following, SECRET_BYTES)
    memcpy(self.secret, following, SECRET_BYTES)
    OPENSSL_cleanse(following, sizeof(following))
    return done and use_secret(self)


cdef void direction_end(Direction *self) noexcept nogil:
    """Forget the keys."""
    aead_end(&self.aead)
    OPENSSL_cleanse(self, sizeof(self[0]))


cdef bint use_secret(Direction *self) noexcept nogil:
    """Key and iv of the secret (section 7.3)."""
    cdef uint8_t key[32]
    cdef bint done = (expand(self.secret, b"key", key, aead_key_bytes(self.aead.cipher))
                      and expand(self.secret, b"iv", self.iv, sizeof(self.iv)) and aead_take_key(&self.aead, key))
    OPENSSL_cleanse(key, sizeof(key))
    self.number = 0
    return done


cdef bint expand(const uint8_t *secret, const char *label, uint8_t *out, size_t length) noexcept nogil:
    """HKDF-Expand-Label (section 7.1) without context, for up to a hash's length: then it is one HMAC (RFC 5869)."""
    cdef uint8_t info[32]
    cdef uint8_t hashed[32]
    cdef uint8_t named = 0
    while label[named]:
        named += 1
    if named > MAX_LABEL_BYTES or length > sizeof(hashed):
        return False
    memset(info, 0, sizeof(info))
    info[1] = <uint8_t>length
    info[2] = 6 + named
    memcpy(info + 3, b"tls13 ", 6)
    memcpy(info + 9, label, named)
    info[10 + named] = 1  # after the context's length, which is 0: the number of HKDF's block
    if HMAC(EVP_sha256(), secret, SECRET_BYTES, info, 11 + named, hashed, NULL) == NULL:
        return False
    memcpy(out, hashed, length)
    OPENSSL_cleanse(hashed, sizeof(hashed))
    return True


# ---- records

cdef inline bint begin(Direction *self, const uint8_t *header) noexcept nogil:
    """The nonce of the next record (section 5.3), and its header as additional authenticated data."""
    cdef uint8_t nonce[12]
    cdef int i
    memcpy(nonce, self.iv, sizeof(nonce))
    for i in range(8):
        nonce[4 + i] ^= <uint8_t>(self.number >> (56 - 8 * i))
    self.number += 1
    return aead_start(&self.aead, nonce, header, RECORD_HEADER_BYTES)


cdef size_t record_seal(Direction *self, int type, iovec *parts, int count, uint8_t *out) noexcept nogil:
    """Seal one record with as much of the parts as it may hold, and advance them past it.

    Returns the record's length, SEAL_BYTES more than it holds, or 0 if the cipher fails. `out` has room for it.
    """
    cdef uint8_t true_type = <uint8_t>type
    cdef uint8_t *at = out + RECORD_HEADER_BYTES
    cdef size_t length = 0, part
    cdef int i
    for i in range(count):
        length += parts[i].iov_len
        if length >= RECORD_BYTES:
            length = RECORD_BYTES
            break
    out[0] = RecordType.DATA
    out[1] = out[2] = 3
    out[3] = <uint8_t>((length + 1 + AEAD_TAG_BYTES) >> 8)
    out[4] = <uint8_t>(length + 1 + AEAD_TAG_BYTES)
    if not begin(self, out):
        return 0
    for i in range(count):
        part = min(parts[i].iov_len, length)
        if not aead_pass(&self.aead, at, <uint8_t *>parts[i].iov_base, part):
            return 0
        parts[i].iov_base = <uint8_t *>parts[i].iov_base + part
        parts[i].iov_len -= part
        at += part
        length -= part
        if length == 0:
            break
    if not (aead_pass(&self.aead, at, &true_type, 1) and aead_tag(&self.aead, at + 1)):
        return 0
    return <size_t>(at + 1 + AEAD_TAG_BYTES - out)


cdef size_t record_length(const uint8_t *data, size_t length) noexcept nogil:
    """The length of the record that begins here; RECORD_HEADER_BYTES while its header is not complete.

    0: not a record that may come after the handshake, or too long or too short.
    """
    cdef size_t sealed
    if length < RECORD_HEADER_BYTES:
        return RECORD_HEADER_BYTES
    sealed = (<size_t>data[3] << 8) + data[4] + RECORD_HEADER_BYTES
    if data[0] != RecordType.DATA or data[1] != 3 or data[2] != 3 or not SEAL_BYTES <= sealed <= MAX_SEALED_BYTES:
        return 0
    return sealed


cdef long record_open(Direction *self, const uint8_t *record, size_t length, uint8_t *out, int *type) noexcept nogil:
    """Open a whole record and tell its true type; returns the number of plain bytes at `out`, or -1: not authentic.

    `out` has room for `length` bytes and does not overlap the record. After -1 what is there means nothing.
    """
    cdef int sealed = <int>length - RECORD_HEADER_BYTES - AEAD_TAG_BYTES
    cdef const uint8_t *data = record + RECORD_HEADER_BYTES
    if not (begin(self, record) and aead_pass(&self.aead, out, data, sealed)
            and aead_agrees(&self.aead, data + sealed)):
        return -1
    while sealed > 0 and out[sealed - 1] == 0:
        sealed -= 1  # padding (section 5.4)
    if sealed == 0 or sealed - 1 > RECORD_BYTES:
        return -1
    type[0] = out[sealed - 1]
    return sealed - 1
