# distutils: libraries = crypto
"""Sealing of packets. Why nonces are fresh and keys do not wear out: _seal.pxd."""

import hmac

from libc.string cimport memcpy, memset

from mproxy.ground._aead cimport (
    AES_256_GCM, CHACHA20_POLY1305, AeadCipher, aead_agrees, aead_begin, aead_end, aead_pass, aead_start, aead_tag,
    aead_take_key,
)
from mproxy.ground._evp cimport OPENSSL_cleanse


cdef class PacketKey:
    """The key of one direction. `first` is the number of that direction's first packet; `veils`: its packets have a
    veil, and its ids change (_veil, _ids)."""

    def __init__(self, bytes key, int cipher, uint64_t first, bint sealing, bint veils=False):
        cdef int i
        if len(key) != KEY_BYTES or cipher not in (AESGCM, CHACHAPOLY):
            raise ValueError("no such cipher, or a key of another length")
        self.veil_key = hmac.digest(key, b"mproxy veil", "sha256") if veils else b""
        self.ids_key = hmac.digest(key, b"mproxy ids", "sha256")[:16]
        self.state.cipher = cipher
        self.state.sealing = sealing
        self.state.first = self.state.next_number = first
        for i in range(GENERATIONS):
            self.state.generations[i].number = -1
        if not set_key(&self.state, 0, key):
            raise MemoryError

    def __dealloc__(self):
        cdef int i
        for i in range(GENERATIONS):
            aead_end(&self.state.generations[i].aead)
            OPENSSL_cleanse(self.state.generations[i].key, KEY_BYTES)

    @property
    def failed(self):
        """Packets that were not authentic."""
        return self.state.failed

    cdef void fill(self, Seal *out) noexcept:
        """Describe this key to the engine, which borrows it."""
        out.seal = seal_packet
        out.open = open_packet
        out.context = &self.state
        out.trailer_bytes = TAG_BYTES
        out.veils = bool(self.veil_key)
        if out.veils:
            memcpy(out.veil_key, <const char *>self.veil_key, sizeof(out.veil_key))


cdef inline AeadCipher algorithm(int cipher) noexcept nogil:
    return AES_256_GCM if cipher == AESGCM else CHACHA20_POLY1305


cdef inline void make_nonce(int cipher, uint64_t number, uint8_t *nonce) noexcept nogil:
    """Noise specification section 12: 4 zero bytes, then the number: AESGCM big-endian, ChaChaPoly little-endian."""
    cdef int i
    memset(nonce, 0, 4)
    for i in range(8):
        nonce[4 + i] = <uint8_t>(number >> (56 - 8 * i if cipher == AESGCM else 8 * i))


cdef Generation *generation_of(KeyState *key, uint64_t number) noexcept nogil:
    """The key for a packet; NULL when it is too old, absurdly new, or before the first, or there is no memory."""
    cdef Generation *found
    cdef int64_t wanted
    if number < key.first:
        return NULL
    wanted = <int64_t>((number - key.first) >> KEY_PACKETS_LOG)
    if wanted > key.current + 1 or wanted < key.current - 1:
        return NULL
    found = &key.generations[wanted % GENERATIONS]
    if found.number != wanted and (wanted <= key.current or not derive(key, wanted)):
        return NULL
    return found


cdef bint derive(KeyState *state, int64_t number) noexcept nogil:
    """Derive generation `number` from the one before by Noise's REKEY(), and put it in its place."""
    cdef Generation *before = &state.generations[(number - 1) % GENERATIONS]
    cdef uint8_t nonce[12]
    cdef uint8_t nothing[32]
    cdef uint8_t key[32]
    cdef Aead aead
    cdef bint done
    memset(&aead, 0, sizeof(aead))
    memset(nothing, 0, KEY_BYTES)
    make_nonce(state.cipher, <uint64_t>-1, nonce)
    done = (aead_begin(&aead, algorithm(state.cipher), True) and aead_take_key(&aead, before.key)
            and aead_start(&aead, nonce, NULL, 0) and aead_pass(&aead, key, nothing, KEY_BYTES)
            and set_key(state, number, key))
    aead_end(&aead)
    OPENSSL_cleanse(key, sizeof(key))
    return done


cdef bint set_key(KeyState *state, int64_t number, const uint8_t *key) noexcept nogil:
    cdef Generation *generation = &state.generations[number % GENERATIONS]
    cdef Aead *aead = &generation.aead
    if aead.context == NULL and aead.gcm == NULL and not aead_begin(aead, algorithm(state.cipher), state.sealing):
        return False
    if not aead_take_key(aead, key):
        return False
    memcpy(generation.key, key, KEY_BYTES)
    generation.number = number
    return True


cdef inline bint begin(KeyState *key, Generation *generation, uint64_t number, const uint8_t *header,
                       uint32_t header_bytes) noexcept nogil:
    cdef uint8_t nonce[12]
    make_nonce(key.cipher, number, nonce)
    return aead_start(&generation.aead, nonce, header, header_bytes)


cdef int seal_packet(void *context, uint64_t number, const uint8_t *header, uint32_t header_bytes,
                     const iovec *parts, int count, uint8_t *out) noexcept nogil:
    """See Seal.seal."""
    cdef KeyState *key = <KeyState *>context
    cdef Generation *generation
    cdef int i
    if number < key.next_number:
        return -1
    key.next_number = number + 1
    generation = generation_of(key, number)
    if generation == NULL:
        return -1
    key.current = generation.number
    if not begin(key, generation, number, header, header_bytes):
        return -1
    for i in range(count):
        if not aead_pass(&generation.aead, out, <uint8_t *>parts[i].iov_base, parts[i].iov_len):
            return -1
        out += parts[i].iov_len
    return 0 if aead_tag(&generation.aead, out) else -1


cdef int open_packet(void *context, uint64_t number, const uint8_t *header, uint32_t header_bytes,
                     const uint8_t *data, uint32_t length, const iovec *parts, int count) noexcept nogil:
    """See Seal.open."""
    cdef KeyState *key = <KeyState *>context
    cdef Generation *generation = generation_of(key, number)
    cdef int i
    if generation == NULL or length < TAG_BYTES or not begin(key, generation, number, header, header_bytes):
        key.failed += 1
        return -1
    for i in range(count):
        if not aead_pass(&generation.aead, <uint8_t *>parts[i].iov_base, data, parts[i].iov_len):
            key.failed += 1
            return -1
        data += parts[i].iov_len
    if not aead_agrees(&generation.aead, data):
        key.failed += 1
        return -1
    if generation.number > key.current:
        key.current = generation.number
    return 0
