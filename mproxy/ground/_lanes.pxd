"""Four 64-bit numbers at once, one in each lane of a vector unit: what hashes of several inputs have in common.

C for the functions of modules that need it; those are for x86 with AVX2, unless `lanes_are_fast` is false everywhere.
"""


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    typedef uint64_t lanes __attribute__((vector_size(32)));
    typedef uint8_t lane_bytes __attribute__((vector_size(32)));
    /* Vector operations are lowered before functions are inlined: each needs to know what it may use. */
    #if defined(__x86_64__)
    #define FOR_LANES __attribute__((target("avx2")))
    #else
    #define FOR_LANES
    #endif
    #define INLINE FOR_LANES static inline __attribute__((always_inline))

    #define SAME(x) ((lanes){(x), (x), (x), (x)})
    #define BY_BYTES(x, ...) ((lanes)__builtin_shuffle((lane_bytes)(x), (lane_bytes){__VA_ARGS__}))

    /* Four words of four inputs, `stride` apart: from a row an input to a row a word. */
    INLINE void lanes_load(lanes *m, const uint8_t *data, uint64_t stride) {
        lanes a, b, c, d, e, f, g, h;
        memcpy(&a, data, 32);
        memcpy(&b, data + stride, 32);
        memcpy(&c, data + 2 * stride, 32);
        memcpy(&d, data + 3 * stride, 32);
        e = __builtin_shuffle(a, b, (lanes){0, 4, 2, 6});
        f = __builtin_shuffle(a, b, (lanes){1, 5, 3, 7});
        g = __builtin_shuffle(c, d, (lanes){0, 4, 2, 6});
        h = __builtin_shuffle(c, d, (lanes){1, 5, 3, 7});
        m[0] = __builtin_shuffle(e, g, (lanes){0, 1, 4, 5});
        m[1] = __builtin_shuffle(f, h, (lanes){0, 1, 4, 5});
        m[2] = __builtin_shuffle(e, g, (lanes){2, 3, 6, 7});
        m[3] = __builtin_shuffle(f, h, (lanes){2, 3, 6, 7});
    }

    static int lanes_are_fast(void) {
    #if defined(__x86_64__)
        return __builtin_cpu_supports("avx2") != 0;
    #else
        return 0;
    #endif
    }
    """
    int lanes_are_fast() noexcept nogil
