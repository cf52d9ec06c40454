"""BLAKE2b of four leaves at once. How and why: _hash.pxd."""

from libc.stdint cimport uint8_t, uint64_t

from mproxy.ground._lanes cimport lanes_are_fast

cdef extern from *:
    r"""
    #include <endian.h>

    static const uint64_t blake_iv[8] = {
        0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
        0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

    #define ROT32(x) BY_BYTES(x, \
        4,5,6,7,0,1,2,3, 12,13,14,15,8,9,10,11, 20,21,22,23,16,17,18,19, 28,29,30,31,24,25,26,27)
    #define ROT24(x) BY_BYTES(x, \
        3,4,5,6,7,0,1,2, 11,12,13,14,15,8,9,10, 19,20,21,22,23,16,17,18, 27,28,29,30,31,24,25,26)
    #define ROT16(x) BY_BYTES(x, \
        2,3,4,5,6,7,0,1, 10,11,12,13,14,15,8,9, 18,19,20,21,22,23,16,17, 26,27,28,29,30,31,24,25)
    #define ROT63(x) (((x) >> 63) | ((x) + (x)))
    #define MIX(a, b, c, d, x, y) \
        a += b + m[x]; d = ROT32(d ^ a); c += d; b = ROT24(b ^ c); \
        a += b + m[y]; d = ROT16(d ^ a); c += d; b = ROT63(b ^ c);
    #define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf) \
        MIX(v0, v4, v8, vc, s0, s1) MIX(v1, v5, v9, vd, s2, s3) \
        MIX(v2, v6, va, ve, s4, s5) MIX(v3, v7, vb, vf, s6, s7) \
        MIX(v0, v5, va, vf, s8, s9) MIX(v1, v6, vb, vc, sa, sb) \
        MIX(v2, v7, v8, vd, sc, sd) MIX(v3, v4, v9, ve, se, sf)
    #define ROUNDS \
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3) \
        ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4) \
        ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8) \
        ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13) \
        ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9) \
        ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11) \
        ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10) \
        ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5) \
        ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0) \
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) \
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)

    /* `compress` takes 128 bytes of each of four leaves into their states; `four` takes all of them. */
    #define BLAKE_LANES(compress, four, TARGET) \
        TARGET static inline __attribute__((always_inline)) void compress( \
                lanes *h, const uint8_t *data, uint64_t stride, uint64_t count, lanes end, lanes last) { \
            lanes m[16]; \
            lanes v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7]; \
            lanes v8 = SAME(blake_iv[0]), v9 = SAME(blake_iv[1]), va = SAME(blake_iv[2]), vb = SAME(blake_iv[3]); \
            lanes vc = SAME(blake_iv[4] ^ count), vd = SAME(blake_iv[5]); \
            lanes ve = SAME(blake_iv[6]) ^ end, vf = SAME(blake_iv[7]) ^ last; \
            int word; \
            for (word = 0; word < 16; word += 4) \
                lanes_load(m + word, data + word * 8, stride); \
            ROUNDS \
            h[0] ^= v0 ^ v8; h[1] ^= v1 ^ v9; h[2] ^= v2 ^ va; h[3] ^= v3 ^ vb; \
            h[4] ^= v4 ^ vc; h[5] ^= v5 ^ vd; h[6] ^= v6 ^ ve; h[7] ^= v7 ^ vf; \
        } \
        TARGET static void four(const uint8_t *data, uint64_t size, uint64_t *state, int is_last) { \
            lanes h[8], none = SAME(0); \
            uint64_t done; \
            memcpy(h, state, sizeof h); \
            for (done = 0; done + 128 < size; done += 128) \
                compress(h, data + done, size, done + 128, none, none); \
            compress(h, data + done, size, size, SAME(~(uint64_t)0), \
                     (lanes){0, 0, 0, is_last ? ~(uint64_t)0 : 0}); \
            memcpy(state, h, sizeof h); \
        }

    BLAKE_LANES(blake_compress, blake_by_shuffling, FOR_LANES)

    #undef ROT32
    #undef ROT24
    #undef ROT16
    #undef ROT63
    #define ROT32(x) ((x) >> 32 | (x) << 32)
    #define ROT24(x) ((x) >> 24 | (x) << 40)
    #define ROT16(x) ((x) >> 16 | (x) << 48)
    #define ROT63(x) ((x) >> 63 | (x) << 1)

    /* With instructions that rotate, and 32 registers of this size. */
    #if defined(__x86_64__)
    BLAKE_LANES(blake_compress_512, blake_by_rotating, __attribute__((target("avx512vl"))))
    #endif

    static void blake_four(const uint8_t *data, uint64_t size, uint64_t *state, int is_last) {
    #if defined(__x86_64__)
        if (__builtin_cpu_supports("avx512vl"))
            blake_by_rotating(data, size, state, is_last);
        else
    #endif
            blake_by_shuffling(data, size, state, is_last);
    }

    /* The same for one node: its words are numbers. */
    static void blake_take(uint64_t *h, const uint8_t *data, uint64_t count, uint64_t end) {
        uint64_t m[16];
        uint64_t v0 = h[0], v1 = h[1], v2 = h[2], v3 = h[3], v4 = h[4], v5 = h[5], v6 = h[6], v7 = h[7];
        uint64_t v8 = blake_iv[0], v9 = blake_iv[1], va = blake_iv[2], vb = blake_iv[3];
        uint64_t vc = blake_iv[4] ^ count, vd = blake_iv[5], ve = blake_iv[6] ^ end, vf = blake_iv[7] ^ end;
        int word;
        memcpy(m, data, sizeof m);
        for (word = 0; word < 16; word++)
            m[word] = le64toh(m[word]);
        ROUNDS
        h[0] ^= v0 ^ v8; h[1] ^= v1 ^ v9; h[2] ^= v2 ^ va; h[3] ^= v3 ^ vb;
        h[4] ^= v4 ^ vc; h[5] ^= v5 ^ vd; h[6] ^= v6 ^ ve; h[7] ^= v7 ^ vf;
    }

    /* The only node of its level, which so is the last: its digest of 32 bytes. */
    static void blake_node(const uint8_t *data, uint64_t size, uint64_t first, uint64_t third, uint8_t *digest) {
        uint8_t rest[128] = {0};
        uint64_t h[8], done;
        memcpy(h, blake_iv, sizeof h);
        h[0] ^= first;
        h[2] ^= third;
        for (done = 0; size > 128 && done < size - 128; done += 128)
            blake_take(h, data + done, done + 128, 0);
        if (size > done)
            memcpy(rest, data + done, size - done);
        blake_take(h, rest, size, ~(uint64_t)0);
        for (done = 0; done < 4; done++)
            h[done] = htole64(h[done]);
        memcpy(digest, h, 32);
    }
    """
    # `data` is four leaves of `size` bytes (a multiple of 128, and not 0); `state` 8 words of four lanes; the fourth
    # leaf is the last of its level or none is. Only where lanes_are_fast.
    void blake_four(const uint8_t *data, uint64_t size, uint64_t *state, int is_last) noexcept nogil
    void blake_node(const uint8_t *data, uint64_t size, uint64_t first, uint64_t third, uint8_t *digest) noexcept nogil
    const uint64_t *blake_iv


is_fast = bool(lanes_are_fast())

cdef enum:
    LANES = 4
    WORDS = 8
    LEVELS = 3         # of the tree (transfer/tree)
    MOST_LEAF = 1 << 18  # bytes


cdef void root_of_leaf(const uint8_t *data, size_t size, uint8_t *digest) noexcept nogil:
    cdef uint64_t first = DIGEST_SIZE | LEVELS << 24 | <uint64_t>MOST_LEAF << 32
    cdef uint64_t level
    blake_node(data, size, first, DIGEST_SIZE << 8, digest)
    for level in range(1, <uint64_t>LEVELS):
        blake_node(digest, DIGEST_SIZE, first, level | DIGEST_SIZE << 8, digest)


def small_root(const uint8_t[::1] data not None):
    """The root of a file of one leaf, of at most 256 KiB: `root(leaf(data, 0, True))` of transfer/tree, in a third of
    the time."""
    cdef uint8_t digest[DIGEST_SIZE]
    cdef size_t size = <size_t>data.shape[0]
    if size > MOST_LEAF:
        raise ValueError("more than a leaf")
    if size > 4096:
        with nogil:
            root_of_leaf(&data[0], size, digest)
    else:
        root_of_leaf(&data[0] if size else digest, size, digest)
    return (<char *>digest)[:DIGEST_SIZE]


def four_leaves(const uint8_t[::1] data not None, tuple parameters, uint64_t offset, bint is_last):
    """The 32-byte digests of the four quarters of `data`, joined, as hashlib.blake2b makes them with `parameters`.

    Those are (digest bytes, fanout, depth, leaf bytes, node depth, inner bytes); the node offsets count from `offset`;
    `is_last`: the fourth leaf is the last of its level. A quarter is a multiple of 128 bytes and not empty, else
    ValueError. Only where `is_fast`. Releases the GIL.
    """
    cdef uint64_t state[WORDS * LANES]
    cdef uint64_t digest_bytes, fanout, depth, leaf_bytes, node_depth, inner_bytes
    cdef uint64_t size = <uint64_t>data.shape[0] // LANES
    cdef int word, lane
    if size == 0 or data.shape[0] % (128 * LANES) or not is_fast:
        raise ValueError("four leaves need four equal quarters of whole blocks, and AVX2")
    digest_bytes, fanout, depth, leaf_bytes, node_depth, inner_bytes = parameters
    for lane in range(LANES):
        for word in range(WORDS):
            state[word * LANES + lane] = blake_iv[word]
        state[lane] ^= digest_bytes | fanout << 16 | depth << 24 | leaf_bytes << 32
        state[LANES + lane] ^= offset + <uint64_t>lane
        state[2 * LANES + lane] ^= node_depth | inner_bytes << 8
    with nogil:
        blake_four(&data[0], size, state, is_last)
    return b"".join([_digest(state, lane, <int>digest_bytes) for lane in range(LANES)])


cdef bytes _digest(const uint64_t *state, int lane, int length):
    """One lane's state as bytes: words of little-endian order."""
    cdef uint64_t words[WORDS]
    cdef int word
    for word in range(WORDS):
        words[word] = state[word * LANES + lane]
    return (<char *>words)[:length]
