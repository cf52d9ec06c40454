"""Stores in an order that holds when the process is killed between any two instructions.

What one thread has stored when it is killed is what its instructions up to there store, in their order; only the
compiler could change that order, or split a store or join two. Where another process may go on with the memory, the
order is therefore said.
"""

from libc.stdint cimport uint32_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* The compiler moves no load or store across it. No instruction. */
    #define stores_done() __atomic_signal_fence(__ATOMIC_SEQ_CST)

    /* One store that nothing splits. */
    #define store_whole(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)

    /* Two neighbours in one store; `at` is aligned for it. */
    static inline void store_pair(uint32_t *at, uint32_t first, uint32_t second)
    {
        uint32_t pair[2] = {first, second};
    #if __GCC_ATOMIC_LLONG_LOCK_FREE == 2
        uint64_t both;
        memcpy(&both, pair, sizeof both);
        __atomic_store_n((uint64_t *)at, both, __ATOMIC_RELAXED);
    #else
        memcpy(at, pair, sizeof pair);
    #endif
    }
    """
    void stores_done() noexcept nogil
    void store_whole(uint32_t *at, uint32_t value) noexcept nogil
    void store_pair(uint32_t *at, uint32_t first, uint32_t second) noexcept nogil
